"""Captures of what Ethernet carries: the internet protocols, their options and their fragments."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from scapy.layers.inet import ICMP, IP, UDP, IPOption_NOP, IPOption_RR, IPOption_Timestamp
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import GRE, Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from tests.packets.capture import capture
from tests.packets.capture_writer import Packet, pcap, timed
from tests.packets.frames import (
    ACK,
    CLIENT,
    CLIENT6,
    CLIENT_MAC,
    CLIENT_PORT,
    FIN,
    PSH,
    RST,
    SERVER,
    SERVER6,
    SERVER_MAC,
    SERVER_PORT,
    SYN,
    data,
    ethernet,
    ipv4,
    ipv6,
    reply,
    tcp,
    udp,
    with_octets,
)

BACK = {"src": SERVER, "dst": CLIENT}
BACK6 = {"src": SERVER6, "dst": CLIENT6}
PORTS_BACK = {"sport": SERVER_PORT, "dport": CLIENT_PORT}


@capture()
def ethernet_tcp() -> bytes:
    """A TCP connection over IPv4 and one over IPv6: opened, used, closed, the second reset."""
    return pcap(
        timed(
            [
                ethernet(ipv4(tcp(SYN))),
                reply(ipv4(tcp(SYN | ACK, **PORTS_BACK), **BACK)),
                ethernet(ipv4(tcp(ACK))),
                ethernet(ipv6(tcp(SYN))),
                reply(ipv6(tcp(SYN | ACK, **PORTS_BACK), **BACK6)),
                ethernet(ipv4(tcp(PSH | ACK, octets=100))),
                reply(ipv4(tcp(PSH | ACK, octets=1, **PORTS_BACK), **BACK)),
                ethernet(ipv6(tcp(PSH | ACK, octets=33))),
                ethernet(ipv4(tcp(FIN | ACK))),
                reply(ipv4(tcp(FIN | ACK, **PORTS_BACK), **BACK)),
                reply(ipv6(tcp(RST, **PORTS_BACK), **BACK6)),
            ]
        )
    )


@capture()
def tcp_control_bits() -> bytes:
    """Each of the twelve TCP control bits in a flow of its own, and all of them in one flow."""
    alone = [ethernet(ipv4(tcp(1 << bit, sport=50000 + bit))) for bit in range(12)]
    united = [ethernet(ipv6(tcp(1 << bit))) for bit in range(12)]
    return pcap(timed([*alone, *united]))


@capture()
def udp_sctp() -> bytes:
    """UDP and SCTP in both directions, with and without data, over IPv4 and IPv6."""
    sctp = SCTP(sport=36412, dport=38412, tag=1)
    return pcap(
        timed(
            [
                ethernet(ipv4(udp(octets=20))),
                reply(ipv4(udp(octets=0, **PORTS_BACK), **BACK)),
                ethernet(ipv6(udp(octets=21))),
                ethernet(ipv4(sctp / SCTPChunkInit(init_tag=7))),
                ethernet(ipv6(sctp / SCTPChunkInit(init_tag=7))),
                ethernet(ipv4(udp(octets=200))),
            ]
        )
    )


@capture()
def icmp_icmpv6() -> bytes:
    """Echoes, a neighbour solicitation, and errors that quote a packet whose ports are not ours."""
    return pcap(
        timed(
            [
                ethernet(ipv4(ICMP(type=8, id=1, seq=1) / data(1, 2, 3))),
                reply(ipv4(ICMP(type=0, id=1, seq=1) / data(1, 2, 3), **BACK)),
                ethernet(ipv4(ICMP(type=8, id=1, seq=2) / data(1, 2, 3))),
                reply(ipv4(ICMP(type=3, code=3) / IP(src=CLIENT, dst=SERVER) / udp(), **BACK)),
                ethernet(ipv6(ICMPv6EchoRequest(id=1, seq=1, data=b"echo"))),
                reply(ipv6(ICMPv6EchoReply(id=1, seq=1, data=b"echo"), **BACK6)),
                ethernet(ipv6(ICMPv6ND_NS(tgt=SERVER6), dst="ff02::1:ff00:2")),
                reply(
                    ipv6(
                        ICMPv6DestUnreach(code=4) / IPv6(src=CLIENT6, dst=SERVER6) / udp(), **BACK6
                    )
                ),
            ]
        )
    )


@capture()
def other_protocols() -> bytes:
    """Protocols that are reported by number: GRE, ESP, AH, OSPF, IGMP, tunnels, 253, none."""
    esp = ESP(spi=256, seq=1, data=bytes(20))
    inner = ipv4(udp(), src="192.0.2.77", dst="192.0.2.78")
    return pcap(
        timed(
            [
                ethernet(ipv4(GRE() / inner)),
                ethernet(ipv4(esp)),
                ethernet(ipv4(_ah(6) / tcp())),
                ethernet(ipv4(Raw(bytes(24)), proto=89, dst="224.0.0.5")),
                ethernet(ipv4(data(0x16, 0, 9, 4, 224, 0, 0, 9), proto=2, dst="224.0.0.9")),
                ethernet(ipv4(inner)),
                ethernet(ipv4(ipv6(udp()))),
                ethernet(ipv4(data(1, 2, 3, 4, 5), proto=253)),
                ethernet(ipv4(data(1, 2), proto=253)),
                ethernet(ipv4(b"", proto=253)),
                ethernet(ipv6(esp)),
                ethernet(ipv6(GRE() / inner)),
                ethernet(ipv6(ipv6(udp()))),
                ethernet(ipv6(Raw(bytes(40)), nh=89, dst="ff02::5")),
                ethernet(ipv6(Raw(bytes(3)), nh=253)),
                ethernet(ipv6(b"", nh=59)),
            ]
        )
    )


@capture()
def ipv4_options() -> bytes:
    """IPv4 headers of every length from 24 octets, with options of several kinds, to 60."""
    route = IPOption_RR(length=7, routers=["192.0.2.9"])
    stamp = IPOption_Timestamp(length=8, pointer=5, flg=0, timestamp=1)
    nops = [
        ethernet(ipv4(tcp(ACK), options=[IPOption_NOP()] * (4 * words))) for words in range(1, 11)
    ]
    mixed = ethernet(ipv4(udp(), options=[route, stamp]))
    return pcap(timed([*nops, mixed]))


def _ah(following: int) -> AH:
    return AH(nh=following, payloadlen=4, spi=256, seq=1, icv=bytes(12))


def _options(octets: int = 4) -> list[Any]:
    return [PadN(optdata=bytes(octets))]


@capture()
def ipv6_extension_headers() -> bytes:
    """Hop-by-hop, routing, destination options and AH, alone, in order, and eight at once."""
    hop, destination = IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt
    routing = IPv6ExtHdrRouting(type=0, addresses=["2001:db8::77"], segleft=0)
    every = hop(options=_options()) / destination(options=_options(12)) / routing
    eight = hop(options=_options())
    for octets in (4, 12, 20, 28, 36, 4, 4):
        eight = eight / destination(options=_options(octets))
    return pcap(
        timed(
            [
                ethernet(ipv6(hop(options=_options()) / tcp(SYN))),
                ethernet(ipv6(routing / tcp(PSH))),
                ethernet(ipv6(destination(options=_options(60)) / tcp(ACK))),
                ethernet(ipv6(_ah(6) / tcp(FIN))),
                ethernet(ipv6(every / _ah(17) / udp())),
                ethernet(ipv6(eight / udp(sport=40008))),
                ethernet(ipv6(hop(options=_options()) / ICMPv6EchoRequest(id=1, data=b"x"))),
                ethernet(ipv6(destination(options=_options(), nh=59))),
                ethernet(ipv6(hop(options=_options()) / Raw(bytes(8)), nh=0)),
            ]
        )
    )


def _fragments(datagram: bytes, proto: int, number: int, *cuts: int) -> list[bytes]:
    """Frames with the pieces of a datagram; cuts are multiples of eight."""
    edges = (0, *cuts, len(datagram))
    return [
        ethernet(
            ipv4(
                Raw(datagram[start:end]),
                proto=proto,
                id=number,
                frag=start // 8,
                flags="MF" if end < len(datagram) else 0,
            )
        )
        for start, end in pairwise(edges)
    ]


def _payload(packet: Any) -> bytes:
    """What an IP packet carries, its checksums in place."""
    return bytes(packet)[20 if isinstance(packet, IP) else 40 :]


@capture()
def ipv4_fragments() -> bytes:
    """Fragmented UDP, TCP and ICMP, two datagrams interleaved, identifications used again."""
    one = _fragments(_payload(ipv4(udp(octets=100))), 17, 7, 32, 64)
    # Its payload would read as other ports if it were taken for a transport header.
    other = _fragments(_payload(ipv4(udp(octets=40, sport=1111, dport=2222))), 17, 8, 16)
    segment = _fragments(_payload(ipv4(tcp(PSH | ACK, octets=60))), 6, 7, 40)
    echo = _fragments(_payload(ipv4(ICMP(type=8, id=1) / Raw(bytes(40)))), 1, 7, 24)
    again = _fragments(_payload(ipv4(udp(octets=24, sport=3333))), 17, 7, 16)
    number = _fragments(bytes(48), 253, 9, 24)
    interleaved = [one[0], other[0], one[1], segment[0], echo[0], other[1], one[2]]
    return pcap(timed([*interleaved, segment[1], echo[1], *again, *number]))


@capture()
def ipv4_fragments_out_of_order() -> bytes:
    """Later fragments before their first and without any, which have no ports to be told by."""
    late = _fragments(_payload(ipv4(udp(octets=60))), 17, 21, 24, 48)
    alone = _fragments(_payload(ipv4(tcp(ACK, octets=60))), 6, 22, 24)
    last = _fragments(_payload(ipv4(ICMP(type=8, id=1) / Raw(bytes(40)))), 1, 23, 24)
    return pcap(timed([late[1], late[0], late[2], alone[1], last[1]]))


@capture()
def ipv4_short_first_fragments() -> bytes:
    """First fragments that end within the transport header, and the later ones of them."""
    segment = _payload(ipv4(tcp(PSH | ACK, octets=40)))
    with_flags = _fragments(segment, 6, 31, 16)
    without_flags = _fragments(_payload(ipv4(tcp(SYN, octets=40, sport=40002))), 6, 32, 8)
    chunk = _payload(ipv4(SCTP(sport=36412, dport=38412, tag=1) / SCTPChunkInit(init_tag=7)))
    datagram = _fragments(_payload(ipv4(udp(octets=40))), 17, 33, 8)
    association = _fragments(chunk, 132, 34, 16)
    # No host sends fragments of four octets or of none, but they can be told apart.
    four = ethernet(ipv4(Raw(segment[:4]), proto=6, id=35, flags="MF"))
    none = ethernet(ipv4(b"", proto=17, id=36, flags="MF"))
    two = ethernet(ipv4(Raw(segment[:2]), proto=6, id=37, flags="MF"))
    return pcap(
        timed(
            [*with_flags, *without_flags, *datagram, *association, four, none, two, with_flags[1]]
        )
    )


def _fragments6(part: bytes, kind: int, number: int, *cuts: int, before: Any = None) -> list[bytes]:
    """As _fragments, of IPv6. ``before``: the headers in front of the fragment header."""
    edges = (0, *cuts, len(part))
    frames = []
    for start, end in pairwise(edges):
        header = IPv6ExtHdrFragment(nh=kind, id=number, offset=start // 8, m=end < len(part))
        piece = header / Raw(part[start:end])
        frames.append(ethernet(ipv6(before / piece if before else piece)))
    return frames


@capture()
def ipv6_fragments() -> bytes:
    """IPv6 fragments of UDP and TCP: with headers before and after the fragment header, atomic."""
    datagram = _payload(ipv6(udp(octets=100)))
    segment = _payload(ipv6(tcp(PSH | ACK, octets=60)))
    behind = bytes(IPv6ExtHdrDestOpt(nh=17, options=_options())) + datagram
    hop = IPv6ExtHdrHopByHop(nh=44, options=_options())
    plain = _fragments6(datagram, 17, 0xDEADBEEF, 32, 64)
    after_hop = _fragments6(segment, 6, 2, 40, before=hop)
    before_options = _fragments6(behind, 60, 3, 24)
    # RFC 6946: a fragment header on a whole datagram.
    atomic = _fragments6(_payload(ipv6(udp(sport=40003))), 17, 4)
    interleaved = [plain[0], after_hop[0], before_options[0], plain[1], atomic[0], after_hop[1]]
    return pcap(timed([*interleaved, before_options[1], plain[2]]))


@capture()
def ipv6_fragments_out_of_order() -> bytes:
    """Later IPv6 fragments before their first or without one, and short first fragments."""
    datagram = _payload(ipv6(udp(octets=60)))
    late = _fragments6(datagram, 17, 11, 24, 48)
    options = bytes(IPv6ExtHdrDestOpt(nh=17, options=_options())) + datagram
    hidden = _fragments6(options, 60, 12, 24)
    segment = _payload(ipv6(tcp(SYN, octets=40)))
    short = _fragments6(segment, 6, 13, 8)
    # The chain of headers ends where the fragment does: nothing of UDP is in it.
    bare = _fragments6(options, 60, 14, 8)
    return pcap(timed([late[1], late[0], late[2], hidden[1], *short, *bare]))


def _vxlan(number: int) -> bytes:
    inner = Ether(src="02:00:5e:00:00:77", dst="02:00:5e:00:00:78") / ipv4(
        tcp(SYN), src="203.0.113.7", dst="203.0.113.8"
    )
    outer = UDP(sport=51000 + number % 2, dport=4789) / VXLAN(vni=42 + number) / inner
    return ethernet(ipv4(outer) if number < 3 else ipv6(outer))


@capture()
def vxlan() -> bytes:
    """VXLAN over IPv4 and IPv6: the outer packet is the flow, whatever it carries."""
    return pcap(timed(_vxlan(number) for number in range(5)))


@capture()
def dscp_changes() -> bytes:
    """A flow whose DSCP and MACs change: the first packet's MACs, the last one's DSCP."""
    marked = [ethernet(ipv4(udp(), tos=dscp << 2 | 1)) for dscp in (0, 46, 10)]
    moved = [
        ethernet(ipv6(udp(), tc=46 << 2 | 3)),
        ethernet(ipv6(udp(), tc=8 << 2), src="02:00:5e:00:00:99", dst=CLIENT_MAC),
        ethernet(ipv6(udp(), tc=63 << 2 | 2), src=SERVER_MAC, dst=CLIENT_MAC),
    ]
    return pcap(timed([*marked, *moved]))


@capture()
def unordered_times() -> bytes:
    """Packets whose times are not in the file's order, as merged captures have them."""
    frames = [ethernet(ipv4(tcp(bits))) for bits in (ACK, FIN | ACK, SYN, PSH | ACK)]
    packets = timed(frames)
    times = [packets[place].time_ns for place in (2, 3, 0, 1)]
    return pcap(
        [
            Packet(packet.data, time, packet.octets)
            for packet, time in zip(packets, times, strict=True)
        ]
    )


