"""Records over gRPC to a real collector: all fields, all packets, whatever happens to it."""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from exporter._pb import flow_pb2
from tests.certificates import Authority
from tests.e2e import traffic
from tests.e2e.agent import Agent, wait_until
from tests.e2e.collector import Collector
from tests.e2e.net import Network, connect, disconnect
from tests.e2e.test_exact import ADDRESSES, V4, V6, all_kinds, pair

PORT = 19_999


def delivered(records: list[flow_pb2.Record]) -> tuple[int, int]:
    return sum(r.packets for r in records), sum(r.bytes for r in records)


def test_every_field_arrives(network: Network, tmp_path: Path) -> None:
    """What the collector decodes is what the agent printed, field by field, for all protocols."""
    one, other = pair(network)
    with (
        Collector(one.netns, PORT, tmp_path) as collector,
        Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.2s", "--sink",
              "stdout", "--sink", f"grpc://{collector.target}") as agent,
    ):  # fmt: skip
        connect(one, other, ADDRESSES)
        all_kinds(one, other)
        counters = disconnect(one)
        agent.wait_drained()
        assert agent.stop() == 0, agent.log
    received, printed = collector.records(), agent.records()
    assert Counter(map(_from_wire, received)) == Counter(map(_from_json, printed))
    assert delivered(received) == (
        counters.rx_packets + counters.tx_packets,
        counters.rx_octets + counters.tx_octets,
    )
    assert {r.transport.protocol for r in received} >= {1, 6, 17, 58}
    assert any(r.flags & 0x100 for r in received), "a SYN+ACK was seen"


def _from_wire(record: flow_pb2.Record) -> tuple[Any, ...]:
    network = record.network
    return (
        record.time_flow_start.ToNanoseconds() // 1000,
        record.time_flow_end.ToNanoseconds() // 1000,
        _address(network.src_addr), _address(network.dst_addr),
        record.transport.src_port, record.transport.dst_port, record.transport.protocol,
        record.eth_protocol, record.bytes, record.packets, network.dscp, record.flags & 0xFF,
        record.icmp_type, record.icmp_code, record.sampling,
        f"{record.data_link.src_mac:012x}", f"{record.data_link.dst_mac:012x}",
        tuple((entry.interface, entry.direction) for entry in record.dup_list),
        record.direction, _address(record.agent_ip),
    )  # fmt: skip


def _address(address: flow_pb2.IP) -> str:
    if address.WhichOneof("ip_family") == "ipv4":
        return str(ipaddress.IPv4Address(address.ipv4))
    return str(ipaddress.IPv6Address(address.ipv6))


def _from_json(record: dict[str, Any]) -> tuple[Any, ...]:
    flow, source, destination = record["flow"], record["source"], record["destination"]
    icmp = flow.get("icmp", {"type": 0, "code": 0})
    directions = ("ingress", "egress")
    return (
        _microseconds(record["time"]["start"]), _microseconds(record["time"]["end"]),
        source["address"], destination["address"],
        source.get("port", 0), destination.get("port", 0), record["network"]["iana_number"],
        {"ipv4": 0x0800, "ipv6": 0x86DD}[record["network"]["type"]],
        flow["bytes"], flow["packets"], flow["dscp"], flow.get("tcp_flags", 0) & 0xFF,
        icmp["type"], icmp["code"], record["sampling"]["interval"],
        source["mac"].replace(":", ""), destination["mac"].replace(":", ""),
        tuple((p["name"], directions.index(p["direction"])) for p in flow["interfaces"]),
        directions.index(flow["direction"]), record["observer"]["address"],
    )  # fmt: skip


def _microseconds(text: str) -> int:
    seconds, _, fraction = text.rstrip("Z").partition(".")
    whole = int(time.mktime(time.strptime(seconds, "%Y-%m-%dT%H:%M:%S")) - time.timezone)
    return whole * 1_000_000 + int(fraction[:6])


def test_killed_and_restarted_under_traffic(network: Network, tmp_path: Path) -> None:
    """
    A collector that is killed and started again while packets pass misses nothing that fits in the
    queue; a message whose answer it took to the grave comes again, as a whole.
    """
    one, other = pair(network)
    with (
        Collector(one.netns, PORT, tmp_path) as collector,
        Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.1s",
              "--sink", f"grpc://{collector.target}") as agent,
    ):  # fmt: skip
        connect(one, other, ADDRESSES)
        sender = traffic.start(one.netns, "udp", "--host", V4[1], "--count", 500_000, "--flows",
                               2000, "--size", 64, "--first_port", 9)  # fmt: skip
        for _ in range(2):
            time.sleep(0.5)
            collector.kill()
            time.sleep(0.5)
            collector.start()
        traffic.finish(sender)
        counters = disconnect(one)
        ledger = agent.wait_drained()
        assert agent.stop() == 0, agent.log
    sink = ledger["sinks"]["grpc"]
    assert sink["dropped"] == {}
    assert sink["delivered"] == sink["queued"] == ledger["published"]
    assert delivered(collector.records()) == (
        counters.rx_packets + counters.tx_packets,
        counters.rx_octets + counters.tx_octets,
    )
    # At least once: what came twice is whole messages, at most one for each time it was killed.
    messages = collector.messages()
    assert len(messages) - len(set(messages)) <= 2


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
def test_what_does_not_fit_is_counted(network: Network, tmp_path: Path, policy: str) -> None:
    """
    With a queue that is too small for the time the collector is away, what was dropped and what
    arrived are all that was published, to the packet.
    """
    one, other = pair(network)
    target = f"grpc://127.0.0.1:{PORT}?queue.rows=3000&queue.when_full={policy}"
    with Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.1s",
               "--sink", target) as agent:  # fmt: skip
        connect(one, other, ADDRESSES)
        traffic.run(one.netns, "udp", "--host", V4[1], "--count", 200_000, "--flows", 2000,
                    "--size", 64, "--first_port", 9)  # fmt: skip
        wait_until(lambda: agent.ledger()["sinks"]["grpc"]["dropped"], "rows are dropped")
        with Collector(one.netns, PORT, tmp_path) as collector:
            counters = disconnect(one)
            ledger = agent.wait_drained()
            received = collector.records()
            assert agent.stop() == 0, agent.log
    sink = ledger["sinks"]["grpc"]
    assert list(sink["dropped"]) == ["queue_full"]
    assert delivered(received) == (sink["delivered"]["packets"], sink["delivered"]["octets"])
    for unit in ("flows", "packets", "octets"):
        arrived, gone = sink["delivered"][unit], sink["dropped"]["queue_full"][unit]
        assert arrived + gone == sink["queued"][unit] == ledger["published"][unit]
    assert ledger["published"]["packets"] == counters.rx_packets + counters.tx_packets
    assert sink["delivered"]["flows"] >= 3000 - 2000


