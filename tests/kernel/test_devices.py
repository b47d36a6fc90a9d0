"""Every kind of device, to the packet and the octet: what was sent is what is counted."""

from __future__ import annotations

import base64
import socket
import struct

import pytest

from exporter.batch.record import FlowRecord
from tests.e2e.agent import wait_until
from tests.e2e.net import End, Network, connect, plug, switch_on
from tests.kernel.devices import WireGuardKey, add
from tests.kernel.hooks import flows, quiet_pair, send, watching

INGRESS, EGRESS = 0, 1
OUTER = ("192.0.2.1", "192.0.2.2")
INNER = ("198.51.100.1", "198.51.100.2")


def frame(port: int, size: int = 10) -> bytes:
    """A datagram to nobody: no stack answers it."""
    udp = struct.pack("!4H", port, 9, 8 + size, 0) + bytes(size)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0)
    macs = bytes((2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1))
    return macs + b"\x08\0" + head + b"".join(map(socket.inet_aton, INNER)) + udp


def joined(network: Network) -> tuple[End, End]:
    """Two quiet namespaces that reach each other at OUTER."""
    one, other = End(network.namespace("a"), "va"), End(network.namespace("b"), "vb")
    one.netns.quiet()
    other.netns.quiet()
    plug(one, other)
    connect(one, other, ((f"{OUTER[0]}/24",), (f"{OUTER[1]}/24",)))
    return one, other


def totals(found: list[FlowRecord]) -> tuple[int, int]:
    """Packets and octets of the frames."""
    return sum(flow.packets for flow in found), sum(flow.octets_l2 for flow in found)


@pytest.mark.parametrize("hook", ["tcx", "tc"])
def test_a_veth_pair(network: Network, hook: str) -> None:
    """Packets and octets at both ends are those sent and those that the devices count."""
    one, other = quiet_pair(network)
    frames = [frame(1000 + number % 7, number % 1400) for number in range(700)]
    before = one.counters(), other.counters()
    with watching(one, other, hook=hook) as fetcher:
        send(one, *frames)
        found = flows(fetcher)
        counts = fetcher.counts()
    sent = len(frames), sum(map(len, frames))
    (out, into) = one.counters() - before[0], other.counters() - before[1]
    assert (out.tx_packets, out.tx_octets) == (into.rx_packets, into.rx_octets) == sent
    for direction in (INGRESS, EGRESS):
        of_hook = [flow for flow in found if flow.direction == direction]
        assert len(of_hook) == 7
        assert totals(of_hook) == sent
    assert (counts.seen.packets, counts.seen.octets) == (2 * sent[0], 2 * sent[1])
    assert counts.accounted == counts.seen


def test_geneve(network: Network) -> None:
    """
    Through a GENEVE tunnel the inner flow is counted at the tunnel's devices and the outer one on
    the wire, with 50 octets more a packet: Ethernet 14, IPv4 20, UDP 8, GENEVE 8.
    """
    one, other = joined(network)
    tunnels = []
    for end, name, remote in ((one, "ga", OUTER[1]), (other, "gb", OUTER[0])):
        made = add(end.netns, name, "type", "geneve", "id", "42", "remote", remote)
        switch_on(made)
        tunnels.append(made)
    here, there = tunnels
    frames = [frame(1000 + number % 3, 5 * number) for number in range(90)]
    packets, octets = len(frames), sum(map(len, frames))
    with watching(one, other) as wire, watching(here, there) as inside:
        send(here, *frames)
        wait_until(lambda: there.counters().rx_packets == packets, "all arrive")
        outer, inner = flows(wire), flows(inside)
    for direction in (EGRESS, INGRESS):
        carried = [flow for flow in outer if flow.direction == direction]
        assert totals(carried) == (packets, octets + 50 * packets)
        assert {(f.source, f.destination, f.destination_port, f.ip_protocol) for f in carried} == {
            (*OUTER, 6081, 17)
        }
        within = [flow for flow in inner if flow.direction == direction]
        assert totals(within) == (packets, octets)
        assert {(flow.source_port, flow.packets) for flow in within} == {
            (1000, 30), (1001, 30), (1002, 30),
        }  # fmt: skip
        assert {(flow.source, flow.destination) for flow in within} == {INNER}
    assert {(end.counters().tx_packets, end.counters().rx_packets) for end in tunnels} == {
        (packets, 0), (0, packets),
    }  # fmt: skip


