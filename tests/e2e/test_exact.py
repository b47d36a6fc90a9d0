"""Exported packets and octets are those of the interface's own counters, to the last one."""

from __future__ import annotations

import socket
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import traffic
from tests.e2e.agent import Agent, wait_until
from tests.e2e.net import Counters, End, Network, connect, disconnect, no_offload, plug

V4, V6 = ("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")


ADDRESSES = ((f"{V4[0]}/24", f"{V6[0]}/64"), (f"{V4[1]}/24", f"{V6[1]}/64"))


def pair(network: Network, *, offload: bool = False) -> tuple[End, End]:
    """
    Two namespaces with a veth pair between them that is still down.

    An agent that watches before :func:`connect` and until :func:`disconnect` sees every packet that
    the interface ever counts, those of the kernel's own too.
    """
    one, other = End(network.namespace("a"), "va"), End(network.namespace("b"), "vb")
    plug(one, other)
    if not offload:
        no_offload(one)
        no_offload(other)
    return one, other


def by_direction(records: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """direction -> (packets, octets) of all records."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for record in records:
        flow = record["flow"]
        sums[flow["direction"]][0] += flow["packets"]
        sums[flow["direction"]][1] += flow["bytes"]
    return {direction: (packets, octets) for direction, (packets, octets) in sums.items()}


def listen(end: End, host: str, port: int, connections: int) -> Any:
    """A TCP server that is ready."""
    server = traffic.start(
        end.netns, "tcp-server", "--host", host, "--port", port, "--connections", connections
    )
    family = ":" in host

    def listening() -> bool:
        table = "/proc/net/tcp6" if family else "/proc/net/tcp"
        return f":{port:04X} " in end.netns.run("cat", table)

    wait_until(listening, f"a server on port {port}")
    return server


def datagrams(one: End) -> None:
    """A thousand of both families, to a hundred ports: where it only matters that they count."""
    for host in (V4[1], V6[1]):
        traffic.run(one.netns, "udp", "--host", host, "--count", 500, "--flows", 50, "--size", 100,
                    "--first_port", 40_000)  # fmt: skip


def all_kinds(one: End, other: End, *, flows: int = 50) -> None:
    """
    TCP, ICMP and UDP of both families from one end to the other, all of it over.

    Args:
        one: Sends; connected with the addresses ``ADDRESSES``.
        other: Answers.
        flows: Of UDP, of each family: 500 datagrams to so many ports.
    """
    servers = [listen(other, V4[1], 5001, 2), listen(other, V6[1], 5002, 2)]
    for host, port in ((V4[1], 5001), (V6[1], 5002)):
        traffic.run(one.netns, "tcp", "--host", host, "--port", port, "--connections", 2,
                    "--octets", 100_000)  # fmt: skip
        traffic.run(one.netns, "icmp", "--host", host, "--count", 20, "--size", 100)
        traffic.run(one.netns, "udp", "--host", host, "--count", 500, "--flows", flows, "--size",
                    100, "--first_port", 40_000)  # fmt: skip
    for server in servers:
        traffic.finish(server)


def expected(difference: Counters) -> dict[str, tuple[int, int]]:
    """The counters' view, as :func:`by_direction` has it."""
    return {
        "ingress": (difference.rx_packets, difference.rx_octets),
        "egress": (difference.tx_packets, difference.tx_octets),
    }


@pytest.mark.parametrize("hook", ["tcx", "tc"])
def test_a_million_packets_over_many_drains(network: Network, tmp_path: Path, hook: str) -> None:
    """
    IPv4 and IPv6, TCP, UDP and ICMP under load, flows beginning and ending across more than ten
    drains: exported packets and octets equal the interface counters in each direction.
    """
    one, other = pair(network)
    count = 260_000 if hook == "tcx" else 100_000
    arguments = ["--interfaces", one.device, "--drain-interval", "0.1s", "--attach", hook,
                 "--max-flows", "50000", "--metrics-address", "127.0.0.1:9401"]  # fmt: skip
    with Agent(one.netns, tmp_path, *arguments) as agent:
        connect(one, other, ADDRESSES)
        servers = [listen(other, V4[1], 5001, 40), listen(other, V6[1], 5002, 40)]
        senders = [
            traffic.start(one.netns, "udp", "--host", host, "--count", count, "--flows", flows,
                          "--size", size, "--first_port", port)
            for host, flows, size, port in (
                (V4[1], 3000, 64, 10_000), (V6[1], 700, 200, 20_000),
                (V4[1], 1, 1000, 9), (V6[1], 40_000, 1, 20_000),
            )
        ]  # fmt: skip
        senders += [
            traffic.start(other.netns, "icmp", "--host", host, "--count", 3000, "--size", size)
            for host, size in ((V4[0], 56), (V6[0], 1200))
        ]
        senders += [
            traffic.start(one.netns, "tcp", "--host", host, "--port", port, "--connections", 40,
                          "--octets", 300_000)
            for host, port in ((V4[1], 5001), (V6[1], 5002))
        ]  # fmt: skip
        for sender in (*senders, *servers):
            traffic.finish(sender)
        seen = disconnect(one)
        ledger = agent.wait_drained()
        drains = agent.drains()
        assert agent.stop() == 0, agent.log
    records = agent.records()
    assert by_direction(records) == expected(seen)
    assert drains >= 10
    assert sum(packets for packets, _ in expected(seen).values()) > 4 * count
    kernel = ledger["kernel"]
    assert kernel["seen"]["packets"] == seen.rx_packets + seen.tx_packets
    assert kernel["seen"]["octets"] == seen.rx_octets + seen.tx_octets
    assert kernel["not_ip"]["packets"] == kernel["malformed"]["packets"] == 0
    assert {record["network"]["transport"] for record in records} >= {
        "tcp", "udp", "icmp", "ipv6-icmp",
    }  # fmt: skip
    assert agent.summary() == {
        "flows": len(records),
        "packets": seen.rx_packets + seen.tx_packets,
        "octets": seen.rx_octets + seen.tx_octets,
        "lost": 0,
    }


def test_super_packets_count_as_the_segments_on_the_wire(network: Network, tmp_path: Path) -> None:
    """
    With segmentation offload, a TCP flow has as many packets as the sender's TCP counted segments,
    and as many octets as the device's super-packets and the headers that segmentation repeats.
    """
    one, other = pair(network, offload=True)
    with Agent(
        one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.2s"
    ) as agent:
        connect(one, other, ADDRESSES)
        server = listen(other, V4[1], 5001, 1)
        traffic.run(one.netns, "tcp", "--host", V4[1], "--port", 5001, "--connections", 1,
                    "--octets", 40_000_000)  # fmt: skip
        traffic.finish(server)
        seen, segments = disconnect(one), _segments(one)
        agent.wait_drained()
        assert agent.stop() == 0, agent.log
    sent = [r for r in agent.records() if r["flow"]["direction"] == "egress"]
    tcp = [r["flow"] for r in sent if r["network"]["transport"] == "tcp"]
    others = [r["flow"] for r in sent if r["network"]["transport"] != "tcp"]
    super_packets = seen.tx_packets - sum(flow["packets"] for flow in others)
    octets = seen.tx_octets - sum(flow["bytes"] for flow in others)
    assert super_packets < segments / 4, "the device was given super-packets"
    assert sum(flow["packets"] for flow in tcp) == segments
    # Ethernet 14, IPv4 20, TCP with timestamps 32.
    assert sum(flow["bytes"] for flow in tcp) == octets + 66 * (segments - super_packets)
    assert sum(flow["ip_bytes"] for flow in tcp) == (
        octets - 14 * super_packets + 52 * (segments - super_packets)
    )


def _segments(end: End) -> int:
    """What the namespace's TCP has sent, retransmissions included: RFC 4022."""
    return end.netns.snmp("Tcp", "OutSegs") + end.netns.snmp("Tcp", "RetransSegs")


def test_super_packets_count_as_one_when_asked(network: Network, tmp_path: Path) -> None:
    """With ``--gso packet`` the packets are those that the device counts."""
    one, other = pair(network, offload=True)
    with Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.2s",
               "--gso", "packet") as agent:  # fmt: skip
        connect(one, other, ADDRESSES)
        server = listen(other, V6[1], 5001, 3)
        traffic.run(one.netns, "tcp", "--host", V6[1], "--port", 5001, "--connections", 3,
                    "--octets", 5_000_000)  # fmt: skip
        traffic.finish(server)
        seen = disconnect(one)
        agent.wait_drained()
        assert agent.stop() == 0, agent.log
    assert by_direction(agent.records()) == expected(seen)


