"""
Two nodes report the flows between them: the views of docs/downstream/clickhouse count them once.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.e2e import traffic
from tests.e2e.agent import Agent, wait_until
from tests.e2e.broker import Broker
from tests.e2e.clickhouse import FILES, ClickHouse
from tests.e2e.net import End, Netns, Network, neighbour, no_offload, plug, switch_on
from tests.e2e.prometheus import Prometheus
from tests.e2e.test_exact import listen
from tests.e2e.topic import read
from tests.servers import free_ports

A, B, C = "10.7.0.1", "10.7.0.2", "10.7.0.3"
LABELS = "src_addr,dst_addr,ip_protocol,flow_direction"
EVER = "from = '2020-01-01 00:00:00', until = '2100-01-01 00:00:00'"


@dataclass(frozen=True)
class Lan:
    """Three hosts on a switch that are still down; every one has its only interface in it."""

    switch: Netns
    hosts: dict[str, End]

    def bring_up(self) -> None:
        """From now on packets pass: no others than the test's."""
        macs = {address: end.netns.mac(end.device) for address, end in self.hosts.items()}
        ports = [End(self.switch, f"p-{end.device}") for end in self.hosts.values()]
        switch_on(*self.hosts.values(), *ports, End(self.switch, "br0"))
        for address, end in self.hosts.items():
            end.netns.ip("addr", "add", f"{address}/24", "dev", end.device)
            self.switch.run("bridge", "fdb", "replace", macs[address], "dev", f"p-{end.device}",
                            "master", "static")  # fmt: skip
            for other, mac in macs.items():
                if other != address:
                    neighbour(end, other, mac)


@pytest.fixture
def lan(network: Network) -> Lan:
    switch = network.namespace("switch")
    switch.quiet()
    switch.ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
    hosts = {}
    for address, device in ((A, "ea"), (B, "eb"), (C, "ec")):
        host = End(network.namespace(device), device)
        host.netns.quiet()
        port = End(switch, f"p-{device}")
        plug(host, port)
        no_offload(host)
        switch.ip("link", "set", port.device, "master", "br0")
        hosts[address] = host
    return Lan(switch, hosts)


def all_kinds(lan: Lan) -> None:
    """Both ways between the nodes; from one to the host without an agent, from it to the other."""
    ends = lan.hosts
    servers = [listen(ends[B], B, 5001, 2), listen(ends[A], A, 5002, 1)]
    traffic.run(ends[A].netns, "tcp", "--host", B, "--port", 5001, "--connections", 2, "--octets",
                200_000)  # fmt: skip
    traffic.run(ends[B].netns, "tcp", "--host", A, "--port", 5002, "--connections", 1, "--octets",
                50_000)  # fmt: skip
    for server in servers:
        traffic.finish(server)
    traffic.run(ends[A].netns, "icmp", "--host", B, "--count", 20, "--size", 100)
    for source, destination in ((A, B), (A, C), (C, B)):
        traffic.run(ends[source].netns, "udp", "--host", destination, "--count", 2000, "--flows",
                    40, "--size", 200, "--first_port", 40_000)  # fmt: skip


def totals(clickhouse: ClickHouse, table: str) -> tuple[int, int]:
    """Packets and octets."""
    packets, octets = clickhouse.one(f"SELECT sum(packets), sum(octets_l2) FROM {table}")
    return packets, octets


def recording_rules() -> dict[str, str]:
    """Name -> expression of those in docs/downstream/README.md."""
    text = (FILES.parent / "README.md").read_text()
    (group,) = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["groups"]
    return {rule["record"]: rule["expr"] for rule in group["rules"]}


def counted_by_prometheus(prometheus: Prometheus, sent: tuple[int, int]) -> None:
    """
    The recording rules, as they are, have every pair; of the counters themselves, without the rate,
    they give what was sent.
    """
    rules = recording_rules()
    for word, total in zip(("packets", "bytes"), sent, strict=True):
        rule = rules[f"pair:network_flow_{word}:rate5m"]
        counters = re.sub(r"rate\((\w+)\[5m\]\)", r"\1", rule)
        assert counters != rule
        wait_until(partial(_is_sum, prometheus, counters, total), f"all {word} are scraped")
        wait_until(partial(_has_pairs_of, prometheus, rule, counters), "rates of all pairs")
        assert sum(prometheus.query(f"sum(network_flow_{word}_total)").values()) > total


def _is_sum(prometheus: Prometheus, expression: str, total: int) -> bool:
    return sum(prometheus.query(expression).values()) == total


def _has_pairs_of(prometheus: Prometheus, rule: str, counters: str) -> bool:
    return set(prometheus.query(rule)) == set(prometheus.query(counters))


def test_two_agents(clickhouse: ClickHouse, broker: Broker, lan: Lan, tmp_path: Path) -> None:
    """
    Two agents that drain at different times, one topic, one Prometheus, and a host without an
    agent: what is counted once is what the three hosts' interfaces sent, to the octet; flows that
    one agent saw are in it.
    """
    topic = broker.topic(partitions=3)
    with ExitStack() as stack:
        agents, targets = [], [f"127.0.0.1:{port}" for port in free_ports(2)]
        for address, interval, target in zip((A, B), ("0.2s", "0.33s"), targets, strict=True):
            end, directory = lan.hosts[address], tmp_path / address
            directory.mkdir()
            agents.append(stack.enter_context(
                Agent(None, directory, "--netns", end.netns.name, "--interfaces", end.device,
                      "--drain-interval", interval, "--agent-address", address,
                      "--metrics-address", target, "--sink", f"prometheus://?labels={LABELS}",
                      "--sink", f"kafka://{broker.address()}/{topic}")
            ))  # fmt: skip
        prometheus = stack.enter_context(Prometheus(None, tmp_path / "prometheus", *targets))
        lan.bring_up()
        for _ in range(2):
            all_kinds(lan)
            agents[0].wait_drained()
        agents[1].wait_drained()
        seen = {address: lan.hosts[address].counters() for address in (A, B, C)}
        sent = (sum(c.tx_packets for c in seen.values()), sum(c.tx_octets for c in seen.values()))
        got = (sum(c.rx_packets for c in seen.values()), sum(c.rx_octets for c in seen.values()))
        assert sent == got
        counted_by_prometheus(prometheus, sent)
        for agent in agents:
            assert agent.stop() == 0, agent.log
    clickhouse.follow("netobserv", broker.address(), topic)
    clickhouse.wait_for(len(read(broker, topic)))
    both = [seen[A], seen[B]]
    assert totals(clickhouse, "flows.records") == (
        sum(c.rx_packets + c.tx_packets for c in both),
        sum(c.rx_octets + c.tx_octets for c in both),
    )
    once = f"flows.counted_once({EVER}, gap = 30)"
    assert totals(clickhouse, once) == sent
    for source, destination, only in ((A, C, A), (C, B, B)):
        flow = f"src_addr = toIPv6('{source}') AND dst_addr = toIPv6('{destination}')"
        assert totals(clickhouse, f"{once} WHERE {flow}") == (4000, 4000 * 242)
        assert totals(clickhouse, f"{once} WHERE {flow} AND agent = toIPv6('{only}')") == (
            4000, 4000 * 242
        )  # fmt: skip
    hours = totals(clickhouse, f"flows.pairs_once({EVER}, step = 3600)")
    assert all(one >= other for one, other in zip(hours, sent, strict=True))
