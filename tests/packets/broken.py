"""Captures of what is not whole, not right or not IP."""

from __future__ import annotations

import struct

from scapy.layers.inet6 import IPv6ExtHdrHopByHop, PadN
from scapy.layers.l2 import ARP, LLC, STP, Dot1Q, Dot3
from scapy.packet import Raw

from tests.packets.capture import capture
from tests.packets.capture_writer import pcap, timed
from tests.packets.frames import (
    ACK,
    CLIENT,
    CLIENT_MAC,
    PSH,
    SERVER,
    SERVER_MAC,
    SYN,
    data,
    ethernet,
    ipv4,
    ipv6,
    tcp,
    udp,
    with_octets,
)

#: Where things are in an Ethernet frame without tags.
IP_AT, IPV4_TRANSPORT_AT, IPV6_TRANSPORT_AT = 14, 34, 54


@capture(malformed=2)
def snapped() -> bytes:
    """Packets of which only the first octets were captured; two lack the ports or the flags."""
    segment = ethernet(ipv4(tcp(PSH | ACK, octets=1460)))
    datagram = ethernet(ipv6(udp(octets=1400)))
    small = ethernet(ipv4(udp(octets=100)))
    one, two, three, four, five, six = timed([segment, datagram, segment, small, segment, datagram])
    return pcap(
        [
            one.snapped(68),
            two.snapped(68),
            three.snapped(IPV4_TRANSPORT_AT + 20),  # up to the end of TCP's header
            four.snapped(IPV4_TRANSPORT_AT + 4),  # up to the ports
            five.snapped(IPV4_TRANSPORT_AT + 13),
            six.snapped(IPV6_TRANSPORT_AT + 3),
        ]
    )


@capture(not_ip=1)
def ethernet_padding() -> bytes:
    """Short packets that Ethernet padded to 60 octets: the IP length is that of the packet."""
    short = [
        ethernet(ipv4(tcp(SYN))),
        ethernet(ipv4(udp(octets=1))),
        ethernet(ipv4(data(8, 0, 0, 0, 0, 1, 0, 1), proto=1)),
        ethernet(ipv4(b"", proto=253)),
        ethernet(ipv6(b"", nh=59)),
        ethernet(Dot1Q(vlan=5) / ipv4(tcp(ACK))),
        ethernet(ARP(hwsrc=CLIENT_MAC, psrc=CLIENT, pdst=SERVER)),
    ]
    return pcap(timed(frame.ljust(60, b"\0") for frame in short))


@capture(not_ip=7)
def not_ip() -> bytes:
    """ARP, spanning tree over LLC, LLDP, IPX over 802.3, MPLS, a tag around ARP, a bare header."""
    chassis = bytes.fromhex("0207040200 5e000001 040405657468300602 0078 0000")
    return pcap(
        timed(
            [
                ethernet(ARP(hwsrc=CLIENT_MAC, psrc=CLIENT, pdst=SERVER)),
                bytes(Dot3(src=CLIENT_MAC, dst="01:80:c2:00:00:00") / LLC() / STP()),
                ethernet(Raw(chassis), dst="01:80:c2:00:00:0e", type=0x88CC),
                bytes(Dot3(src=CLIENT_MAC, dst=SERVER_MAC) / Raw(b"\xff\xff" + bytes(30))),
                ethernet(Raw(bytes([0, 1, 1, 64]) + bytes(ipv4(udp()))), type=0x8847),
                ethernet(Dot1Q(vlan=3, type=0x0806) / Raw(bytes(28))),
                ethernet(Raw(b""), type=0x88B5),
            ]
        )
    )


def _cut(frame: bytes, *lengths: int) -> list[bytes]:
    """The frame as it would be had the wire carried only its first octets."""
    return [frame[:length] for length in lengths]


@capture(malformed=34)
def truncated_on_the_wire() -> bytes:
    """Frames that end within a header, or before the length that their IP header claims."""
    segment = ethernet(ipv4(tcp(SYN)))
    datagram = ethernet(ipv6(udp()))
    tagged = ethernet(Dot1Q(vlan=5) / ipv4(udp()))
    extended = ethernet(ipv6(IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))]) / udp()))
    return pcap(
        timed(
            [
                *_cut(segment, 0, 1, 12, 13, 14, 15, 33, 34, 37, 38, 47, 48, 53),
                *_cut(datagram, 13, 14, 15, 53, 54, 57, 58, 61, 65),
                *_cut(tagged, 14, 15, 17, 18, 19, 37, 45),
                *_cut(extended, 54, 55, 61, 62, 69),
            ]
        )
    )


