"""
Capture files octet by octet: what the readers must understand, written by other code than theirs.

Source: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Order = Literal["<", ">"]

ETHERNET = 1
FIRST_NS = 1_700_000_000_123_456_789
#: Between two packets of a capture: every digit changes.
STEP_NS = 1_001_002_003

SECTION, INTERFACE, OBSOLETE, SIMPLE, ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
IF_NAME, IF_TSRESOL, IF_TSOFFSET = 2, 9, 14
FLAGS = 2
INBOUND, OUTBOUND = 1, 2


@dataclass(frozen=True)
class Packet:
    """
    A packet to write. ``octets`` is its length on the wire: that of ``data`` unless it was snapped.
    """

    data: bytes
    time_ns: int
    octets: int

    def snapped(self, to: int) -> Packet:
        """The same packet, of which only the first octets were captured."""
        return Packet(self.data[:to], self.time_ns, self.octets)


def timed(frames: Iterable[bytes], first_ns: int = FIRST_NS) -> list[Packet]:
    """Frames one after the other, at fixed times."""
    return [
        Packet(frame, first_ns + number * STEP_NS, len(frame))
        for number, frame in enumerate(frames)
    ]


def pcap(
    packets: Sequence[Packet],
    *,
    link_type: int = ETHERNET,
    order: Order = "<",
    ns_per_unit: Literal[1, 1000] = 1,
) -> bytes:
    """A pcap file with nanoseconds, or with microseconds."""
    magic = {1: 0xA1B23C4D, 1000: 0xA1B2C3D4}[ns_per_unit]
    written = [struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262144, link_type)]
    for packet in packets:
        seconds, ns = divmod(packet.time_ns, 1_000_000_000)
        captured = len(packet.data)
        head = struct.pack(f"{order}IIII", seconds, ns // ns_per_unit, captured, packet.octets)
        written.append(head + packet.data)
    return b"".join(written)


def block(kind: int, body: bytes, order: Order = "<") -> bytes:
    """Any pcapng block."""
    padded = _padded(body)
    length = struct.pack(f"{order}I", 12 + len(padded))
    return struct.pack(f"{order}I", kind) + length + padded + length


def option(code: int, value: bytes, order: Order = "<") -> bytes:
    """An option of a block."""
    return struct.pack(f"{order}HH", code, len(value)) + _padded(value)


def section(order: Order = "<") -> bytes:
    """A section header of unknown length."""
    return block(SECTION, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(
    link_type: int = ETHERNET, options: bytes = b"", order: Order = "<", snaplen: int = 0
) -> bytes:
    """An interface description."""
    fixed = struct.pack(f"{order}HHI", link_type, 0, snaplen)
    return block(INTERFACE, fixed + _ended(options, order), order)


def enhanced(
    packet: Packet,
    number: int = 0,
    *,
    ticks: int | None = None,
    options: bytes = b"",
    order: Order = "<",
) -> bytes:
    """An enhanced packet block; its time is in microseconds unless ``ticks`` says otherwise."""
    when = packet.time_ns // 1000 if ticks is None else ticks
    high, low = when >> 32, when & 0xFFFFFFFF
    fixed = struct.pack(f"{order}IIIII", number, high, low, len(packet.data), packet.octets)
    return block(ENHANCED, fixed + _padded(packet.data) + _ended(options, order), order)


def obsolete(packet: Packet, number: int = 0, *, options: bytes = b"", order: Order = "<") -> bytes:
    """A packet block as written before 2012, with a count of 7 drops; its time in microseconds."""
    when = packet.time_ns // 1000
    high, low = when >> 32, when & 0xFFFFFFFF
    fixed = struct.pack(f"{order}HHIIII", number, 7, high, low, len(packet.data), packet.octets)
    return block(OBSOLETE, fixed + _padded(packet.data) + _ended(options, order), order)


def simple(packet: Packet, order: Order = "<") -> bytes:
    """A simple packet block: no time, and the first interface's."""
    return block(SIMPLE, struct.pack(f"{order}I", packet.octets) + packet.data, order)


def _padded(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % 4)


def _ended(options: bytes, order: Order) -> bytes:
    return options + struct.pack(f"{order}HH", 0, 0) if options else b""
