"""Servers as processes of their own, which can be killed and started again; and ports for them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
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


def free_ports(count: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> list[int]:
    """Ports of 127.0.0.1 that nobody has now, chosen by the system."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(type=kind)) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """One of them."""
    return free_ports(1, kind)[0]