@capture()
def same_time() -> bytes:
    """Packets of one flow at one time, the first of the epoch, the last one's DSCP differing."""
    frames = [ethernet(ipv4(udp(), tos=dscp << 2)) for dscp in (1, 2, 3, 4)]
    return pcap([Packet(frame, 0, len(frame)) for frame in frames])


@capture()
def jumbo_frames() -> bytes:
    """Frames of 2,062 octets captured whole; of 9,014, 65,549 and 65,589 octets snapped to 128."""
    whole = ethernet(ipv4(udp(octets=2020)))
    jumbo = ethernet(ipv4(udp(octets=9000 - 28, sport=40002)))
    largest = ethernet(ipv4(tcp(PSH | ACK, octets=65535 - 40)))
    largest6 = ethernet(ipv6(tcp(PSH | ACK, octets=65535 - 20)))
    packets = timed([whole, jumbo, jumbo, largest, largest6])
    return pcap([packets[0], *(packet.snapped(128) for packet in packets[1:])])


@capture(preferences=("ip.tso_support:TRUE", "ipv6.tso_support:TRUE"))
def big_tcp() -> bytes:
    """Super-frames whose length no IP header can say: it says 0, or IPv6 has a jumbo payload."""
    segment = bytes(tcp(PSH | ACK, octets=120_000))
    packet = with_octets(ethernet(ipv4(Raw(bytes(20)), proto=6))[:34] + segment, 16, ">H", 0)
    packet6 = with_octets(ethernet(ipv6(Raw(bytes(20)), nh=6))[:54] + segment, 18, ">H", 0)
    # RFC 2675: hop-by-hop option 0xc2 of four octets.
    jumbo = data(6, 0, 0xC2, 4, *(len(segment) + 8).to_bytes(4, "big"))
    option = ethernet(ipv6(jumbo, nh=0, plen=0)) + bytes(tcp(PSH | ACK, octets=120_000))
    return pcap([packet.snapped(160) for packet in timed([packet, packet6, option])])
