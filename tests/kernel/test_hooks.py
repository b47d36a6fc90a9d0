"""The program on real hooks: what only a live packet has, such as tags and super-packets."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether

from exporter.capture.fetcher import FlowFetcher, NetworkInterface
from tests.e2e.net import End, Network, switch_on, veth
from tests.kernel.hooks import flows, quiet_pair, send, send_in_pieces, watching
from tests.kernel.loader import both_loaders, config

pytestmark = both_loaders

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
SRC, DST = "192.0.2.1", "192.0.2.2"
SRC6, DST6 = "2001:db8::1", "2001:db8::2"


def datagram(size: int = 10) -> Any:
    return IP(src=SRC, dst=DST) / UDP(sport=1111, dport=2222) / bytes(size)


@pytest.mark.parametrize(
    ("tags", "outer", "inner", "in_metadata"),
    [
        pytest.param(Dot1Q(vlan=100), 100, 0, 4, id="802.1Q"),
        pytest.param(Dot1Q(vlan=0, prio=5), 0, 0, 4, id="priority tag"),
        pytest.param(Dot1AD(vlan=10) / Dot1Q(vlan=20), 10, 20, 4, id="802.1ad over 802.1Q"),
        pytest.param(Dot1Q(vlan=10) / Dot1Q(vlan=20), 10, 20, 4, id="802.1Q twice"),
        pytest.param(Dot1AD(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3), 1, 2, 4, id="three tags"),
    ],
)
def test_vlan_tags_in_the_frame_and_in_metadata(
    network: Network, tags: Any, outer: int, inner: int, in_metadata: int
) -> None:
    """
    On the way out tags are in the frame; on the way in the kernel has moved the outer one to the
    buffer's metadata. Both hooks see the same VLANs, and octets are those of the frame at the hook.
    """
    one, other = quiet_pair(network)
    frame = bytes(ETHER / tags / datagram())
    tag_count = (len(frame) - len(bytes(ETHER / datagram()))) // 4
    with watching(one, other) as fetcher:
        send(one, frame)
        found = {flow.direction: flow for flow in flows(fetcher)}
        not_ip = fetcher.counts().outcome("not_ip").packets
    if tag_count == 3:
        # Three tags in the frame are one more than is looked for; with one in metadata two are
        # left.
        assert not_ip == 1
        assert 1 not in found
    else:
        assert (found[1].vlan_id, found[1].inner_vlan_id) == (outer, inner)
        assert found[1].octets_l2 == len(frame)
    assert (found[0].vlan_id, found[0].inner_vlan_id) == (outer, inner)
    assert found[0].octets_l2 == len(frame) - in_metadata
    assert {flow.octets_l3 for flow in found.values()} == {20 + 8 + 10}
    assert {flow.destination_port for flow in found.values()} == {2222}


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(datagram(5000), id="IPv4"),
        pytest.param(
            IP(src=SRC, dst=DST, options=IPOption(b"\x01" * 40))
            / UDP(sport=1111, dport=2222)
            / bytes(5000),
            id="IPv4 with options",
        ),
        pytest.param(
            IPv6(src=SRC6, dst=DST6) / UDP(sport=1111, dport=2222) / bytes(5000), id="IPv6"
        ),
        pytest.param(
            IPv6(src=SRC6, dst=DST6)
            / IPv6ExtHdrHopByHop()
            / IPv6ExtHdrDestOpt()
            / UDP(sport=1111, dport=2222)
            / bytes(5000),
            id="IPv6 with extension headers",
        ),
    ],
)
@pytest.mark.parametrize("linear", [14, 20, 34, 54])
def test_headers_outside_the_linear_data(network: Network, packet: Any, linear: int) -> None:
    """A buffer that holds only a part of the headers in one piece is read all the same."""
    one, _ = quiet_pair(network, mtu=9000)
    frame = bytes(ETHER / packet)
    with watching(one) as fetcher:
        send_in_pieces(one, frame, linear)
        (flow,) = flows(fetcher)
        assert fetcher.counts().outcome("malformed").packets == 0
    assert (flow.source_port, flow.destination_port, flow.ip_protocol) == (1111, 2222, 17)
    assert (flow.packets, flow.octets_l2) == (1, len(frame))
    assert flow.octets_l3 == len(bytes(packet))


def test_the_packet_is_passed_on_untouched(network: Network) -> None:
    """What arrives is what was sent, also where the program had to pull headers together."""
    one, other = quiet_pair(network, mtu=9000)
    frame = bytes(ETHER / datagram(5000))
    with other.netns.entered():
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with raw, watching(one, other):
        raw.bind((other.device, 3))
        raw.settimeout(5)
        send_in_pieces(one, frame, 14)
        assert raw.recv(65536) == frame


@contextmanager
def tunnel_device(end: End, *, tap: bool, offload: bool = False) -> Iterator[int]:
    """A tun or tap device and the descriptor that packets are written to and read from."""
    iff_tun, iff_tap, iff_no_pi, iff_vnet_hdr, tunsetiff = 1, 2, 0x1000, 0x4000, 0x400454CA
    flags = (iff_tap if tap else iff_tun) | iff_no_pi | (iff_vnet_hdr if offload else 0)
    with end.netns.entered():
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, tunsetiff, struct.pack("16sH22x", end.device.encode(), flags))
    try:
        switch_on(end)
        yield fd
    finally:
        os.close(fd)


def test_an_interface_without_mac_header(network: Network) -> None:
    """On a tun device frames begin with the IP header: both hooks read it, MACs are zero."""
    end = End(network.namespace("a"), "tun7")
    end.netns.quiet()
    with tunnel_device(end, tap=False) as fd:
        end.netns.ip("addr", "add", "192.0.2.1/24", "dev", "tun7")
        with watching(end, ethernet=False) as fetcher:
            packets = [
                # To an address that is not here, so that nobody answers.
                bytes(IP(src=DST, dst="198.51.100.7") / UDP(sport=5, dport=6) / bytes(100)),
                bytes(IPv6(src=DST6, dst=SRC6) / TCP(sport=7, dport=8, flags="SA")),
                bytes(IP(src=DST, dst="198.51.100.7") / ICMP(type=13)),
            ]
            for packet in packets:
                os.write(fd, packet)
            with end.netns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((SRC, 9))
                sender.sendto(bytes(50), (DST, 10))
            sent = os.read(fd, 2000)
            found = {(f.direction, f.ip_protocol): f for f in flows(fetcher)}
            assert fetcher.counts().seen.packets == 4
    assert set(found) == {(0, 17), (0, 6), (0, 1), (1, 17)}
    for protocol, packet in zip((17, 6, 1), packets, strict=True):
        assert found[0, protocol].octets_l2 == found[0, protocol].octets_l3 == len(packet)
    assert found[0, 6].tcp_control_bits == 0x12
    assert found[0, 6].tcp_flag_sets == 1
    assert found[0, 1].icmp == (13, 0)
    assert found[1, 17].octets_l2 == len(sent) == 78
    assert (found[1, 17].source_port, found[1, 17].destination_port) == (9, 10)
    assert {flow.source_mac for flow in found.values()} == {"00:00:00:00:00:00"}


@pytest.mark.parametrize(
    ("payload", "segments"), [(1000, 1), (1001, 2), (14_000, 14), (14_001, 15)]
)
def test_a_super_packet_from_a_guest(network: Network, payload: int, segments: int) -> None:
    """
    A guest hands over a super-packet without saying how many segments it is: they are derived from
    its payload, and octets are those on the wire.
    """
    end = End(network.namespace("a"), "tap7")
    end.netns.quiet()
    frame = bytes(ETHER / IP(src=SRC, dst=DST) / TCP(sport=5, dport=6, flags="PA") / bytes(payload))
    # struct virtio_net_hdr: a checksum to fill in, TCPv4 segmentation, headers, gso_size, offsets.
    header = struct.pack("=BBHHHH", 1, 1, 54, 1000, 34, 16)
    with tunnel_device(end, tap=True, offload=True) as fd, watching(end) as fetcher:
        os.write(fd, header + frame)
        (flow,) = flows(fetcher)
        counts = fetcher.counts()
    assert flow.packets == segments
    assert flow.octets_l2 == len(frame) + (segments - 1) * 54
    assert flow.octets_l3 == len(frame) - 14 + (segments - 1) * 40
    assert (counts.seen.packets, counts.seen.octets) == (segments, flow.octets_l2)
    assert counts.accounted == counts.seen


def test_points_whose_indexes_collide(network: Network) -> None:
    """Two namespaces with one interface name and index each: the key tells them apart."""
    ends = [quiet_pair(network)[0] for _ in range(2)]
    assert len({end.netns.index(end.device) for end in ends}) == 1, "the indexes collide"
    frame = bytes(ETHER / datagram())
    with watching(*ends) as fetcher:
        send(ends[0], frame, frame, frame)
        send(ends[1], frame)
        batch = fetcher.lookup_and_delete_map()
    assert dict(zip(batch.netns.tolist(), batch.packet_count.tolist(), strict=True)) == {1: 3, 2: 1}


def test_counts_are_exact_when_every_cpu_sees_the_flow(network: Network) -> None:
    """One flow sent from all CPUs at once: the slots of all CPUs add up to what was sent."""
    one, _ = quiet_pair(network)
    frame = bytes(ETHER / datagram())
    cpus = sorted(os.sched_getaffinity(0))
    with watching(one) as fetcher:
        for cpu in cpus:
            os.sched_setaffinity(0, {cpu})
            send(one, *[frame] * 500)
        os.sched_setaffinity(0, cpus)
        (flow,) = flows(fetcher)
    assert (flow.packets, flow.octets_l2) == (500 * len(cpus), 500 * len(cpus) * len(frame))
    assert flow.time_flow_start_ns < flow.time_flow_end_ns


@pytest.mark.parametrize("clock", ["precise", "coarse"])
def test_times_are_those_of_the_packets(network: Network, clock: str) -> None:
    """Start is exact; the end is, too, or some ticks early with the coarse clock."""
    one, _ = quiet_pair(network)
    frame = bytes(ETHER / datagram())
    # A tick is late where the machine is busy. It is not as late as the first packet is old.
    tick_ns = 0 if clock == "precise" else 40_000_000
    with watching(one, clock=clock) as fetcher:
        before = time.monotonic_ns()
        send(one, frame)
        first = time.monotonic_ns()
        time.sleep(0.05)
        last = time.monotonic_ns()
        send(one, frame)
        after = time.monotonic_ns()
        (flow,) = flows(fetcher)
    assert before <= flow.time_flow_start_ns <= first
    assert last - tick_ns <= flow.time_flow_end_ns <= after


def test_a_flow_keeps_its_first_macs_and_its_latest_dscp(network: Network) -> None:
    """MACs are those of the first packet, the DSCP is that of the last, flags are united."""
    one, _ = quiet_pair(network)
    other_mac = Ether(src="02:00:00:00:00:09", dst="02:00:00:00:00:08")
    first = ETHER / IP(src=SRC, dst=DST, tos=0x28) / TCP(sport=1, dport=2, flags="S")
    last = other_mac / IP(src=SRC, dst=DST, tos=0xB8) / TCP(sport=1, dport=2, flags="FPUEC")
    with watching(one) as fetcher:
        send(one, bytes(first), bytes(last))
        (flow,) = flows(fetcher)
    assert (flow.source_mac, flow.destination_mac) == ("02:00:00:00:00:01", "02:00:00:00:00:02")
    assert flow.dscp == 0xB8 >> 2
    assert flow.tcp_control_bits == 0x02 | 0x01 | 0x08 | 0x20 | 0x40 | 0x80
    assert flow.tcp_flag_sets == 0


def test_fragments_at_a_live_hook(network: Network) -> None:
    """The kernel's own fragments of a large datagram are one flow with the datagram's ports."""
    one, other = End(network.namespace("a"), "va"), End(network.namespace("b"), "vb")
    one.netns.quiet()
    other.netns.quiet()
    veth(one, other, ((f"{SRC}/24",), (f"{DST}/24",)))
    with watching(one) as fetcher:
        with one.netns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((SRC, 3333))
            for _ in range(10):
                sender.sendto(bytes(4000), (DST, 4444))
        found = [flow for flow in flows(fetcher) if flow.direction == 1]
    (flow,) = found
    assert (flow.source_port, flow.destination_port) == (3333, 4444)
    assert flow.packets == one.counters().tx_packets == 30
    assert flow.octets_l2 == one.counters().tx_octets


def test_unregistered_interfaces_are_not_observed(network: Network) -> None:
    """After unregistering, packets pass unseen; what was counted before stays."""
    one, _ = quiet_pair(network)
    frame = bytes(ETHER / datagram())
    with watching(one) as fetcher:
        send(one, frame)
        fetcher.detach()
        send(one, frame)
        (flow,) = flows(fetcher)
        assert fetcher.counts().seen.packets == flow.packets == 1
        assert fetcher.points() == 0


def test_registering_twice_changes_nothing(network: Network) -> None:
    """An interface that is observed already is left as it is: a packet is seen once."""
    one, _ = quiet_pair(network)
    interface = NetworkInterface(one.netns.index(one.device), one.device)
    with one.netns.entered(), FlowFetcher(config()) as fetcher:
        assert fetcher.register(interface)
        assert not fetcher.register(interface)
        send(one, bytes(ETHER / datagram()))
        assert fetcher.counts().seen.packets == 1
