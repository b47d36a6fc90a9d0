"""Real IPFIX collectors as processes: nfdump's ``nfcapd`` and pmacct's ``nfacctd``, over UDP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.conftest import missing
from tests.e2e.net import Netns
from tests.wire.stream_collector import free_port, wait_until

_SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])


def program(name: str, package: str) -> str:
    """Path of a program; the test is skipped without it."""
    found = shutil.which(name, path=_SBIN)
    if found is None:
        missing(f"{name} (Debian package {package})")
        raise AssertionError
    return found


def _listens(log: Path, words: str, process: subprocess.Popen[bytes]) -> None:
    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        return words in log.read_text()

    wait_until(ready, words)


def _queued(pid: int, port: int) -> int:
    """Octets that wait for a UDP socket: the receive queue of /proc/net/udp."""
    for line in Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]:
        _, local, _, _, queues, *_ = line.split()
        if int(local.rpartition(":")[2], 16) == port:
            return int(queues.rpartition(":")[2], 16)
    raise AssertionError(f"nobody listens at {port}")


class Nfcapd:
    """
    nfdump's collector; ``flows`` ends it, so that it writes what it has.

    Args:
        directory: For what it keeps, and its log.
        netns: Where it listens on 127.0.0.1.
    """

    def __init__(self, directory: Path, netns: Netns | None = None, port: int = 0) -> None:
        self.port = port or free_port(socket.SOCK_DGRAM)
        self.target = f"127.0.0.1:{self.port}"
        self._kept = directory / "nfcapd"
        self._kept.mkdir()
        self._log = directory / "nfcapd.log"
        arguments = [
            program("nfcapd", "nfdump"), "-w", str(self._kept), "-p", str(self.port), "-b",
            "127.0.0.1", "-t", "3600", "-B", "8388608",
        ]  # fmt: skip
        self._command = netns.command(*arguments) if netns else arguments
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        _listens(self._log, "Startup nfcapd", self._process)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def flows(self) -> list[dict[str, Any]]:
        """What it kept, in order; nothing more comes after it was asked."""
        assert self._process is not None
        pid = self._process.pid
        wait_until(lambda: _queued(pid, self.port) == 0, "nfcapd has read what came")
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(20) == 0
        self._process = None
        found: list[dict[str, Any]] = []
        for path in sorted(self._kept.glob("nfcapd.2*")):
            # Its times are the time zone's.
            done = subprocess.run(
                [program("nfdump", "nfdump"), "-r", str(path), "-o", "json"],
                capture_output=True, check=True, env=os.environ | {"TZ": "UTC"},
            )  # fmt: skip
            found += json.loads(done.stdout) if done.stdout.strip() else []
        return found

    @property
    def log(self) -> str:
        return self._log.read_text()


#: nfacctd's own names for what it knows, and elements that it has to be told of.
_KNOWN = (
    "src_host dst_host src_port dst_port proto tos vlan in_iface out_iface src_mac dst_mac "
    "timestamp_start timestamp_end sampling_rate sampling_direction export_proto_sysid flows"
)
_TOLD = {
    "tcpControlBits": (6, 2), "flowEndReason": (136, 1), "ipDiffServCodePoint": (195, 1),
    "dot1qCustomerVlanId": (245, 2), "layer2OctetDeltaCount": (352, 8), "icmpTypeCodeIPv4": (32, 2),
    "icmpTypeCodeIPv6": (139, 2), "samplingInterval": (34, 4), "flowDirection": (61, 1),
}  # fmt: skip


class Nfacctd:
    """
    pmacct's collector, which writes what it has once a second.

    Args:
        directory: For its configuration, what it keeps, and its log.
    """

    def __init__(self, directory: Path) -> None:
        self.port = free_port(socket.SOCK_DGRAM)
        self.target = f"127.0.0.1:{self.port}"
        self._kept = directory / "kept.json"
        self._log = directory / "nfacctd.log"
        primitives = directory / "primitives"
        primitives.write_text(
            "".join(
                f"name={name} field_type={number} len={octets} semantics=u_int\n"
                for name, (number, octets) in _TOLD.items()
            )
        )
        aggregate = ",".join([*_KNOWN.split(), *_TOLD])
        self._configuration = directory / "nfacctd.conf"
        self._configuration.write_text(
            f"daemonize: false\nnfacctd_ip: 127.0.0.1\nnfacctd_port: {self.port}\n"
            f"plugins: print[it]\naggregate[it]: {aggregate}\nprint_output[it]: json\n"
            f"print_output_file[it]: {self._kept}\nprint_refresh_time[it]: 1\n"
            f"aggregate_primitives: {primitives}\ntimestamps_utc: true\n"
            "print_output_file_append: true\nplugin_pipe_size: 8388608\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            # It is two processes: a group of their own, so that both can be ended.
            self._process = subprocess.Popen(
                [program("nfacctd", "pmacct"), "-f", str(self._configuration)],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        _listens(self._log, "waiting for NetFlow/IPFIX data", self._process)
        # Its plugin is another process, which loses what comes before it is ready.
        _listens(self._log, "setting object handlers", self._process)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def flows(self, expected: int) -> list[dict[str, Any]]:
        """What it has written, once a second, when it is so many or more; in no order."""

        def kept() -> list[str]:
            return self._kept.read_text().splitlines(keepends=True) if self._kept.exists() else []

        wait_until(
            lambda: sum(line.endswith("\n") for line in kept()) >= expected, "all flows are kept"
        )
        return [json.loads(line) for line in kept()]

    @property
    def log(self) -> str:
        return self._log.read_text()