def test_only_the_direction_that_was_asked_for(network: Network, tmp_path: Path) -> None:
    """``--direction ingress`` sees what the device received and nothing else."""
    one, other = pair(network)
    with Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.2s",
               "--direction", "ingress") as agent:  # fmt: skip
        connect(one, other, ADDRESSES)
        traffic.run(other.netns, "icmp", "--host", V4[0], "--count", 200, "--size", 100)
        seen = disconnect(one)
        agent.wait_drained()
        assert agent.stop() == 0, agent.log
    assert by_direction(agent.records()) == {"ingress": expected(seen)["ingress"]}
    assert seen.rx_packets >= 200


def test_what_is_not_ip_is_counted_and_not_exported(network: Network, tmp_path: Path) -> None:
    """ARP and frames of unknown types are in the ledger as not IP, to the octet."""
    one, other = End(network.namespace("a"), "va"), End(network.namespace("b"), "vb")
    one.netns.quiet()
    other.netns.quiet()
    plug(one, other)
    with Agent(
        one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.2s"
    ) as agent:
        connect(one, other)
        with one.netns.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((one.device, 0))
            for kind, size in ((0x0806, 28), (0x88CC, 100), (0x0026, 38), (0x8847, 60)):
                raw.send(b"\xff" * 6 + bytes(6) + kind.to_bytes(2, "big") + bytes(size))
        seen = disconnect(one)
        ledger = agent.wait_drained()
        assert agent.stop() == 0, agent.log
    assert agent.records() == []
    assert ledger["kernel"]["not_ip"] == {"packets": 4, "octets": seen.tx_octets}
    assert seen.tx_packets == 4
