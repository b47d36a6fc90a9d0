"""
One file of frames: written at its end only, read anywhere, searched when it is found again.

::

    magic 8 | CRC-32 of the text 4 | its length 4 | text: the layout as JSON |
    zeros up to a multiple of 8 | frame | frame ...
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from exporter.batch.batch import Totals
from exporter.fanout.spool import frame
from exporter.fanout.spool.frame import Header
from exporter.fanout.spool.layout import OWN

SUFFIX = ".segment"
_MAGIC = b"\xf5FEsegm\x01"
_HEAD = struct.Struct("<8sII")
#: More than this in a layout's text is damage.
_LONGEST = 1 << 20


class Entry(NamedTuple):
    """Where a frame is, and what it holds. A lost one has no octets."""

    offset: int
    octets: int
    flows: int
    packets: int
    sum_l2: int
    age_ns: int

    @property
    def totals(self) -> Totals:
        """Of its rows."""
        return Totals(self.flows, self.packets, self.sum_l2)


_NUMBERS = len(Entry._fields)


class Segment:
    """
    A file and the index of its frames: 48 octets of memory for each.

    Args:
        path: The file.
        first: Number of its first batch.
    """

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        self.first = first
        self.octets = 0
        self._fd = -1
        self._index = array("Q")

    @classmethod
    def create(cls, path: Path, first: int) -> Segment:
        """
        A new file with its head.

        Raises:
            OSError: If it cannot be made; there is none then.
        """
        made = cls(path, first)
        made._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        text = OWN.text
        head = _HEAD.pack(_MAGIC, zlib.crc32(text), len(text)) + text
        try:
            made._write((head, bytes(-len(head) % 8)))
        except OSError:
            made.remove()
            raise
        return made

    @property
    def last(self) -> int:
        """Number of its last batch; ``first`` - 1 if it is empty."""
        return self.first + len(self._index) // _NUMBERS - 1

    @property
    def fd(self) -> int:
        """For writing; -1 if it is no longer written."""
        return self._fd

    def entry(self, number: int) -> Entry:
        """Of a batch that is within."""
        at = (number - self.first) * _NUMBERS
        return Entry(*self._index[at : at + _NUMBERS])

    def note(self, entry: Entry) -> None:
        """One more batch, after the last."""
        self._index.extend(entry)

    def append(self, buffers: Sequence[bytes | memoryview], totals: Totals, age_ns: int) -> None:
        """
        Write a frame at the end.

        Raises:
            OSError: If it cannot be written. Nothing of it is left then.
        """
        offset = self.octets
        try:
            octets = self._write(buffers)
        except OSError:
            # Where even this fails, the next search will find a torn frame.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, offset)
            self.octets = offset
            raise
        self.note(Entry(offset, octets, totals.flows, totals.packets, totals.octets, age_ns))

    def read(self, number: int) -> tuple[Header | None, bytearray]:
        """
        A batch's header, ``None`` if it is damaged, and its body.

        Raises:
            OSError: If it cannot be read.
        """
        entry = self.entry(number)
        if not entry.octets:
            return None, bytearray()
        head, body = bytearray(frame.SIZE), bytearray(entry.octets - frame.SIZE)
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            got = os.preadv(fd, [head, body], entry.offset)
            while 0 < got < entry.octets:
                more = _pread(fd, got, entry, head, body)
                if not more:
                    break
                got += more
        finally:
            os.close(fd)
        header = frame.unpack(bytes(head)) if got == entry.octets else None
        if header is None or header.size != entry.octets or header.number != number:
            return None, body
        return header, body

    def cut(self, after: int) -> None:
        """
        Give back the room of all batches after a number; what they held stays known.

        Raises:
            OSError: If the file cannot be cut.
        """
        entry = self.entry(after)
        end = entry.offset + entry.octets
        if end < self.octets:
            os.truncate(self.path, end)
            self.octets = end

    def stop_writing(self) -> None:
        """Close the file; it can be read on. Again is fine."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def remove(self) -> None:
        """Close and delete the file."""
        self.stop_writing()
        self.path.unlink(missing_ok=True)
        self.octets = 0

    def _write(self, buffers: Sequence[bytes | memoryview]) -> int:
        """All of the buffers at the end. Returns how many octets that are."""
        left: list[bytes | memoryview] = [memoryview(buffer) for buffer in buffers if len(buffer)]
        written = 0
        while left:
            count: int = os.pwritev(self._fd, left, self.octets + written)
            written += count
            while left and count >= len(left[0]):
                count -= len(left.pop(0))
            if left:
                # A signal, or a disk that is nearly full: the next call says which.
                left[0] = left[0][count:]
        self.octets += written
        return written


def _pread(fd: int, got: int, entry: Entry, head: bytearray, body: bytearray) -> int:
    """The rest of a read that was cut short. Linux reads at most 2 GiB at once."""
    if got < len(head):
        rest = [memoryview(head)[got:], memoryview(body)]
    else:
        rest = [memoryview(body)[got - len(head) :]]
    return int(os.preadv(fd, rest, entry.offset + got))


@dataclass
class Search:
    """
    What is in a file that is found again.

    Args:
        layout: The text that it begins with; ``None`` if that is damaged.
        frames: Offset and header of each frame, in order.
        cut: The last of them has less body than it should.
        damage: (offset, octets) of what is no frame, in order.
        octets: The file's.
    """

    layout: bytes | None = None
    frames: list[tuple[int, Header]] = field(default_factory=list)
    cut: bool = False
    damage: list[tuple[int, int]] = field(default_factory=list)
    octets: int = 0

    @property
    def end(self) -> int:
        """Where whole frames end."""
        if not self.frames:
            return self.damage[0][0] if self.damage else self.octets
        offset, header = self.frames[-1]
        return offset if self.cut else offset + header.size


def search(path: Path) -> Search:
    """
    Find the frames of a file. Only headers are read, unless something is damaged.

    Raises:
        OSError: If it cannot be read.
    """
    found = Search(octets=path.stat().st_size)
    if not found.octets:
        return found
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as octets:
        at = _read_head(octets, found)
        for offset, header in _frames(octets, at, found):
            found.frames.append((offset, header))
    return found


def _read_head(octets: mmap.mmap, found: Search) -> int:
    """Where the frames begin, or might."""
    if len(octets) < _HEAD.size:
        return 0
    magic, check, length = _HEAD.unpack(octets[: _HEAD.size])
    end = _HEAD.size + length
    if magic != _MAGIC or length > _LONGEST or zlib.crc32(octets[_HEAD.size : end]) != check:
        return 0
    found.layout = octets[_HEAD.size : end]
    return int(end + -end % 8)


def _frames(octets: mmap.mmap, at: int, found: Search) -> Iterator[tuple[int, Header]]:
    while at < len(octets):
        header = frame.unpack(octets[at : at + frame.SIZE])
        if header is None:
            following = _resume(octets, at)
            found.damage.append((at, following - at))
            at = following
            continue
        yield at, header
        at += header.size
        found.cut = at > len(octets)


def _resume(octets: mmap.mmap, at: int) -> int:
    """Where the next frame begins that can be read; the file's length if there is none."""
    while True:
        at = octets.find(frame.MAGIC, at + 1)
        if at < 0:
            return len(octets)
        if frame.unpack(octets[at : at + frame.SIZE]) is not None:
            return at
