"""Captures of link layers and file formats."""

from __future__ import annotations

import struct
from typing import Any

from scapy.layers.inet import ICMP
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q
from scapy.packet import Raw

from tests.packets import capture_writer as writer
from tests.packets.capture import capture
from tests.packets.capture_writer import ETHERNET, Order, Packet, pcap, timed
from tests.packets.frames import (
    ACK,
    CLIENT,
    CLIENT_MAC,
    PSH,
    SERVER,
    SERVER_MAC,
    SYN,
    ethernet,
    ipv4,
    ipv6,
    reply,
    tcp,
    udp,
    with_octets,
)

RAW, LOOP, COOKED, IPV4, IPV6, COOKED2 = 101, 108, 113, 228, 229, 276


@capture(not_ip=1)
def vlan_one_tag() -> bytes:
    """One 802.1Q tag: the same addresses and ports on two VLANs, untagged, and with priority 0."""
    return pcap(
        timed(
            [
                ethernet(Dot1Q(vlan=1) / ipv4(tcp(SYN))),
                ethernet(Dot1Q(vlan=4094) / ipv4(tcp(SYN))),
                ethernet(ipv4(tcp(ACK))),
                ethernet(Dot1Q(vlan=0, prio=5) / ipv4(tcp(ACK, octets=9))),
                ethernet(Dot1Q(vlan=1, prio=7) / ipv4(tcp(PSH))),
                ethernet(Dot1Q(vlan=1, dei=1) / ipv6(udp())),
                ethernet(Dot1AD(vlan=7) / ipv6(udp())),
                ethernet(Dot1Q(vlan=1) / ARP(hwsrc=CLIENT_MAC, psrc=CLIENT, pdst=SERVER)),
            ]
        )
    )


@capture(not_ip=1)
def vlan_two_tags() -> bytes:
    """Two tags: 802.1ad outside 802.1Q, 802.1Q twice, the older 0x9100, a priority tag outside."""
    inner = Dot1Q(vlan=200) / ipv4(udp())
    older = with_octets(ethernet(Dot1Q(vlan=100) / inner), 12, ">H", 0x9100)
    return pcap(
        timed(
            [
                ethernet(Dot1AD(vlan=100) / inner),
                ethernet(Dot1Q(vlan=100) / Dot1Q(vlan=200) / ipv4(udp())),
                older,
                ethernet(Dot1AD(vlan=101) / inner),
                ethernet(Dot1AD(vlan=100) / Dot1Q(vlan=201) / ipv6(tcp(SYN))),
                ethernet(Dot1AD(vlan=0) / Dot1Q(vlan=300) / ipv4(udp())),
                ethernet(Dot1AD(vlan=100) / inner / Raw(bytes(7))),
                ethernet(Dot1AD(vlan=1) / Dot1Q(vlan=2) / ARP(hwsrc=CLIENT_MAC, psrc=CLIENT)),
            ]
        )
    )


def _packets() -> list[bytes]:
    """IP packets without a link layer."""
    return [
        bytes(ipv4(tcp(SYN))),
        bytes(ipv6(udp())),
        bytes(ipv4(tcp(PSH | ACK, octets=50))),
        bytes(ipv6(udp(octets=40))),
    ]


@capture(not_ip=1)
def raw_ip() -> bytes:
    """Raw IP, version 4 and 6 mixed, and a packet of another version."""
    return pcap(timed([*_packets(), b"\x55" * 40]), link_type=RAW)


@capture()
def raw_ip_dlt_12() -> bytes:
    """Raw IP under the number that BSD gives it."""
    return pcap(timed(_packets()), link_type=12)


@capture()
def raw_ipv4() -> bytes:
    """The link type of IPv4 alone."""
    return pcap(timed(_packets()[::2]), link_type=IPV4)


@capture()
def raw_ipv6() -> bytes:
    """The link type of IPv6 alone."""
    return pcap(timed(_packets()[1::2]), link_type=IPV6)


def _cooked(payload: Any, kind: int, protocol: int, mac: str, *, hardware: int = 1) -> bytes:
    address = bytes.fromhex(mac.replace(":", ""))
    header = struct.pack(">HHH8sH", kind, hardware, len(address), address, protocol)
    return header + bytes(payload)