def test_a_vlan_device(network: Network) -> None:
    """On the VLAN's device frames are untagged; below it they are in the VLAN."""
    one, other = quiet_pair(network)
    vlans = []
    for end in (one, other):
        name = f"{end.device}.7"
        made = add(end.netns, name, "link", end.device, "type", "vlan", "id", "7")
        switch_on(made)
        vlans.append(made)
    frames = [frame(1000, size) for size in range(40)]
    octets = sum(map(len, frames))
    with watching(one, other) as below, watching(*vlans) as above:
        send(vlans[0], *frames)
        tagged, untagged = flows(below), flows(above)
    # A veth device takes tags as metadata, so that no octets are added by them.
    assert {(f.direction, f.vlan_id, f.packets, f.octets_l2) for f in tagged} == {
        (EGRESS, 7, 40, octets), (INGRESS, 7, 40, octets),
    }  # fmt: skip
    assert {(f.direction, f.vlan_id, f.packets, f.octets_l2) for f in untagged} == {
        (EGRESS, 0, 40, octets), (INGRESS, 0, 40, octets),
    }  # fmt: skip


def test_a_dummy_device(network: Network) -> None:
    """What is sent into a device that swallows it is counted on its way out."""
    netns = network.namespace("a")
    netns.quiet()
    dummy = add(netns, "d0", "type", "dummy")
    switch_on(dummy)
    frames = [frame(1000, size) for size in range(100)]
    with watching(dummy) as fetcher:
        before = dummy.counters()
        send(dummy, *frames)
        (flow,) = flows(fetcher)
        counted = dummy.counters() - before
    assert (flow.direction, flow.packets, flow.octets_l2) == (EGRESS, 100, sum(map(len, frames)))
    assert (counted.tx_packets, counted.tx_octets) == (flow.packets, flow.octets_l2)


def _peer(end: End, own: WireGuardKey, other: WireGuardKey, number: int) -> None:
    """Tell a WireGuard device its key and its only peer."""
    from pyroute2 import WireGuard

    with end.netns.entered(), WireGuard() as wireguard:
        wireguard.set(
            end.device,
            private_key=base64.b64encode(own.private).decode(),
            listen_port=51820,
            peer={
                "public_key": base64.b64encode(other.public).decode(),
                "endpoint_addr": OUTER[1 - number],
                "endpoint_port": 51820,
                "allowed_ips": [f"{INNER[1 - number]}/32"],
            },
        )


def test_wireguard(network: Network) -> None:
    """
    A WireGuard device has no MAC header: a frame is its IP packet. On the wire all packets, those
    of the handshake too, are one flow in each direction, as the devices below count them.
    """
    ends = joined(network)
    keys = WireGuardKey.make(), WireGuardKey.make()
    tunnels = [add(end.netns, f"wg{n}", "type", "wireguard") for n, end in enumerate(ends)]
    for number, tunnel in enumerate(tunnels):
        _peer(tunnel, keys[number], keys[1 - number], number)
        tunnel.netns.ip("addr", "add", f"{INNER[number]}/24", "dev", tunnel.device)
        switch_on(tunnel)
    sizes = range(60)
    before = ends[0].counters()
    with (
        watching(ends[0]) as wire,
        watching(*tunnels, ethernet=False) as inside,
        tunnels[1].netns.entered(),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind((INNER[1], 9))
        receiver.settimeout(30)
        with tunnels[0].netns.entered(), socket.socket(type=socket.SOCK_DGRAM) as sender:
            sender.bind((INNER[0], 1000))
            for size in sizes:
                sender.sendto(bytes(size), (INNER[1], 9))
                assert len(receiver.recv(2048)) == size
        for end in ends:
            end.netns.ip("link", "set", end.device, "down")
        outer, inner = flows(wire), flows(inside)
    counted = ends[0].counters() - before
    octets = sum(28 + size for size in sizes)
    assert {(f.direction, f.packets, f.octets_l2, f.octets_l3) for f in inner} == {
        (EGRESS, 60, octets, octets), (INGRESS, 60, octets, octets),
    }  # fmt: skip
    assert {(f.source, f.source_port, f.destination_port) for f in inner} == {(INNER[0], 1000, 9)}
    assert {(f.source_port, f.destination_port, f.ip_protocol) for f in outer} == {
        (51820, 51820, 17)
    }
    assert totals([flow for flow in outer if flow.direction == EGRESS]) == (
        counted.tx_packets, counted.tx_octets,
    )  # fmt: skip
    assert totals([flow for flow in outer if flow.direction == INGRESS]) == (
        counted.rx_packets, counted.rx_octets,
    )  # fmt: skip
    assert counted.tx_packets >= 61, "a handshake and the data"
