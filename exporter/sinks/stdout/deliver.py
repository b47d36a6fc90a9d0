"""
Write to a file descriptor until all of it is written, without getting stuck on a reader that is.
"""

from __future__ import annotations

import os
import select
import stat
import time

from exporter.errors import SinkError

#: How soon a blocked write notices that it is to stop, in seconds.
_LOOK = 0.2


class DescriptorWriter:
    """
    Writes whole messages.

    Args:
        fd: Stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest: memoryview | None = None
        self._stopped = False

    def write(self, payload: bytes, timeout: float) -> None:
        """
        Write a message, or go on with the one that timed out: a retry repeats nothing.

        Raises:
            SinkError: ``closed`` if nobody reads any more; ``slow`` (retryable) if the reader took
                nothing for ``timeout`` seconds or :meth:`stop` was called; ``failed`` (retryable)
                for anything else, such as a full disk.
        """
        rest = self._rest if self._rest is not None else memoryview(payload)
        # A pipe that is writable takes PIPE_BUF octets without blocking; a file never blocks.
        regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
        at_once = len(rest) if regular else select.PIPE_BUF
        deadline = time.monotonic() + timeout
        while rest:
            if not select.select([], [self._fd], [], _LOOK)[1]:
                if self._stopped or time.monotonic() >= deadline:
                    self._rest = rest
                    raise SinkError("slow", "nobody reads standard output", retryable=True)
                continue
            rest = self._write(rest, at_once)
            deadline = time.monotonic() + timeout
        self._rest = None

    def stop(self) -> None:
        """Make a write that waits fail soon."""
        self._stopped = True

    def _write(self, rest: memoryview, at_once: int) -> memoryview:
        try:
            return rest[os.write(self._fd, rest[:at_once]) :]
        except BrokenPipeError as err:
            raise SinkError("closed", "standard output is closed", retryable=False) from err
        except OSError as err:
            self._rest = rest
            raise SinkError("failed", f"standard output: {err.strerror}", retryable=True) from err
