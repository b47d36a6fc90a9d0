"""
The world that the documents' commands run in: a host with two containers behind a bridge, a
neighbour on the network, traffic between them all, and the servers that the text names.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from exporter.errors import ExporterError
from exporter.status import ask
from tests.documents import ROOT
from tests.e2e.agent import PROGRAM
from tests.e2e.broker import Broker
from tests.e2e.collector import Collector
from tests.e2e.net import End, Netns, Network, plug, switch_on
from tests.e2e.otelcol import Listener, Otelcol
from tests.patience import wait_until
from tests.servers import Server

#: Address and device of each: the host's own, then the others' ends of its links.
HOST, WEB, DATABASE = "10.0.0.1", "10.0.0.2", "10.0.0.3"
OUTSIDE, NEIGHBOUR = "192.0.2.1", "192.0.2.2"
#: Where nobody else's files are: what documents write to is the page's own.
_OWN = ("/run", "/var/log", "/var/lib")


class Village:
    """
    Namespaces and links.

    Args:
        network: Where they are made.
    """

    def __init__(self, network: Network) -> None:
        self.host, self.web = network.namespace("host"), network.namespace("web")
        self.database, self.outside = network.namespace("db"), network.namespace("outside")
        for one in (self.host, self.web, self.database, self.outside):
            one.quiet()
        self.host.ip("link", "add", "br0", "type", "bridge")
        self.host.ip("address", "add", f"{HOST}/24", "dev", "br0")
        for netns, device, address in (
            (self.web, "veth-web", WEB),
            (self.database, "veth-db", DATABASE),
        ):
            plug(End(self.host, device), End(netns, "eth0"))
            self.host.ip("link", "set", device, "master", "br0")
            netns.ip("address", "add", f"{address}/24", "dev", "eth0")
            switch_on(End(self.host, device), End(netns, "eth0"))
        plug(End(self.host, "eth0"), End(self.outside, "eth0"))
        for netns, address in ((self.host, OUTSIDE), (self.outside, NEIGHBOUR)):
            netns.ip("address", "add", f"{address}/24", "dev", "eth0")
        ends = [End(netns, "eth0") for netns in (self.host, self.outside)]
        switch_on(*ends, End(self.host, "br0"))

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Everybody talks to each other within the block."""
        with ExitStack() as stack:
            for netns, what in (
                (self.database, "answer"),
                (self.database, "database"),
                (self.web, "query"),
                (self.host, "serve"),
                (self.web, "ask"),
                (self.outside, "fetch"),
            ):
                stack.enter_context(_talking(netns, what))
            yield


@contextmanager
def _talking(netns: Netns, what: str) -> Iterator[None]:
    command = netns.command(sys.executable, "-m", "tests.e2e.village", what)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.kill()


class Servers:
    """
    What documents send to, each started when it is asked for, at the ports of the documents.

    Args:
        netns: Where.
        directory: For their files.
    """

    def __init__(self, netns: Netns, directory: Path) -> None:
        self._netns = netns
        self._directory = directory
        self._stack = ExitStack()
        self._made: dict[str, Callable[[Path], Server]] = {
            "kafka": lambda there: Broker(there, netns, plain=9092),
            "collector": lambda there: Collector(netns, 9999, there),
            "otelcol": lambda there: Otelcol(
                there, netns, listeners={"plain": Listener(4317, 4318)}
            ),
        }

    def need(self, name: str) -> None:
        """Start it, and wait until it is ready."""
        directory = self._directory / name
        directory.mkdir()
        made = self._stack.enter_context(self._made[name](directory))
        if isinstance(made, Broker):
            with self._netns.entered():
                made.create("network-flows", 3, {})

    def close(self) -> None:
        """End them all."""
        self._stack.close()


