"""
Write to a file descriptor until all of it is written, without getting stuck on a reader that is.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import threading
import time

from exporter.errors import SinkError

#: How soon a blocked write notices that it is to stop, in seconds.
_LOOK = 0.2
#: A terminal that is writable may have room for less than one character, which is two octets for a
#: new line: seconds until it is asked again.
_PAUSE = 0.02


class DescriptorWriter:
    """
    Writes whole messages.

    Args:
        fd: Stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._own: int | None = None
        self._lock = threading.Lock()
        self._at_once = 0
        self._rest: memoryview | None = None
        self._stopped = False

    @property
    def behind(self) -> bool:
        """Whether a message is half written."""
        return self._rest is not None

    def write(self, payload: bytes, timeout: float) -> None:
        """
        Write a message, or go on with the one that timed out: a retry repeats nothing.

        Raises:
            SinkError: ``closed`` if nobody reads any more; ``slow`` (retryable) if the reader took
                nothing for ``timeout`` seconds or :meth:`stop` was called; ``failed`` (retryable)
                for anything else, such as a full disk.
        """
        with self._lock:
            if not self._at_once:
                self._prepare()
            self._write_all(self._rest if self._rest is not None else memoryview(payload), timeout)

    def stop(self) -> None:
        """Make a write that waits fail soon."""
        self._stopped = True

    def close(self) -> None:
        """Stop, and give back what was opened; the given descriptor stays open."""
        self.stop()
        with self._lock:
            own, self._own, self._at_once = self._own, None, 0
            if own is not None:
                os.close(own)

    def _prepare(self) -> None:
        """
        Find out how much a descriptor that is writable takes without blocking.

        A pipe takes PIPE_BUF octets, and a file never blocks. A terminal promises nothing, so it is
        opened once more, not to block: the mode of our own descriptor is also the shell's.
        """
        if not os.isatty(self._fd):
            regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
            self._at_once = 1 << 30 if regular else select.PIPE_BUF
            return
        try:
            self._own = os.open(
                f"/proc/self/fd/{self._fd}",
                os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC,
            )
            self._at_once = 1 << 16
        except OSError:
            # Not ours to open: what is written then is as little as there is.
            self._at_once = 1

    def _write_all(self, rest: memoryview, timeout: float) -> None:
        fd = self._fd if self._own is None else self._own
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        deadline = time.monotonic() + timeout
        while rest:
            if not poll.poll(1000 * min(_LOOK, timeout)):
                if self._stopped or time.monotonic() >= deadline:
                    self._rest = rest
                    raise SinkError("slow", "nobody reads standard output", retryable=True)
                continue
            written = self._write(fd, rest)
            if written:
                rest = rest[written:]
                deadline = time.monotonic() + timeout
        self._rest = None

    def _write(self, fd: int, rest: memoryview) -> int:
        try:
            return os.write(fd, rest[: self._at_once])
        except BlockingIOError:
            time.sleep(_PAUSE)
            return 0
        except BrokenPipeError as err:
            raise SinkError("closed", "standard output is closed", retryable=False) from err
        except OSError as err:
            if err.errno == errno.EIO and self._own is not None:
                raise SinkError("closed", "the terminal is gone", retryable=False) from err
            self._rest = rest
            raise SinkError("failed", f"standard output: {err.strerror}", retryable=True) from err
