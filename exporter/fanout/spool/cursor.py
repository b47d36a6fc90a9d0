"""
What is settled: one small file with two places that are written in turn.

Whoever is killed while writing leaves the other place as it was: at worst the last batch comes
again.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from exporter.batch.batch import Totals
from exporter.fanout.spool.age import Stamp
from exporter.fanout.spool.frame import wrapped

_MAGIC = b"\xf5FEcurs\x01"
_RECORD = struct.Struct("<8sIQ2Q3Q2Q16s")
#: Of different sectors: a disk writes one of them or the other.
_SPACING = 4096
_CHECKED_FROM = 12


@dataclass(frozen=True)
class Position:
    """
    How far a spool is settled.

    Args:
        settled: Every batch up to this number is.
        floor: Batches after ``settled`` + 1 up to this number were dropped. The one between waits.
        before: Sums over all batches up to ``settled``, modulo 2 ** 64.
        stamp: When it was written.
    """

    settled: int = 0
    floor: int = 0
    before: Totals = field(default_factory=Totals)
    stamp: Stamp = field(default_factory=Stamp)


class Cursor:
    """
    The file.

    Args:
        path: Made when it is written for the first time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._turn = 0

    def read(self) -> Position | None:
        """
        The latest position; ``None`` if there is none that can be read.

        Raises:
            OSError: If the file is there and cannot be read.
        """
        try:
            octets = self._path.read_bytes()
        except FileNotFoundError:
            return None
        latest: tuple[int, Position] | None = None
        for place in range(2):
            found = _unpack(octets[place * _SPACING :])
            if found is not None and (latest is None or found[0] > latest[0]):
                latest = found
        if latest is None:
            return None
        self._turn = latest[0]
        return latest[1]

    def write(self, position: Position) -> None:
        """
        Remember a position.

        Raises:
            OSError: If it cannot be written; the earlier one stays.
        """
        if self._fd < 0:
            self._open()
        self._turn += 1
        os.pwrite(self._fd, _pack(self._turn, position), self._turn % 2 * _SPACING)

    def close(self) -> None:
        """Again is fine."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _open(self) -> None:
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Room now, so that a full disk does not make batches come again later.
            os.posix_fallocate(fd, 0, 2 * _SPACING)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd


def _pack(turn: int, position: Position) -> bytes:
    before, stamp = wrapped(position.before), position.stamp
    packed = bytearray(
        _RECORD.pack(
            _MAGIC, 0, turn, position.settled, position.floor,
            before.flows, before.packets, before.octets,
            stamp.age_ns, stamp.boot_ns, stamp.boot,
        )
    )  # fmt: skip
    struct.pack_into("<I", packed, 8, zlib.crc32(memoryview(packed)[_CHECKED_FROM:]))
    return bytes(packed)


def _unpack(octets: bytes) -> tuple[int, Position] | None:
    if len(octets) < _RECORD.size or not octets.startswith(_MAGIC):
        return None
    _, check, turn, settled, floor, *numbers, boot = _RECORD.unpack_from(octets)
    if check != zlib.crc32(octets[_CHECKED_FROM : _RECORD.size]):
        return None
    before, stamp = Totals(*numbers[:3]), Stamp(numbers[3], numbers[4], boot)
    return turn, Position(settled, floor, before, stamp)