def _cooked2(payload: Any, kind: int, protocol: int, mac: str, *, hardware: int = 1) -> bytes:
    address = bytes.fromhex(mac.replace(":", ""))
    header = struct.pack(">HHIHBB8s", protocol, 0, 2, hardware, kind, len(address), address)
    return header + bytes(payload)


def _cooked_frames(cooked: Any) -> list[bytes]:
    """To us, from us, multicast, on the loopback, on a tunnel without addresses, tagged; ARP."""
    arp = ARP(hwsrc=CLIENT_MAC, psrc=CLIENT, pdst=SERVER)
    tagged = bytes(Dot1Q(vlan=9) / ipv4(udp()))
    return [
        cooked(ipv4(tcp(SYN)), 4, 0x0800, CLIENT_MAC),
        cooked(ipv4(tcp(SYN | ACK), src=SERVER, dst=CLIENT), 0, 0x0800, SERVER_MAC),
        cooked(ipv6(udp()), 4, 0x86DD, CLIENT_MAC),
        cooked(ipv6(udp(), dst="ff02::1"), 2, 0x86DD, SERVER_MAC),
        cooked(ipv4(tcp(ACK, octets=30)), 4, 0x0800, CLIENT_MAC),
        cooked(ipv4(udp()), 0, 0x0800, "00:00:00:00:00:00", hardware=772),
        cooked(ipv4(ICMP(type=8, id=1)), 0, 0x0800, "", hardware=65534),
        cooked(tagged, 0, 0x8100, SERVER_MAC),
        cooked(arp, 1, 0x0806, SERVER_MAC),
    ]


@capture(not_ip=1)
def linux_cooked() -> bytes:
    """Linux cooked capture: packet types tell the direction, only the source has an address."""
    return pcap(timed(_cooked_frames(_cooked)), link_type=COOKED)


@capture(not_ip=1)
def linux_cooked_v2() -> bytes:
    """The same packets in the second version, whose header is longer and in another order."""
    return pcap(timed(_cooked_frames(_cooked2)), link_type=COOKED2)


def _null(order: Order, *families6: int) -> list[bytes]:
    four, six, longer, last = _packets()
    ipv4_header = struct.pack(f"{order}I", 2)
    frames = [ipv4_header + four, ipv4_header + longer]
    frames += [struct.pack(f"{order}I", family) + six for family in families6]
    return [*frames, struct.pack(f"{order}I", 7) + last]


@capture(not_ip=1)
def bsd_null_little_endian() -> bytes:
    """BSD loopback of a little-endian host: IPv6 has a family of its own on each BSD and macOS."""
    return pcap(timed(_null("<", 24, 28, 30)), link_type=0)


@capture(not_ip=1)
def bsd_null_big_endian() -> bytes:
    """BSD loopback of a big-endian host, in a file of its byte order."""
    return pcap(timed(_null(">", 24, 28, 30)), link_type=0, order=">")


@capture(not_ip=1)
def bsd_loop() -> bytes:
    """OpenBSD loopback: the family is always in network order."""
    return pcap(timed(_null(">", 24)), link_type=LOOP)


def _few() -> list[Packet]:
    return timed([ethernet(ipv4(tcp(SYN))), ethernet(ipv6(udp())), ethernet(ipv4(tcp(ACK)))])


@capture()
def pcap_microseconds() -> bytes:
    """A little-endian file with microseconds."""
    return pcap(_few(), ns_per_unit=1000)


@capture()
def pcap_big_endian() -> bytes:
    """A big-endian file with nanoseconds."""
    return pcap(_few(), order=">")


@capture()
def pcap_big_endian_microseconds() -> bytes:
    """A big-endian file with microseconds."""
    return pcap(_few(), order=">", ns_per_unit=1000)


@capture()
def pcap_frame_check_sequence() -> bytes:
    """A file whose link type says that each frame ends with four octets of check sequence."""
    frames = [ethernet(ipv4(tcp(SYN))) + bytes(4), ethernet(ipv6(udp())) + bytes(4)]
    return pcap(timed(frames), link_type=0x44000000 | ETHERNET)


def _resolution(power: int, order: Order = "<") -> bytes:
    return writer.option(writer.IF_TSRESOL, bytes([power]), order)


def _name(name: str, order: Order = "<") -> bytes:
    return writer.option(writer.IF_NAME, name.encode(), order)


def _flags(flags: int, order: Order = "<") -> bytes:
    return writer.option(writer.FLAGS, struct.pack(f"{order}I", flags), order)