def _short_transport() -> list[bytes]:
    """Whole packets that are shorter than the header of their transport protocol."""
    sizes = {6: 19, 17: 7, 132: 11, 1: 7}
    return [
        *(ethernet(ipv4(Raw(bytes(size)), proto=number)) for number, size in sizes.items()),
        *(ethernet(ipv6(Raw(bytes(size)), nh=number)) for number, size in {6: 19, 58: 7}.items()),
        ethernet(ipv4(b"", proto=6)),
    ]


@capture(malformed=27)
def nonsense() -> bytes:
    """Headers that contradict themselves, each other or the frame, and between them one good."""
    four, six = ethernet(ipv4(tcp(SYN))), ethernet(ipv6(udp()))
    tcp_offset = IPV4_TRANSPORT_AT + 12
    mapped = "::ffff:192.0.2.1"
    option = bytes([17, 0, 1, 4, 0, 0, 0, 0])
    return pcap(
        timed(
            [
                with_octets(four, IP_AT, "B", 0x65),  # version 6 under IPv4's EtherType
                with_octets(four, IP_AT, "B", 0x05),
                with_octets(four, IP_AT, "B", 0x44),  # a header of 16 octets
                with_octets(four, IP_AT, "B", 0x4F),  # longer than the packet
                with_octets(four, IP_AT + 2, ">H", 0),
                with_octets(four, IP_AT + 2, ">H", 19),
                with_octets(four, IP_AT + 2, ">H", 41),  # longer than the frame
                with_octets(four, IP_AT + 2, ">H", 65535),
                with_octets(four, tcp_offset, "B", 0x40),  # a header of 16 octets
                with_octets(four, tcp_offset, "B", 0x60),  # longer than the segment
                with_octets(six, IP_AT, "B", 0x45),  # version 4 under IPv6's EtherType
                with_octets(six, IP_AT + 4, ">H", 13),
                with_octets(six, IP_AT + 4, ">H", 65535),
                with_octets(six, IP_AT + 4, ">H", 7),  # no room for UDP's header
                ethernet(ipv6(Raw(b"\x11\xff" + option[2:]), nh=0)),  # option beyond the packet
                ethernet(ipv6(Raw(option[:4]), nh=0)),
                ethernet(ipv6(Raw(b""), nh=44)),
                with_octets(ethernet(ipv6(Raw(option), nh=0)), IP_AT + 4, ">H", 0),
                ethernet(ipv6(udp(), src=mapped)),
                ethernet(ipv6(udp(), dst=mapped)),
                *_short_transport(),
                four,
            ]
        )
    )


@capture(malformed=6)
def cut_link_layer_cooked() -> bytes:
    """Linux cooked packets whose link-layer header is not all there, and one that is whole."""
    header = struct.pack(">HHH8sH", 4, 1, 6, bytes(8), 0x0800)
    whole = header + bytes(ipv4(tcp(SYN)))
    return pcap(timed(_cut(whole, 0, 1, 13, 14, 15, 16, len(whole))), link_type=113)


@capture(malformed=6)
def cut_link_layer_cooked_v2() -> bytes:
    """The same of the second version; octets 12 and 13 must not be taken for an EtherType."""
    header = struct.pack(">HHIHBB8s", 0x0800, 0, 1, 1, 4, 6, b"\x02\x00\x08\x00\x45\x00\0\0")
    whole = header + bytes(ipv4(tcp(SYN)))
    return pcap(timed(_cut(whole, 0, 14, 16, 18, 19, 20, len(whole))), link_type=276)


@capture(malformed=5)
def cut_link_layer_null() -> bytes:
    """BSD loopback packets whose family is not all there, and one that is whole."""
    whole = struct.pack("<I", 2) + bytes(ipv4(tcp(SYN)))
    return pcap(timed(_cut(whole, 0, 1, 2, 3, 4, len(whole))), link_type=0)


@capture(malformed=3)
def cut_raw_ip() -> bytes:
    """Raw IP packets that end within the IP header, and one that is whole."""
    whole = bytes(ipv4(tcp(SYN)))
    return pcap(timed(_cut(whole, 0, 1, 19, len(whole))), link_type=101)
