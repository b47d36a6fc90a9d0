"""What the kernel program copies of DNS, and that it counts packets as before."""

from __future__ import annotations

import os
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1Q, Ether

from exporter.capture.dns import DnsCopying, DnsPacket
from exporter.capture.fetcher import Beside, FlowFetcher, Namespace, NetworkInterface
from exporter.testing.batch import pack_address
from tests.e2e.net import End, Network
from tests.kernel.hooks import quiet_pair, send, take
from tests.kernel.loader import config
from tests.kernel.test_hooks import tunnel_device

pytestmark = pytest.mark.usefixtures("loader")

COPYING = DnsCopying((53, 5353), 1 << 16)
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4, V6 = IP(src="192.0.2.1", dst="192.0.2.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")
BEHIND_OPTIONS = IP(src=V4.src, dst=V4.dst, options=b"\x01" * 8)
SYN, ACK = 0x02, 0x10


def text(octets: int) -> bytes:
    """Octets that say where they are."""
    return b"".join(number.to_bytes(2, "big") for number in range(octets // 2 + 1))[:octets]


def copied(fetcher: FlowFetcher, *frames: Any) -> list[DnsPacket]:
    """What is copied of frames, which are all counted."""
    before = fetcher.counts().recorded.packets
    for frame in frames:
        fetcher.program("tc_ingress").test_run(bytes(frame))
    found = fetcher.read_dns()
    assert found.lost == 0
    assert fetcher.read_dns().packets == []
    assert fetcher.counts().recorded.packets - before == len(frames)
    return found.packets


def test_udp() -> None:
    """Whole datagrams of any size, of queries and responses, on either port, in both families."""
    with FlowFetcher(config(max_flows=64), beside=Beside(dns=COPYING)) as fetcher:
        for octets in (1, 2, 255, 256, 257, 1023, 1024, 1025, 1472):
            body = text(octets)
            found = copied(
                fetcher,
                ETHER / V4 / UDP(sport=53, dport=4000) / body,
                ETHER / V4 / UDP(sport=4000, dport=53) / body,
                ETHER / V6 / UDP(sport=5353, dport=4000) / body,
                ETHER / V4 / UDP(sport=4000, dport=54) / body,
            )
            ports = [(one.src_port, one.dst_port) for one in found]
            assert ports == [(53, 4000), (4000, 53), (5353, 4000)]
            four, six = ((layer.src, layer.dst) for layer in (V4, V6))
            for one, (src, dst) in zip(found, (four, four, six), strict=True):
                assert (one.src, one.dst) == (pack_address(src), pack_address(dst))
                assert (one.protocol, one.octets, one.sequence) == (17, octets, 0)
                assert one.payload == body
                assert one.time_ns > 0
        assert copied(fetcher, ETHER / V4 / UDP(sport=53, dport=4000)) == []


def test_tcp() -> None:
    """
    What carries something, behind options of any length, and what begins a connection: nothing else
    is said without a payload.
    """
    options = [("MSS", 1460), ("NOP", None), ("WScale", 7), ("Timestamp", (1, 2))]
    ends: dict[str, Any] = {"sport": 53, "dport": 4000}
    with FlowFetcher(config(max_flows=64), beside=Beside(dns=COPYING)) as fetcher:
        for layer in (V4, V6, BEHIND_OPTIONS):
            found = copied(
                fetcher,
                ETHER / layer / TCP(**ends, seq=0xFFFFFFF0, flags="SA", options=options),
                ETHER / layer / TCP(**ends, seq=0xFFFFFFF1, flags="A"),
                ETHER / layer / TCP(**ends, seq=0xFFFFFFF1, flags="PA", options=options)
                / text(700),
                ETHER / layer / TCP(**ends, seq=685, flags="FA"),
            )  # fmt: skip
            assert [(one.flags, one.sequence, one.octets, one.payload) for one in found] == [
                (SYN | ACK, 0xFFFFFFF0, 0, b""),
                (0x18, 0xFFFFFFF1, 700, text(700)),
            ]
            assert {one.protocol for one in found} == {6}


def test_headers() -> None:
    """
    Behind one and two VLAN tags in the frame; padding is none of the message. Left out: fragments,
    other protocols and ports, and TCP behind IPv6 extension headers.
    """
    body = text(20)
    behind = IPv6ExtHdrDestOpt()
    with FlowFetcher(config(max_flows=64), beside=Beside(dns=COPYING)) as fetcher:
        found = copied(
            fetcher,
            ETHER / Dot1Q(vlan=7) / Dot1Q(vlan=8) / V4 / UDP(sport=53, dport=1) / body,
            ETHER / Dot1Q(vlan=7) / V6 / TCP(sport=53, dport=1, seq=5, flags="A") / body,
            bytes(ETHER / V4 / UDP(sport=53, dport=1) / b"1234567890ab").ljust(60, b"\0"),
            ETHER / V6 / behind / UDP(sport=53, dport=1) / body,
        )
        assert [one.payload for one in found] == [body, body, b"1234567890ab", body]
        left_out = copied(
            fetcher,
            ETHER / V6 / IPv6ExtHdrFragment(nh=17, m=1) / UDP(sport=53, dport=1) / text(64),
            ETHER / IP(src=V4.src, dst=V4.dst, flags="MF") / UDP(sport=53, dport=1) / text(64),
            ETHER / IP(src=V4.src, dst=V4.dst, frag=8, proto=17) / text(64),
            ETHER / V6 / behind / TCP(sport=53, dport=1, flags="A") / text(64),
            ETHER / V4 / TCP(sport=1, dport=54, flags="A") / text(64),
        )
        assert left_out == []


def test_a_full_ring_loses_and_counts() -> None:
    """
    Records of 64 + 256 octets and the kernel's 8: twelve in a page, the rest lost by number. The
    packets are all in the flow.
    """
    frame = bytes(ETHER / V4 / UDP(sport=53, dport=1) / text(20))
    with FlowFetcher(config(max_flows=64), beside=Beside(dns=DnsCopying((53,), 4096))) as fetcher:
        for _ in range(20):
            fetcher.program("tc_ingress").test_run(frame)
        found = fetcher.read_dns()
        assert (len(found.packets), found.lost) == (12, 8)
        fetcher.program("tc_ingress").test_run(frame)
        assert [one.payload for one in fetcher.read_dns().packets] == [text(20)]
        assert fetcher.counts().recorded.packets == take(fetcher).totals.packets == 21


def test_off() -> None:
    """Nothing is copied unless it is asked for."""
    with FlowFetcher(config(max_flows=64)) as fetcher:
        assert copied(fetcher, ETHER / V4 / UDP(sport=53) / text(64)) == []


def test_large_packets_on_a_wire(network: Network) -> None:
    """
    At real hooks of another namespace, in the order of the wire. More than 4,096 octets are cut,
    and say how many there were.
    """
    one, other = quiet_pair(network, mtu=9000)
    bodies = [text(octets) for octets in (1025, 4096, 4097, 8000)]
    place = Namespace(1, other.netns.name, other.netns.path)
    with FlowFetcher(config(max_flows=64), beside=Beside(dns=COPYING)) as fetcher:
        fetcher.register(NetworkInterface(other.netns.index("vb"), "vb", True, place))
        send(one, *[bytes(ETHER / V4 / UDP(sport=53, dport=1) / body) for body in bodies])
        found = fetcher.read_dns(10).packets
        verified = fetcher.program("tc_egress").info().verified_instructions
    assert [one.octets for one in found] == [1025, 4096, 4097, 8000]
    assert [one.payload for one in found] == [body[:4096] for body in bodies]
    # Of a million that it may read.
    assert verified < 250_000


def test_without_a_link_layer(network: Network) -> None:
    """Packets of a tun device, which begin with the IP header."""
    end = End(network.namespace("l3"), "tn")
    end.netns.quiet()
    place = Namespace(1, end.netns.name, end.netns.path)
    with (
        tunnel_device(end, tap=False) as device,
        FlowFetcher(config(max_flows=64), beside=Beside(dns=COPYING)) as fetcher,
    ):
        fetcher.register(NetworkInterface(end.netns.index("tn"), "tn", False, place))
        for layer in (UDP(sport=53, dport=1), TCP(sport=53, dport=1, flags="PA", seq=9)):
            os.write(device, bytes(V4 / layer / text(99)))
        found = fetcher.read_dns().packets
    assert [(one.payload, one.sequence) for one in found] == [(text(99), 0), (text(99), 9)]