class Page:
    """
    Where a document's commands run: the host's network, with ``/run``, ``/var/log`` and processes
    of its own, in a directory of its own.

    Args:
        village: Whose host it is.
        directory: Where commands run. The project's own things are found there.
    """

    def __init__(self, village: Village, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        names = " ".join(_OWN)
        (directory / "prepare").write_text(
            "set -eu\n"
            f"exec 3<{village.web.path}\n"
            "mount --make-rprivate /\n"
            f"for place in {names}; do mount -t tmpfs tmpfs $place; done\n"
            "mkdir /run/netns && touch /run/netns/web\n"
            "mount --bind /proc/self/fd/3 /run/netns/web\n"
            "exec 3<&-\n"
            "echo ready\n"
            "exec sleep infinity\n"
        )
        self._keeper = subprocess.Popen(
            village.host.command(
                "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                "bash", str(directory / "prepare"),
            ),
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == b"ready\n"
        (first,) = psutil.Process(self._keeper.pid).children()
        self._first = first.pid
        scripts = Path(PROGRAM).parent
        path = [str(scripts), os.environ["PATH"], "/usr/sbin", "/sbin"]
        self.environment = {
            "PATH": ":".join(path),
            "HOME": str(directory),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            # The default is five seconds: flags and files come before it.
            "FLOW_EXPORTER_CAPTURE__DRAIN_INTERVAL": "200ms",
        }

    def close(self) -> None:
        """End everything that runs there."""
        self._keeper.kill()
        self._keeper.wait()
        assert self._keeper.stdout is not None
        self._keeper.stdout.close()

    def start(self, script: Path, where: Path, log: Path) -> subprocess.Popen[bytes]:
        """A bash script, in a directory."""
        with log.open("ab") as file:
            return subprocess.Popen(
                ["nsenter", "--target", str(self._first), "--mount", "--pid", "--net",
                 f"--wd={where}", "bash", str(script)],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip

    def _socket(self, agent: psutil.Process) -> Path:
        """Where an agent that runs there can be asked."""
        status = Path(f"/proc/{agent.pid}/status").read_text()
        inner = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1]
        return Path(f"/proc/{self._first}/root/run/flow-exporter/{inner}.sock")

    def delivers(self, agent: psutil.Process) -> bool:
        """Whether each of an agent's destinations has got something."""
        return _delivers(self._socket(agent))

    @contextmanager
    def beside(self, agent: Path) -> Iterator[None]:
        """Commands here find an agent that runs elsewhere, by its socket."""
        here = Path(f"/proc/{self._first}/root/run/flow-exporter/1.sock")
        here.parent.mkdir(mode=0o700, exist_ok=True)
        here.symlink_to(agent)
        try:
            yield
        finally:
            here.unlink()


@contextmanager
def agent(village: Village, directory: Path) -> Iterator[Path]:
    """An agent, as it runs in the background of a host, with something counted: its socket."""
    page = Page(village, directory)
    sockets = directory / "sockets"
    sockets.mkdir()
    script, log = directory / "agent", directory / "agent.log"
    script.write_text(
        "set -eu\n"
        f"mkdir /run/flow-exporter && mount --bind {sockets} /run/flow-exporter\n"
        "exec flow-exporter run --sink prometheus:// --metrics-address 127.0.0.1:9401\n"
    )
    process = page.start(script, directory, log)
    try:
        wait_until(
            lambda: process.poll() is not None or any(map(_delivers, sockets.glob("*.sock"))),
            "the agent in the background has counted something",
        )
        assert process.poll() is None, log.read_text()
        (found,) = sockets.glob("*.sock")
        yield found
    finally:
        page.close()
        process.wait()


def _delivers(agent: Path) -> bool:
    try:
        ledger = json.loads(ask(agent, "/ledger"))
    except (ExporterError, OSError):
        return False
    return all(sink["delivered"]["flows"] for sink in ledger["sinks"].values())


def _serve(port: int, answer: bytes) -> None:
    def reply(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(4096)
            connection.sendall(answer)

    with socket.create_server(("", port)) as server:
        print("ready", flush=True)
        while True:
            threading.Thread(target=reply, args=server.accept()[:1], daemon=True).start()


def _repeat(act: Callable[[], Any], every: float) -> None:
    print("ready", flush=True)
    pause = threading.Event()
    while not pause.wait(every):
        with suppress(OSError):
            act()


def _fetch() -> None:
    with socket.create_connection((OUTSIDE, 443), 5) as connection:
        connection.sendall(b"GET")
        while connection.recv(65536):
            pass


def _database() -> None:
    """One connection, with an answer to each question."""
    with socket.create_server(("", 5432)) as server:
        print("ready", flush=True)
        connection, _ = server.accept()
        while connection.recv(4096):
            connection.sendall(bytes(1200))


def _query() -> None:
    with socket.create_connection((DATABASE, 5432)) as connection:

        def ask_once() -> None:
            connection.sendall(bytes(80))
            connection.recv(4096)

        _repeat(ask_once, 0.02)


def _answer() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("", 53))
        print("ready", flush=True)
        while True:
            question, who = server.recvfrom(4096)
            server.sendto(question * 2, who)


def main() -> None:
    """One that talks, until killed."""
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    {
        "answer": _answer,
        "serve": lambda: _serve(443, bytes(20_000)),
        "ask": lambda: _repeat(lambda: asking.sendto(bytes(26), (DATABASE, 53)), 0.05),
        "fetch": lambda: _repeat(_fetch, 0.25),
        "database": _database,
        "query": _query,
    }[sys.argv[1]]()


if __name__ == "__main__":
    main()