def test_nobody_there_at_the_end(network: Network, tmp_path: Path) -> None:
    """Stopped while the collector is away, the agent gives up in time and says what it dropped."""
    one, other = pair(network)
    config = tmp_path / "config.yaml"
    config.write_text("shutdown_timeout: 1s\n")
    with Agent(one.netns, tmp_path, "--config", str(config), "--interfaces", one.device, "--sink",
               f"grpc://127.0.0.1:{PORT}") as agent:  # fmt: skip
        connect(one, other, ADDRESSES)
        traffic.run(one.netns, "icmp", "--host", V4[1], "--count", 5, "--size", 10)
        began = time.monotonic()
        assert agent.stop() == 0, agent.log
    assert time.monotonic() - began < 5
    assert f"dropped by sinks: {agent.summary()['flows']} flows" in agent.log
    assert agent.summary()["packets"] >= 10


def test_messages_stay_below_what_servers_take(network: Network, tmp_path: Path) -> None:
    """
    80,000 flows in one drain are split by count and by octets; a message that this server finds too
    large all the same is split again, and nothing is lost.
    """
    one, other = pair(network)
    sink = f"grpc://127.0.0.1:{PORT}?max_flows=50000&max_octets=6MB"
    with (
        Collector(one.netns, PORT, tmp_path) as collector,
        Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "30s",
              "--max-flows", "200000", "--sink", sink) as agent,
    ):  # fmt: skip
        connect(one, other, ADDRESSES)
        for first_port in (1, 40_001):
            traffic.run(one.netns, "udp", "--host", V6[1], "--count", 25_000, "--flows", 25_000,
                        "--size", 64, "--first_port", first_port)  # fmt: skip
        for first_port in (1, 30_001):
            traffic.run(one.netns, "udp", "--host", V4[1], "--count", 20_000, "--flows", 20_000,
                        "--size", 64, "--first_port", first_port)  # fmt: skip
        counters = disconnect(one)
        assert agent.stop() == 0, agent.log
        received = collector.records()
    assert delivered(received)[0] == counters.rx_packets + counters.tx_packets
    sizes = [len(message) for message in collector.messages()]
    assert max(sizes) < 4 << 20
    assert len(sizes) >= 4
    assert len(received) >= 80_000


def test_mutual_tls(network: Network, tmp_path: Path) -> None:
    """
    Over TLS with certificates on both sides; without a client's certificate nothing is delivered.
    """
    authority = Authority(tmp_path)
    server = authority.issue("server", "DNS:server.test")
    client = authority.issue("client", "DNS:client.test")
    one, other = pair(network)
    tls = f"tls.ca={authority.pem}&tls.server_name=server.test"
    own = f"tls.certificate={client.certificate}&tls.key={client.key}"
    keys = [server.key, server.certificate, authority.pem]
    (tmp_path / "good").mkdir()
    config = tmp_path / "config.yaml"
    # What the refused sink has is not waited for.
    config.write_text("shutdown_timeout: 100ms\n")
    with (
        Collector(one.netns, PORT, tmp_path, *keys) as collector,
        Agent(one.netns, tmp_path / "good", "--config", str(config), "--interfaces", one.device,
              "--drain-interval", "0.2s",
              "--sink", f"grpc://{collector.target}?{tls}&{own}",
              "--sink", f"grpc://{collector.target}?{tls}&queue.rows=7&retry.timeout=1s") as agent,
    ):  # fmt: skip
        connect(one, other, ADDRESSES)
        traffic.run(one.netns, "icmp", "--host", V4[1], "--count", 50, "--size", 10)
        counters = disconnect(one)
        wait_until(
            lambda: (
                agent.ledger()["sinks"]["grpc"]["pending"]["flows"] == 0
                and agent.ledger()["sinks"]["grpc"]["delivered"]["flows"] > 0
                and agent.ledger()["held_in_kernel"]["packets"] == 0
            ),
            "the good sink has delivered",
        )
        ledger = agent.ledger()
        wait_until(lambda: "sink grpc2" in agent.log, "the refused sink says so")
        assert agent.stop() == 0, agent.log
    assert delivered(collector.records())[0] == counters.rx_packets + counters.tx_packets
    assert ledger["sinks"]["grpc2"]["delivered"]["flows"] == 0
