"""
Read packets from a capture file: pcap and pcapng, of any byte order and resolution.

Sans-I/O beyond one binary stream, and lenient to the end: every packet before the damage is handed
out, then one error says where the file stopped making sense. Nothing is believed that could make us
allocate more than the file holds.

Source: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from exporter.errors import CaptureFileError

#: No capture has larger packets: libpcap's MAXIMUM_SNAPLEN for its largest link types is 128 MiB.
_LARGEST = 128 << 20
#: What is asked of the stream at once. It may allocate that much before it looks at the file.
_PART = 1 << 18

_PCAP = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}  # magic -> ns per unit
_SECTION, _INTERFACE, _SIMPLE, _ENHANCED, _OBSOLETE = 0x0A0D0D0A, 1, 3, 6, 2
_BYTE_ORDER = 0x1A2B3C4D
_IF_NAME, _IF_TSRESOL, _IF_TSOFFSET = 2, 9, 14
#: Of enhanced packet blocks, and of the obsolete ones.
_FLAGS = 2
_OUTBOUND = 2


@dataclass(frozen=True)
class CapturedPacket:
    """
    One packet of a file.

    Args:
        data: What was captured, from the link layer on.
        octets: Its length on the wire, at least that of ``data``.
        time_ns: Unix ns.
        link_type: LINKTYPE number.
        interface: Number of the interface within the file.
        outbound: The capturing host sent it, as far as the file says.
    """

    data: bytes
    octets: int
    time_ns: int
    link_type: int
    interface: int = 0
    outbound: bool = False


@dataclass
class _Interface:
    """An interface description block."""

    link_type: int
    snaplen: int = 0
    name: str = ""
    ticks_per_second: int = 1_000_000
    offset_s: int = 0

    def time_ns(self, ticks: int) -> int:
        return ticks * 1_000_000_000 // self.ticks_per_second + self.offset_s * 1_000_000_000


@dataclass
class CaptureFile:
    """
    A capture file.

    Args:
        stream: Open for reading, at its beginning. Stays the caller's.
    """

    stream: BinaryIO
    names: dict[int, str] = field(default_factory=dict)

    def packets(self) -> Iterator[CapturedPacket]:
        """
        The packets in the file's order; ``names`` learns what interfaces are called on the way.

        Raises:
            CaptureFileError: Where the file is damaged, cut short, or at once if it is foreign.
        """
        magic = self._some(4)
        if len(magic) < 4:
            raise CaptureFileError("the file is too short to be a capture")
        for order in "<", ">":
            (number,) = struct.unpack(f"{order}I", magic)
            if number in _PCAP:
                yield from self._pcap(order, _PCAP[number])
                return
        if number == _SECTION:
            yield from self._pcapng()
            return
        raise CaptureFileError("the file is neither pcap nor pcapng")

    def _some(self, size: int) -> bytes:
        try:
            return self.stream.read(size)
        except OSError as err:
            raise CaptureFileError(f"cannot be read further: {err.strerror}") from err

    def _read(self, size: int, what: str) -> bytes:
        parts = []
        while size:
            part = self._some(min(size, _PART))
            if not part:
                raise CaptureFileError(f"the file ends within {what}")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _pcap(self, order: str, ns_per_unit: int) -> Iterator[CapturedPacket]:
        header = self._read(20, "its header")
        (link_type,) = struct.unpack_from(f"{order}I", header, 16)
        link_type &= 0xFFFF  # the upper bits say whether frames end with a check sequence
        record = struct.Struct(f"{order}IIII")
        number = 0
        while start := self._some(1):
            number += 1
            head = start + self._read(record.size - 1, f"the header of packet {number}")
            seconds, fraction, captured, octets = record.unpack(head)
            if captured > _LARGEST:
                raise CaptureFileError(f"packet {number} claims {captured} octets: damaged")
            data = self._read(captured, f"packet {number}")
            time_ns = seconds * 1_000_000_000 + fraction * ns_per_unit
            yield CapturedPacket(data, max(octets, captured), time_ns, link_type)

    def _pcapng(self) -> Iterator[CapturedPacket]:
        order, interfaces, known = "<", list[_Interface](), 0
        kind_octets = _SECTION.to_bytes(4, "little")
        while kind_octets:
            kind_octets += self._read(4 - len(kind_octets), "a block's type")
            order, kind, body = self._block(order, kind_octets)
            if kind == _SECTION:
                known += len(interfaces)
                interfaces = []
            elif kind == _INTERFACE:
                interfaces.append(_interface(order, body))
                if interfaces[-1].name:
                    self.names[known + len(interfaces) - 1] = interfaces[-1].name
            elif kind in (_ENHANCED, _SIMPLE, _OBSOLETE):
                yield _packet(order, kind, body, interfaces, known)
            kind_octets = self._some(1)

    def _block(self, order: str, kind_octets: bytes) -> tuple[str, int, bytes]:
        """The byte order from here on, the block's type, and its body."""
        length_octets = self._read(4, "a block's length")
        extra = b""
        if kind_octets == _SECTION.to_bytes(4, "little"):  # a palindrome in either order
            extra = self._read(4, "a section header")
            order = _section_order(extra)
        (kind,) = struct.unpack(f"{order}I", kind_octets)
        (length,) = struct.unpack(f"{order}I", length_octets)
        if length % 4 or not 12 + len(extra) <= length <= _LARGEST:
            raise CaptureFileError(f"a block claims {length} octets: damaged")
        body = extra + self._read(length - 12 - len(extra), "a block")
        if self._read(4, "a block") != length_octets:
            raise CaptureFileError("a block's two lengths differ: damaged")
        return order, kind, body


