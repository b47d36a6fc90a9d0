"""
Read a BPF ring buffer in bulk: the mapping is viewed as an array of equal records, copied out once,
and the consumer position moves once per read.

Never blocks. Bounded by the ring's size. One reader per ring.

Source: kernel/bpf/ringbuf.c; Documentation/bpf/ringbuf.rst.
"""

from __future__ import annotations

import mmap
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.ebpf.maps import Map

_BUSY = np.uint32(1 << 31)
_DISCARDED = np.uint32(1 << 30)
_HEADER_OCTETS = 8


class RingBuffer:
    """
    The consumer side of a ring buffer whose records all have one size.

    ::

        page 0            page 1             then size octets, twice in a row
        consumer position producer position  data          data again

    The second mapping of the data makes a record that wraps around contiguous. The data is mapped
    only while it is read: twice its size would count as this process's resident memory.

    Args:
        ring: A map of type ringbuf. Stays the caller's, and stays open as long as this.
        dtype: Of one record.

    Raises:
        OSError: If the ring cannot be mapped.
    """

    def __init__(self, ring: Map, dtype: np.dtype[Any]) -> None:
        self.size = ring.spec.max_entries
        self._ring = ring
        self._stride = (_HEADER_OCTETS + dtype.itemsize + 7) & ~7
        self._record = np.dtype(
            {
                "names": ["length", "page_offset", "record"],
                "formats": ["<u4", "<u4", dtype],
                "offsets": [0, 4, _HEADER_OCTETS],
                "itemsize": self._stride,
            }
        )
        page = mmap.PAGESIZE
        self._consumer = _Position(ring.fd, 0, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer = _Position(ring.fd, page, mmap.PROT_READ)

    def used(self) -> int:
        """Octets that wait to be read."""
        return self._producer.load() - self._consumer.load()

    def read(self) -> NDArray[Any]:
        """
        Everything that is complete in the ring.

        Returns:
            Shape (n,), dtype of a record, a copy. Records still being written stay for the next
            read, with all that follow them: the kernel hands records out in order.

        Raises:
            ValueError: If a record has another length than this ring's records have.
            OSError: If the data cannot be mapped.
        """
        consumed = self._consumer.load()
        waiting = (self._producer.load() - consumed) // self._stride
        if not waiting:
            return np.empty(0, self._record["record"])
        page = mmap.PAGESIZE
        with mmap.mmap(
            self._ring.fd, page + 2 * self.size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        ) as data:
            offset = page + (consumed & (self.size - 1))
            # A view may not outlive the mapping: it lives in the call.
            records, complete = self._copy(np.frombuffer(data, self._record, waiting, offset))
        if records is None:
            raise ValueError(
                f"a record in the ring buffer is not {self._record['record'].itemsize} octets long"
            )
        self._consumer.store(consumed + complete * self._stride)
        return records

    def close(self) -> None:
        """Unmap. Again is fine."""
        self._consumer.close()
        self._producer.close()

    def _copy(self, view: NDArray[Any]) -> tuple[NDArray[Any] | None, int]:
        """The complete records, without discarded ones, if all fit; how many were complete."""
        busy = np.flatnonzero(view["length"] & _BUSY)
        complete = int(busy[0]) if len(busy) else len(view)
        _barrier()
        lengths = view["length"][:complete]
        if np.any((lengths & ~_DISCARDED) != self._record["record"].itemsize):
            return None, complete
        return view["record"][:complete][(lengths & _DISCARDED) == 0].copy(), complete


class _Position:
    """One of the ring's two positions: 64 bits at the start of a page that the kernel shares."""

    def __init__(self, fd: int, offset: int, protection: int) -> None:
        self._map = mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, protection, offset=offset)
        self._cell: NDArray[np.uint64] | None = np.frombuffer(self._map, np.uint64, 1)

    def load(self) -> int:
        assert self._cell is not None, "the ring buffer is closed"
        value = int(self._cell[0])
        _barrier()
        return value

    def store(self, value: int) -> None:
        assert self._cell is not None, "the ring buffer is closed"
        self._cell[0] = np.uint64(value)

    def close(self) -> None:
        # The array exports the mapping's buffer: it must go first.
        self._cell = None
        self._map.close()


_lock = threading.Lock()


def _barrier() -> None:
    """
    Reads that follow are not done before those that went before: taking a lock is an acquire
    barrier where the CPU itself does not keep loads in order.
    """
    with _lock:
        pass