@capture(kind="pcapng")
def two_interfaces() -> bytes:
    """Ethernet and raw IP interfaces with names, nanoseconds on one, directions on both."""
    packets = timed(
        [
            ethernet(ipv4(tcp(SYN))),
            bytes(ipv4(tcp(SYN))),
            reply(ipv4(tcp(SYN | ACK), src=SERVER, dst=CLIENT)),
            ethernet(ipv4(tcp(ACK))),
            bytes(ipv4(tcp(ACK))),
            ethernet(ipv4(udp())),
        ]
    )
    inbound, outbound = _flags(writer.INBOUND), _flags(writer.OUTBOUND)
    blocks = [
        writer.section(),
        writer.interface(options=_name("eth0") + _resolution(9)),
        writer.interface(RAW, _name("wg0")),
        writer.enhanced(packets[0], 0, ticks=packets[0].time_ns, options=outbound),
        writer.enhanced(packets[1], 1, options=outbound),
        writer.enhanced(packets[2], 0, ticks=packets[2].time_ns, options=inbound),
        writer.enhanced(packets[3], 0, ticks=packets[3].time_ns, options=outbound),
        writer.enhanced(packets[4], 1, options=outbound),
        writer.enhanced(packets[5], 0, ticks=packets[5].time_ns),
    ]
    return b"".join(blocks)


@capture(kind="pcapng")
def big_endian_section() -> bytes:
    """A big-endian section, then a little-endian one that describes its interfaces anew."""
    packets = timed([ethernet(ipv4(udp())), bytes(ipv4(udp())), ethernet(ipv4(udp(octets=9)))])
    big: Order = ">"
    options = _name("en0", big) + _resolution(9, big)
    blocks = [
        writer.section(big),
        writer.interface(options=options, order=big),
        writer.enhanced(packets[0], ticks=packets[0].time_ns, options=_flags(2, big), order=big),
        writer.section(),
        writer.interface(RAW, _name("utun0")),
        writer.interface(),
        writer.enhanced(packets[1], 0),
        writer.enhanced(packets[2], 1),
    ]
    return b"".join(blocks)


@capture(kind="pcapng")
def resolutions() -> bytes:
    """Interfaces with decimal and binary resolutions and with times offset by a whole number."""
    per_second = {0: 1, 3: 10**3, 9: 10**9, 0x8A: 2**10, 0x9E: 2**30}
    packets = timed(ethernet(ipv4(udp(octets=number))) for number in range(len(per_second) + 1))
    interfaces, blocks = [], []
    for number, (code, unit) in enumerate(per_second.items()):
        ticks = packets[number].time_ns * unit // 1_000_000_000
        interfaces.append(writer.interface(options=_resolution(code)))
        blocks.append(writer.enhanced(packets[number], number, ticks=ticks))
    offset = writer.option(writer.IF_TSOFFSET, struct.pack("<q", -86400))
    interfaces.append(writer.interface(options=offset))
    blocks.append(writer.enhanced(packets[-1], len(per_second)))
    return b"".join([writer.section(), *interfaces, *blocks])


@capture(kind="pcapng")
def simple_packets() -> bytes:
    """Simple packet blocks, which have no time, of an interface that snaps at 50 octets."""
    frames = timed([ethernet(ipv4(udp())), ethernet(ipv4(udp(octets=33))), ethernet(ipv6(udp()))])
    blocks = [writer.section(), writer.interface(snaplen=61)]
    blocks += [writer.simple(frame.snapped(61)) for frame in frames]
    return b"".join(blocks)


@capture(kind="pcapng")
def obsolete_packets() -> bytes:
    """Packet blocks as they were before 2012, with directions, and blocks to skip between them."""
    packets = timed([ethernet(ipv4(tcp(SYN))), ethernet(ipv4(tcp(ACK))), ethernet(ipv6(udp()))])
    statistics = writer.block(5, struct.pack("<III", 0, 0, 0))
    blocks = [
        writer.section(),
        writer.interface(options=_name("eth0")),
        writer.obsolete(packets[0], options=_flags(writer.OUTBOUND)),
        writer.block(0x80000001, b"nobody knows"),
        writer.obsolete(packets[1], options=_flags(writer.INBOUND)),
        statistics,
        writer.obsolete(packets[2]),
    ]
    return b"".join(blocks)
