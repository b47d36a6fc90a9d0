"""Memory that the kernel shares with its reader: positions in it, barriers, waiting for more."""

from __future__ import annotations

import mmap
import os
import select
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Position:
    """
    64 bits in shared memory that one side writes and the other reads.

    Args:
        mapping: Stays the caller's; :meth:`release` before it is closed.
        offset: Of the position, in octets; a multiple of 8.
    """

    def __init__(self, mapping: mmap.mmap, offset: int = 0) -> None:
        self._cell: NDArray[np.uint64] | None = np.frombuffer(mapping, np.uint64, 1, offset)

    def load(self) -> int:
        """The position. What is read afterwards is not older than it."""
        assert self._cell is not None, "the buffer is closed"
        value = int(self._cell[0])
        barrier()
        return value

    def store(self, value: int) -> None:
        """Move it. What was read before is not newer than it."""
        assert self._cell is not None, "the buffer is closed"
        barrier()
        self._cell[0] = np.uint64(value)

    def release(self) -> None:
        """Let go of the mapping, whose buffer this exports. Again is fine."""
        self._cell = None


_lock = threading.Lock()


def barrier() -> None:
    """
    Reads that follow are not done before those that went before: taking a lock is an acquire
    barrier where the CPU itself does not keep loads in order.
    """
    with _lock:
        pass


class Waiter:
    """
    Blocks until a descriptor is readable, and can be stopped from any thread at any time.

    Args:
        descriptors: To wait for. Stay the caller's, and open as long as this.

    Raises:
        OSError: If there are no descriptors left for two more.
    """

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._changed = threading.Condition()
        self._waiting = 0
        self._closed = False
        self.stopped = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        except OSError:
            os.close(self._wake)
            raise
        for descriptor in (self._wake, *descriptors):
            self._epoll.register(descriptor, select.EPOLLIN)

    def wait(self, timeout_s: float | None = None) -> bool:
        """
        Block until a descriptor is readable, :meth:`stop` is called or the time is over.

        Args:
            timeout_s: Seconds; ``None`` for no limit.

        Returns:
            Whether a descriptor is readable. Never once stopped.
        """
        with self._changed:
            if self.stopped:
                return False
            self._waiting += 1
        try:
            ready = self._epoll.poll(timeout_s)
        finally:
            with self._changed:
                self._waiting -= 1
                self._changed.notify_all()
        return bool(ready) and not self.stopped

    def stop(self) -> None:
        """End the waiting, now and from now on. Does not block. Again is fine."""
        with self._changed:
            if not self.stopped:
                self.stopped = True
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Stop, and give the descriptors back when nobody waits any more. Again is fine."""
        self.stop()
        with self._changed:
            # They were woken: this takes as long as it takes them to return.
            self._changed.wait_for(lambda: self._waiting == 0)
            if not self._closed:
                self._closed = True
                self._epoll.close()
                os.close(self._wake)
