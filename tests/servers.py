"""Servers as processes of their own, which can be killed and started again; and ports for them."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.patience import wait_until


class Server:
    """
    The process, with a group of its own, so that what it starts is ended with it.

    Args:
        command: With its arguments, in a namespace or not.
        log: File that its output is appended to.
        directory: Where it runs; here if ``None``.
        environment: Of it; ours if ``None``.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = command
        self._log = log
        self._directory = directory
        self._environment = environment
        self._began = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, or start it again, and wait until it is ready."""
        with self._log.open("ab") as log:
            self._began = log.tell()
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self._directory, env=self._environment, process_group=0,
            )  # fmt: skip
        wait_until(lambda: self._ended() or self._is_ready(), f"{self._command[0]} is ready")
        assert not self._ended(), self.log

    def kill(self) -> None:
        """As a machine that loses power. Again is fine."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def log(self) -> str:
        """What it said, in all its lives."""
        return self._log.read_text(errors="replace")

    def _is_ready(self) -> bool:
        """Whether it can be talked to; asked while it runs."""
        raise NotImplementedError

    def _says(self, words: str) -> bool:
        """Whether its log has them since it was started last."""
        return words.encode() in self._log.read_bytes()[self._began :]

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None


def _never_chosen_by_the_system() -> Iterator[int]:
    """
    Ports that no socket gets unless it asks for them, each once, from any of them on.

    The system's own choice is no good for a port that is bound later, or bound again after a
    restart: any connection or server of the machine may be given it in between, and a client that
    is refused may at last be connected to itself.
    """
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [port for port in range(10_000, 1 << 16) if not low <= port <= high]
    start = random.randrange(len(ports))
    yield from ports[start:] + ports[:start]


_ports = _never_chosen_by_the_system()


def free_ports(
    count: int, kind: socket.SocketKind = socket.SOCK_STREAM, host: str = "127.0.0.1"
) -> list[int]:
    """
    Ports of the loopback interface that nobody has now, and that nobody is given unasked.

    Raises OSError if the machine has no such address.
    """
    found: list[int] = []
    while len(found) < count:
        port = next(_ports)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as probe:
            try:
                probe.bind((host, port))
            except OSError as err:
                if err.errno != errno.EADDRINUSE:
                    raise
            else:
                found.append(port)
    return found


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM, host: str = "127.0.0.1") -> int:
    """One of them."""
    return free_ports(1, kind, host)[0]
