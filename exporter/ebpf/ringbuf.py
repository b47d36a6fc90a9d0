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

    The second mapping of the data makes a record that wraps around contiguous.

    Args:
        ring: A map of type ringbuf. Stays the caller's.
        dtype: Of one record.

    Raises:
        OSError: If the ring cannot be mapped.
    """

    def __init__(self, ring: Map, dtype: np.dtype[Any]) -> None:
        self.size = ring.spec.max_entries
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
        self._consumer_map = mmap.mmap(
            ring.fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0
        )
        self._producer_map = mmap.mmap(
            ring.fd, page + 2 * self.size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        self._consumer = np.frombuffer(self._consumer_map, np.uint64, 1)
        self._producer = np.frombuffer(self._producer_map, np.uint64, 1)
        self._barrier = threading.Lock()
        self._closed = False

    def used(self) -> int:
        """Octets that wait to be read."""
        return self._position(self._producer) - self._position(self._consumer)

    def read(self) -> NDArray[Any]:
        """
        Everything that is complete in the ring.

        Returns:
            Shape (n,), dtype of a record, a copy. Records still being written stay for the next
            read, with all that follow them: the kernel hands records out in order.

        Raises:
            ValueError: If a record has another length than this ring's records have.
        """
        consumed = self._position(self._consumer)
        produced = self._position(self._producer)
        offset = mmap.PAGESIZE + (consumed & (self.size - 1))
        waiting = (produced - consumed) // self._stride
        view = np.frombuffer(self._producer_map, self._record, waiting, offset)
        complete = self._complete(view["length"])
        lengths = view["length"][:complete]
        payload = self._record["record"].itemsize
        if np.any((lengths & ~_DISCARDED) != payload):
            raise ValueError(f"a record in the ring buffer is not {payload} octets long")
        records: NDArray[Any] = view["record"][:complete][(lengths & _DISCARDED) == 0].copy()
        self._consumer[0] = np.uint64(consumed + complete * self._stride)
        return records

    def close(self) -> None:
        """Unmap. Again is fine."""
        if self._closed:
            return
        self._closed = True
        # The arrays export the mappings' buffers: they must go first.
        del self._consumer, self._producer
        self._consumer_map.close()
        self._producer_map.close()

    def _position(self, cell: NDArray[np.uint64]) -> int:
        value = int(cell[0])
        # Reads of the data must not be ordered before this one: taking a lock is an acquire barrier
        # where the CPU itself does not keep loads in order.
        with self._barrier:
            return value

    def _complete(self, lengths: NDArray[np.uint32]) -> int:
        busy = np.flatnonzero(lengths & _BUSY)
        count = int(busy[0]) if len(busy) else len(lengths)
        with self._barrier:
            return count
