"""
One process that talks over one socket, under a name of its own.

Prints the socket's local port once it is ready; a line on standard input makes it say something
more; it ends with its input. Only the standard library, so that it starts at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from tests.e2e.net import Netns


class Talker:
    """
    The process, started.

    Args:
        netns: Where.
        kind: tcp, udp, or tcp-server.
        name: Of the process.
        to: Address and port to talk to, or to listen at.
        bind: Own port, 0 for any.
    """

    def __init__(
        self, netns: Netns, kind: str, name: str, to: tuple[str, int], bind: int = 0
    ) -> None:
        words = [kind, name, to[0], str(to[1]), str(bind)]
        self.process = subprocess.Popen(
            netns.command(sys.executable, "-I", "-S", __file__, *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.name = name
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def truth(self) -> tuple[int, str]:
        return self.process.pid, self.name

    def say(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("more\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.communicate()


def _talk(talking: socket.socket) -> None:
    """A datagram or segment for each line."""
    talking.send(b"hello")
    print(talking.getsockname()[1], flush=True)
    for _ in sys.stdin:
        # Nobody listens to datagrams: the kernel says so.
        with contextlib.suppress(ConnectionRefusedError):
            talking.send(b"more")
    # An RST and no TIME_WAIT: the port is free at once.
    talking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def _echo(accepted: socket.socket) -> None:
    try:
        while data := accepted.recv(4096):
            accepted.send(data)
    except ConnectionResetError:
        pass


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser()
    for name in ("kind", "name", "host"):
        parser.add_argument(name)
    for name in ("port", "bind"):
        parser.add_argument(name, type=int)
    given = parser.parse_args()
    Path("/proc/self/comm").write_text(given.name)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    kind = socket.SOCK_DGRAM if given.kind == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as talking:
        talking.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if given.kind == "tcp-server":
            talking.bind((given.host, given.port))
            talking.listen()
            print(given.port, flush=True)
            threading.Thread(target=lambda: _echo(talking.accept()[0]), daemon=True).start()
            sys.stdin.read()
            os._exit(0)
        talking.bind(("", given.bind))
        talking.connect((given.host, given.port))
        _talk(talking)


if __name__ == "__main__":
    main()
