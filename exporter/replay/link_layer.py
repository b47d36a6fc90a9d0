"""
Any link layer as Ethernet, so that the kernel program can be given it.

Only the link layer is replaced: the packet behind it, its length on the wire and its time stay as
captured.

Source: the link-layer header types registry of the tcpdump group (LINKTYPE_*).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from exporter.errors import CaptureFileError
from exporter.replay.capture_file import CapturedPacket

_NULL, _ETHERNET, _RAW, _LOOP, _SLL, _IPV4, _IPV6, _SLL2 = 0, 1, 101, 108, 113, 228, 229, 276
#: DLT_RAW, as files of some systems carry it instead of LINKTYPE_RAW.
_RAW_ALIASES = (12, 14)
_ETHERTYPE = {4: b"\x08\x00", 6: b"\x86\xdd"}
#: Address families of IPv6 on the systems that write NULL and LOOP: BSD, FreeBSD, Darwin.
_FAMILIES = {2: b"\x08\x00", 10: b"\x86\xdd", 24: b"\x86\xdd", 28: b"\x86\xdd", 30: b"\x86\xdd"}
_NOT_IP = b"\xff\xff"
_NO_MACS = bytes(12)
_SLL_OUTGOING = 4
#: Packet type, ARPHRD (skipped), address length, address, protocol.
_SLL_LAYOUT = struct.Struct(">H2xH8s2s")
#: Protocol, reserved, interface and ARPHRD (skipped), packet type, address length, address.
_SLL2_LAYOUT = struct.Struct(">2s8xBB8s")
_COOKED = {_SLL: _SLL_LAYOUT, _SLL2: _SLL2_LAYOUT}
_ETHERNET_HEADER = 14


@dataclass(frozen=True)
class Frame:
    """
    An Ethernet frame that stands for a captured packet.

    Args:
        data: As much of it as was captured.
        octets: Its length, had all been captured.
        outbound: The capturing host sent it.
    """

    data: bytes
    octets: int
    outbound: bool


def frame(packet: CapturedPacket) -> Frame:
    """
    A captured packet as an Ethernet frame.

    Raises:
        CaptureFileError: If its link layer is unknown.
    """
    kind = packet.link_type
    if kind == _ETHERNET:
        return Frame(packet.data, packet.octets, packet.outbound)
    if kind in (_RAW, _IPV4, _IPV6, *_RAW_ALIASES):
        version = packet.data[0] >> 4 if packet.data else 0
        return _framed(packet, 0, _NO_MACS, _ETHERTYPE.get(version, _NOT_IP))
    if kind in (_NULL, _LOOP):
        return _framed(packet, 4, _NO_MACS, _family(packet.data, kind))
    if kind in _COOKED:
        return _cooked(packet, _COOKED[kind])
    raise CaptureFileError(
        f"link layer {kind} cannot be replayed: Ethernet, raw IP and Linux cooked can"
    )


def _framed(
    packet: CapturedPacket, header: int, macs: bytes, ethertype: bytes, *, outbound: bool = False
) -> Frame:
    return Frame(
        macs + ethertype + packet.data[header:],
        max(packet.octets - header, 0) + _ETHERNET_HEADER,
        outbound or packet.outbound,
    )


def _family(data: bytes, kind: int) -> bytes:
    """EtherType of an address family: in the byte order of the host that captured, for NULL."""
    orders = ("little", "big") if kind == _NULL else ("big",)
    for order in orders:
        family = int.from_bytes(data[:4], order)  # type: ignore[arg-type]
        if family in _FAMILIES:
            return _FAMILIES[family]
    return _NOT_IP


def _cooked(packet: CapturedPacket, layout: struct.Struct) -> Frame:
    """Linux cooked capture: only the source's MAC is known."""
    data = packet.data
    if len(data) < layout.size:
        return Frame(data, packet.octets, packet.outbound)
    fields = layout.unpack_from(data)
    protocol, kind, length, address = fields if layout is _SLL2_LAYOUT else _sll(fields)
    source = address[:6] if length == 6 else bytes(6)
    outbound = kind == _SLL_OUTGOING
    return _framed(packet, layout.size, bytes(6) + source, protocol, outbound=outbound)


def _sll(fields: tuple[Any, ...]) -> tuple[Any, ...]:
    """Fields of the first version in the order of the second."""
    kind, length, address, protocol = fields
    return protocol, kind, length, address
