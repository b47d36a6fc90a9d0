"""
The header before each stored batch.

It has its own checksum, and the sum over all batches before it: whatever is damaged, the next
header that can be read says how much is missing.

::

    magic 8 | CRC-32 of what follows 4 | CRC-32 of the body 4 | number 8 | octets of the body 8 |
    flows, packets, octets 3 x 8 | the same of all batches before 3 x 8 | age 8 | CLOCK_BOOTTIME 8 |
    boot 16 | digest of the layout 8 | zero 8                                       little endian
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from exporter.batch.batch import Totals
from exporter.fanout.spool.age import Stamp
from exporter.fanout.spool.body import Body

MAGIC = b"\xf5FEspool"
_HEADER = struct.Struct("<8sII2Q3Q3Q2Q16s8s8x")
SIZE = _HEADER.size
_CHECKED_FROM = 12
_WORD = 1 << 64


@dataclass(frozen=True)
class Header:
    """
    What a header says.

    Args:
        number: Of the batch; each is one more than the one before.
        octets: Of the body.
        crc: Of the body.
        totals: Of the batch.
        before: Sums over all batches with smaller numbers, modulo 2 ** 64.
        stamp: When it was written.
        digest: Of its layout.
    """

    number: int
    octets: int
    crc: int
    totals: Totals
    before: Totals
    stamp: Stamp
    digest: bytes

    @property
    def after(self) -> Totals:
        """Sums up to and with this batch, modulo 2 ** 64."""
        return wrapped(self.before + self.totals)

    @property
    def size(self) -> int:
        """Octets of header and body."""
        return SIZE + self.octets


def pack(number: int, body: Body, before: Totals, stamp: Stamp, digest: bytes) -> bytes:
    """A header as octets."""
    totals = wrapped(body.totals)
    packed = bytearray(
        _HEADER.pack(
            MAGIC, 0, body.crc, number, body.octets,
            totals.flows, totals.packets, totals.octets,
            before.flows, before.packets, before.octets,
            stamp.age_ns, stamp.boot_ns, stamp.boot, digest,
        )
    )  # fmt: skip
    struct.pack_into("<I", packed, 8, zlib.crc32(memoryview(packed)[_CHECKED_FROM:]))
    return bytes(packed)


def unpack(octets: bytes) -> Header | None:
    """A header from octets that begin with one; ``None`` if they do not, or it is damaged."""
    if len(octets) < SIZE or not octets.startswith(MAGIC):
        return None
    _, check, crc, number, size, *numbers, boot, digest = _HEADER.unpack_from(octets)
    if check != zlib.crc32(octets[_CHECKED_FROM:SIZE]):
        return None
    return Header(
        number, size, crc, Totals(*numbers[:3]), Totals(*numbers[3:6]),
        Stamp(numbers[6], numbers[7], boot), digest,
    )  # fmt: skip


def wrapped(totals: Totals) -> Totals:
    """Sums as a header holds them."""
    return Totals(totals.flows % _WORD, totals.packets % _WORD, totals.octets % _WORD)
