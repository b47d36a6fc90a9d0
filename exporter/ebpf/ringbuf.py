"""
Read a BPF ring buffer: in bulk, the mapping viewed as an array of equal records, copied out once;
or record by record, whatever their sizes. Either way the consumer position moves once per read.

Reading never blocks; :meth:`RingBuffer.wait` and :meth:`RingBuffer.follow` do. Bounded by the
ring's size. One reader per ring.

Source: kernel/bpf/ringbuf.c; Documentation/bpf/ringbuf.rst.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from exporter.ebpf.maps import Map
from exporter.ebpf.shared import Position, Waiter, barrier

_BUSY = np.uint32(1 << 31)
_DISCARDED = np.uint32(1 << 30)
_HEADER_OCTETS = 8


class RingBuffer:
    """
    The consumer side of a ring buffer.

    ::

        page 0            page 1             then size octets, twice in a row
        consumer position producer position  data          data again

    The second mapping of the data makes a record that wraps around contiguous. The data is mapped
    only while it is read: twice its size would count as this process's resident memory.

    Args:
        ring: A map of type ringbuf. Stays the caller's, and stays open as long as this.
        dtype: Of one record, where all have one size: :meth:`read` needs it.

    Raises:
        OSError: If the ring cannot be mapped.
    """

    def __init__(self, ring: Map, dtype: np.dtype[Any] | None = None) -> None:
        self.size = ring.spec.max_entries
        self._ring = ring
        self._dtype = None if dtype is None else _record(dtype)
        self._lock = threading.Lock()
        self._waiter: Waiter | None = None
        self._pending: deque[bytes] = deque()
        self._closed = False
        page = mmap.PAGESIZE
        with contextlib.ExitStack() as undo:
            ours = mmap.mmap(ring.fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            undo.callback(ours.close)
            theirs = mmap.mmap(ring.fd, page, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
            undo.pop_all()
        self._mappings = (ours, theirs)
        self._consumer, self._producer = Position(ours), Position(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def used(self) -> int:
        """Octets that wait to be read."""
        return self._producer.load() - self._consumer.load()

    def read(self) -> NDArray[Any]:
        """
        Everything that is complete in the ring.

        Returns:
            Shape (n,), dtype of a record, a copy. Records still being written stay for the next
            read, with all that follow them: the kernel hands records out in order. Discarded ones
            are left out.

        Raises:
            ValueError: If a record has another length than this ring's records have, or no dtype
                was given.
            OSError: If the data cannot be mapped.
        """
        with self._lock:
            records, end = self._read(self._consumer.load())
            self._consumer.store(end)
            if self._pending:
                # follow() was left early: they come first.
                earlier = np.frombuffer(b"".join(self._pending), records.dtype)
                self._pending.clear()
                records = np.concatenate([earlier, records])
        return records

    def peek(self, after: int = 0) -> tuple[NDArray[Any], int]:
        """
        As :meth:`read`, but all of it stays in the ring, and is read again, until :meth:`release`.

        Args:
            after: The position of another consumer, who had released less than it had read: not
                the records before that.

        Returns:
            The records, and the position behind the last of them.

        Raises:
            ValueError, OSError: As :meth:`read`.
        """
        with self._lock:
            return self._read(max(self._consumer.load(), after))

    def release(self, position: int) -> None:
        """Make room: what is before a position that :meth:`peek` returned is not needed."""
        with self._lock:
            self._consumer.store(max(self._consumer.load(), position))

    def take(self) -> list[bytes]:
        """
        As :meth:`read`, of records whose sizes differ.

        Returns:
            Each record's octets, a copy, in order, without discarded ones.

        Raises:
            OSError: If the data cannot be mapped.
        """
        with self._lock:
            records = [*self._pending, *self._take()]
            self._pending.clear()
        return records

    def wait(self, timeout_s: float | None = None) -> bool:
        """
        Block until there is something to read, :meth:`stop` is called or the time is over.

        Args:
            timeout_s: Seconds; ``None`` for no limit. Programs that submit with BPF_RB_NO_WAKEUP
                wake nobody.

        Returns:
            Whether there is something; it may not be complete yet. Never once stopped.
        """
        return self._waiting().wait(timeout_s)

    def follow(self) -> Iterator[bytes]:
        """
        Every record as it comes, until :meth:`stop` or :meth:`close`. Records that were taken off
        the ring but not handed out stay for the next call of any reading method.

        Raises:
            OSError: If the data cannot be mapped.
        """
        waiter, pending = self._waiting(), self._pending
        while not waiter.stopped:
            # Without the lock: there is one reader, and it is here.
            if pending:
                yield pending.popleft()
                continue
            with self._lock:
                if not self._closed:
                    pending.extend(self._take())
            if not pending:
                waiter.wait()

    def stop(self) -> None:
        """End all waiting, from any thread, now and from now on. Does not block."""
        if not self._closed:
            self._waiting().stop()

    def close(self) -> None:
        """Stop, and unmap. Again is fine, and from any thread."""
        with self._lock:
            self._closed = True
            waiter = self._waiter
        if waiter is not None:
            waiter.close()
        with self._lock:
            self._consumer.release()
            self._producer.release()
            for mapping in self._mappings:
                mapping.close()

    def _waiting(self) -> Waiter:
        with self._lock:
            if self._waiter is None:
                assert not self._closed, "the ring buffer is closed"
                self._waiter = Waiter([self._ring.fd])
            return self._waiter

    @contextlib.contextmanager
    def _data(self) -> Iterator[tuple[mmap.mmap, int]]:
        """The data, and where it begins in the mapping."""
        page = mmap.PAGESIZE
        octets = page + 2 * self.size
        fd, shared, readable = self._ring.fd, mmap.MAP_SHARED, mmap.PROT_READ
        with mmap.mmap(fd, octets, shared, readable, offset=page) as data:
            yield data, page

    def _read(self, consumed: int) -> tuple[NDArray[Any], int]:
        """The complete records from a position on, and the position behind them."""
        dtype = self._dtype
        if dtype is None:
            raise ValueError("records of a ring buffer without a dtype are read one by one")
        waiting = (self._producer.load() - consumed) // dtype.itemsize
        if not waiting:
            return np.empty(0, dtype["record"]), consumed
        with self._data() as (data, base):
            offset = base + (consumed & (self.size - 1))
            # A view may not outlive the mapping: it lives in the call.
            records, complete = _copy(np.frombuffer(data, dtype, waiting, offset))
        if records is None:
            raise ValueError(
                f"a record in the ring buffer is not {dtype['record'].itemsize} octets long"
            )
        return records, consumed + complete * dtype.itemsize

    def _take(self) -> list[bytes]:
        consumed = self._consumer.load()
        waiting = self._producer.load() - consumed
        if not waiting:
            return []
        with self._data() as (data, base):
            offset = base + (consumed & (self.size - 1))
            with memoryview(data)[offset : offset + waiting] as octets, octets.cast("I") as words:
                records, complete = _split(octets, words)
        self._consumer.store(consumed + complete)
        return records


def _record(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A record with its header and what fills it up to a multiple of 8."""
    return np.dtype(
        {
            "names": ["length", "page_offset", "record"],
            "formats": ["<u4", "<u4", dtype],
            "offsets": [0, 4, _HEADER_OCTETS],
            "itemsize": (_HEADER_OCTETS + dtype.itemsize + 7) & ~7,
        }
    )


def _copy(view: NDArray[Any]) -> tuple[NDArray[Any] | None, int]:
    """The complete records, without discarded ones, if all fit; how many were complete."""
    busy = np.flatnonzero(view["length"] & _BUSY)
    complete = int(busy[0]) if len(busy) else len(view)
    barrier()
    lengths = view["length"][:complete]
    if np.any((lengths & ~_DISCARDED) != view.dtype["record"].itemsize):
        return None, complete
    return view["record"][:complete][(lengths & _DISCARDED) == 0].copy(), complete


def _split(octets: memoryview, words: memoryview) -> tuple[list[bytes], int]:
    """The complete records, without discarded ones; octets that were complete."""
    places = []
    at, end = 0, len(octets)
    busy, discarded = int(_BUSY), int(_DISCARDED)
    while at < end:
        length = words[at >> 2]
        begin = at + _HEADER_OCTETS
        if length < discarded:  # neither bit is set
            places.append(slice(begin, begin + length))
        elif length & busy:
            break
        else:
            length -= discarded
        at = (begin + length + 7) & ~7
    barrier()
    return list(map(bytes(octets[:at]).__getitem__, places)), at