def _section_order(octets: bytes) -> str:
    for order in "<", ">":
        if struct.unpack(f"{order}I", octets) == (_BYTE_ORDER,):
            return order
    raise CaptureFileError("a section header without byte order: damaged")


def _options(order: str, data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        code, length = struct.unpack_from(f"{order}HH", data, at)
        if code == 0 or at + 4 + length > len(data):
            return
        yield code, data[at + 4 : at + 4 + length]
        at += 4 + (length + 3 & ~3)


def _interface(order: str, body: bytes) -> _Interface:
    if len(body) < 8:
        raise CaptureFileError("an interface description is too short: damaged")
    link_type, snaplen = struct.unpack_from(f"{order}H2xI", body)
    described = _Interface(link_type, snaplen)
    for code, value in _options(order, body[8:]):
        if code == _IF_NAME:
            described.name = value.rstrip(b"\0").decode(errors="replace")
        elif code == _IF_TSRESOL and len(value) == 1:
            power = value[0] & 0x7F
            described.ticks_per_second = 2**power if value[0] & 0x80 else 10**power
        elif code == _IF_TSOFFSET and len(value) == 8:
            (described.offset_s,) = struct.unpack(f"{order}q", value)
    return described


def _packet(
    order: str, kind: int, body: bytes, interfaces: list[_Interface], known: int
) -> CapturedPacket:
    try:
        if kind == _SIMPLE:
            (octets,) = struct.unpack_from(f"{order}I", body)
            number, ticks, start = 0, 0, 4
            captured = min(octets, interfaces[0].snaplen or octets)
        else:
            layout = f"{order}IIIII" if kind == _ENHANCED else f"{order}HHIIII"
            number, *rest = struct.unpack_from(layout, body)
            high, low, captured, octets = rest[-4:]
            ticks, start = high << 32 | low, 20
        interface = interfaces[number]
    except (struct.error, IndexError) as err:
        raise CaptureFileError("a packet block is damaged") from err
    if captured > len(body) - start:
        raise CaptureFileError("a packet block is shorter than its packet: damaged")
    flags = 0
    if kind != _SIMPLE:
        for code, value in _options(order, body[start + (captured + 3 & ~3) :]):
            if code == _FLAGS and len(value) == 4:
                (flags,) = struct.unpack(f"{order}I", value)
    return CapturedPacket(
        data=body[start : start + captured],
        octets=max(octets, captured),
        time_ns=interface.time_ns(ticks),
        link_type=interface.link_type,
        interface=known + number,
        outbound=flags & 3 == _OUTBOUND,
    )
