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
_IPV4_TYPE, _IPV6_TYPE = b"\x08\x00", b"\x86\xdd"
_VERSIONS = {4: _IPV4_TYPE, 6: _IPV6_TYPE}
_ONE_VERSION = {_IPV4: _IPV4_TYPE, _IPV6: _IPV6_TYPE}
#: AF_INET is 2 everywhere; AF_INET6 is 24 on NetBSD and OpenBSD, 28 on FreeBSD, 30 on Darwin.
_FAMILIES = {2: _IPV4_TYPE} | dict.fromkeys((24, 28, 30), _IPV6_TYPE)
_NOT_IP = b"\xff\xff"
_NO_MACS = bytes(12)
_SLL_OUTGOING = 4
#: Packet type, ARPHRD (skipped), address length, address, protocol.
_SLL_LAYOUT = struct.Struct(">H2xH8s2s")
#: Protocol, reserved, interface and ARPHRD (skipped), packet type, address length, address.
_SLL2_LAYOUT = struct.Struct(">2s8xBB8s")
_COOKED = {_SLL: _SLL_LAYOUT, _SLL2: _SLL2_LAYOUT}
_ETHERNET_HEADER = 14
#: Link layer -> octets of its header. Raw IP has none: its first octet tells the version.
_HEADERS = {
    _ETHERNET: _ETHERNET_HEADER,
    _NULL: 4,
    _LOOP: 4,
    _SLL: _SLL_LAYOUT.size,
    _SLL2: _SLL2_LAYOUT.size,
} | dict.fromkeys((_RAW, _IPV4, _IPV6, *_RAW_ALIASES), 1)


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


def frame(packet: CapturedPacket) -> Frame | None:
    """
    A captured packet as an Ethernet frame; ``None`` if its link-layer header is not all there.

    Raises:
        CaptureFileError: If its link layer is unknown.
    """
    kind, data = packet.link_type, packet.data
    if kind not in _HEADERS:
        raise CaptureFileError(
            f"link layer {kind} cannot be replayed: "
            "Ethernet, raw IP, Linux cooked and BSD loopback can"
        )
    if len(data) < _HEADERS[kind]:
        return None
    if kind == _ETHERNET:
        return Frame(data, packet.octets, packet.outbound)
    if kind in _COOKED:
        return _cooked(packet, _COOKED[kind])
    if kind in (_NULL, _LOOP):
        return _framed(packet, 4, _NO_MACS, _family(data, kind))
    by_version = _VERSIONS.get(data[0] >> 4, _NOT_IP)
    return _framed(packet, 0, _NO_MACS, _ONE_VERSION.get(kind, by_version))


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
    fields = layout.unpack_from(packet.data)
    protocol, kind, length, address = fields if layout is _SLL2_LAYOUT else _sll(fields)
    source = address[:6] if length == 6 else bytes(6)
    outbound = kind == _SLL_OUTGOING
    return _framed(packet, layout.size, bytes(6) + source, protocol, outbound=outbound)


def _sll(fields: tuple[Any, ...]) -> tuple[Any, ...]:
    """Fields of the first version in the order of the second."""
    kind, length, address, protocol = fields
    return protocol, kind, length, address
