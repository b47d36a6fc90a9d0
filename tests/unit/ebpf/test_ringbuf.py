"""
Records that are still being written. A memory file stands for the ring: no program can be stopped
between reserving a record and submitting it.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from exporter.ebpf.maps import Map, MapSpec
from exporter.ebpf.ringbuf import RingBuffer

PAGE = mmap.PAGESIZE
BUSY, DISCARDED = 1 << 31, 1 << 30


class MemoryRing(Map):
    """The kernel's side of a ring of one page."""

    def __init__(self, position: int) -> None:
        super().__init__(os.memfd_create("ring"), MapSpec("ring", "ringbuf", 0, 0, PAGE, 0))
        os.ftruncate(self.fd, 4 * PAGE)
        self._position = position
        os.pwrite(self.fd, struct.pack("=Q", position), 0)
        self._publish()

    def write(self, data: bytes, flags: int = 0) -> int:
        """A record; its position."""
        begin = self._position
        room = (8 + len(data) + 7) // 8 * 8
        record = struct.pack("=II", len(data) | flags, 0) + data
        self._put(begin, record.ljust(room, b"\xee"))
        self._position += room
        self._publish()
        return begin

    def submit(self, begin: int, length: int) -> None:
        """The record that is busy becomes complete."""
        self._put(begin, struct.pack("=I", length))

    def _put(self, begin: int, content: bytes) -> None:
        for index, octet in enumerate(content):
            at = 2 * PAGE + (begin + index) % PAGE
            for copy in (at, at + PAGE):
                os.pwrite(self.fd, bytes([octet]), copy)

    def _publish(self) -> None:
        os.pwrite(self.fd, struct.pack("=Q", self._position), PAGE)


@pytest.fixture(params=[0, PAGE - 24, (1 << 32) - 24, 5 * PAGE - 8])
def memory(request: pytest.FixtureRequest) -> Iterator[MemoryRing]:
    """Rings whose next record lies at the beginning, or around the end."""
    with MemoryRing(request.param) as ring:
        yield ring


def test_single(memory: MemoryRing) -> None:
    """Nothing behind a record that is busy is read before it is complete; then all, in order."""
    with RingBuffer(memory) as reader:
        memory.write(b"first")
        busy = memory.write(b"x" * 20, BUSY)
        memory.write(b"gone", DISCARDED)
        memory.write(b"")
        assert reader.take() == [b"first"]
        assert reader.take() == []
        memory.submit(busy, 20)
        assert reader.take() == [b"x" * 20, b""]
        assert reader.used() == 0


def test_bulk(memory: MemoryRing) -> None:
    """Likewise in bulk, where all records have one size."""
    with RingBuffer(memory, np.dtype("S5")) as reader:
        memory.write(b"first")
        busy = memory.write(b"later", BUSY)
        memory.write(b"gone.", DISCARDED)
        memory.write(b"last.")
        assert reader.read().tolist() == [b"first"]
        assert reader.read().tolist() == []
        memory.submit(busy, 5)
        assert reader.read().tolist() == [b"later", b"last."]
        assert reader.used() == 0


def test_only_busy_and_discarded(memory: MemoryRing) -> None:
    """Discarded records alone are consumed without a result, and a busy one is not."""
    with RingBuffer(memory) as reader:
        memory.write(b"gone", DISCARDED)
        memory.write(b"busy", BUSY)
        assert reader.take() == []
        assert reader.used() == 16
