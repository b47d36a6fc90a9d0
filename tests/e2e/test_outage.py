"""
Every destination away at once, and the agent killed meanwhile: with a spool nothing is missing.

The outage is as long as it takes for some batches to be spooled by either agent; TEST_OUTAGE makes
it longer, in seconds.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

from exporter._pb import flow_pb2
from exporter.sinks.ipfix.template import flow_template
from tests.e2e.agent import Agent, wait_until
from tests.e2e.broker import Broker
from tests.e2e.collector import Collector
from tests.e2e.net import Counters, Network, connect, disconnect
from tests.e2e.otelcol import Otelcol, attributes
from tests.e2e.prometheus import Prometheus
from tests.e2e.test_delivery import passed, sink_of, wait_delivered, wait_drain
from tests.e2e.test_exact import ADDRESSES, pair
from tests.e2e.test_upgrade import pumping
from tests.e2e.topic import read
from tests.kernel.bpffs import bpffs
from tests.servers import free_port
from tests.wire.stream_collector import RECEIVE_BUFFER, StreamCollector

OUTAGE = float(os.environ.get("TEST_OUTAGE", "0"))
#: Where flows are sent, and are sent again if nobody takes them.
SINKS = ("kafka", "otlp", "grpc", "ipfix")
#: Flows of a drain at most: two bursts of 200, and what else the two hosts say to each other.
BATCH = 450
#: Octets of the shortest record.
IPFIX_RECORD = flow_template(4, "nanoseconds").octets
PACKETS = "network_flow_packets_total"
#: Nanoseconds of its start and of its end, packets, octets, ports; no ICMP type in their place.
Flow = tuple[int, int, int, int, int, int]


class Destinations:
    """
    One of each kind, each a process of its own.

    Args:
        broker: A Kafka broker that runs; it runs again in the end.
        directory: For the files of the others.
    """

    def __init__(self, broker: Broker, directory: Path) -> None:
        self.broker, self.topic = broker, broker.topic(partitions=3)
        self.otelcol = Otelcol(directory)
        self.grpc = Collector(None, free_port(), directory)
        self.ipfix = StreamCollector(directory / "ipfix")
        self.metrics = f"127.0.0.1:{free_port()}"
        self.prometheus = Prometheus(None, directory / "prometheus", self.metrics)
        self._all = (self.otelcol, self.grpc, self.ipfix, self.prometheus)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for one in self._all:
                stack.enter_context(one)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def kill(self) -> None:
        """All of them, with -9."""
        for one in (self.broker, *self._all):
            one.kill()

    def start(self) -> None:
        for one in (self.broker, *self._all):
            one.start()

    def config(self, spool: Path) -> str:
        """The agent's, with a sink for each."""
        retry = "retry.longest=500ms&retry.timeout=3s"
        return f"""
spool: {{directory: {spool}}}
metrics: {{address: '{self.metrics}'}}
sinks:
- kafka://{self.broker.address()}/{self.topic}?{retry}
- otlp+grpc://127.0.0.1:{self.otelcol.listeners["plain"].grpc}?{retry}
- grpc://{self.grpc.target}?{retry}
- ipfix+tcp://{self.ipfix.target}?time=nanoseconds&{retry}
- prometheus://
"""


def test_destinations_and_agent_are_killed(
    broker: Broker, network: Network, tmp_path: Path
) -> None:
    """
    A Kafka broker, an OpenTelemetry Collector, collectors of gRPC and of IPFIX over TCP, and
    Prometheus are killed with -9 under traffic, and while they are away the agent is: when all are
    back, each has every packet and octet that the interface counted, and what came twice is at most
    the batches in flight at the two kills. Of IPFIX what the collector's host had acknowledged and
    the collector not read may be missing; Prometheus scrapes again, and the sums are the agent's.
    """
    one, other = pair(network)
    there = Destinations(broker, tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text(there.config(tmp_path / "spool"))

    def agent(life: str, pins: Path) -> Agent:
        (tmp_path / life).mkdir()
        return Agent(
            None, tmp_path / life, "--config", str(config), "--netns", one.netns.name,
            "--interfaces", one.device, "--drain-interval", "0.5s", "--pin", str(pins / "agent"),
        )  # fmt: skip

    with bpffs(tmp_path) as pins, there, ExitStack() as stack:
        first = agent("first", pins).__enter__()
        try:
            connect(one, other, ADDRESSES)
            pump = stack.enter_context(pumping(one.netns))
            for sink in SINKS:
                wait_until(partial(has_delivered, first, sink), "a delivery")
            scraped = scrape(there.prometheus)
            there.kill()
            time.sleep(OUTAGE / 2)
            for sink in SINKS:
                wait_until(partial(waits, first, sink), "batches wait")
        finally:
            first.process.kill()
            first.process.wait()
        with agent("second", pins) as second:
            wait_drain(second)
            recovered = {sink: sink_of(second, sink)["recovered"]["flows"] for sink in SINKS}
            time.sleep(OUTAGE / 2)
            there.start()
            pump.stop()
            counters = disconnect(one)
            ledger = wait_delivered(second)
            check_prometheus(there.prometheus, scraped, ledger)
            assert second.stop() == 0, second.log
        check_all(there, counters)
    assert all(flows > 2 * BATCH for flows in recovered.values())
    assert ledger["earlier_agents"]["lost"] == {"packets": 0, "octets": 0}
    assert ledger["kernel"]["seen"]["packets"] == passed(counters)[0]
    assert [ledger["sinks"][sink]["dropped"] for sink in SINKS] == [{}] * len(SINKS)


def check_all(there: Destinations, counters: Counters) -> None:
    """Nothing is missing, and little came twice."""
    messages = Counter(message.value for message in read(there.broker, there.topic))
    records = [flow_pb2.Record.FromString(message) for message in messages]
    assert (sum(r.packets for r in records), sum(r.bytes for r in records)) == passed(counters)
    assert twice(messages) <= 2 * BATCH
    logs = Counter(json.dumps(attributes(log), sort_keys=True) for log in there.otelcol.logs())
    flows = [json.loads(log) for log in logs]
    assert (
        sum(flow["flow.packets"] for flow in flows),
        sum(flow["flow.bytes"] for flow in flows),
    ) == passed(counters)
    assert twice(logs) <= 2 * BATCH
    captured = Counter(map(of_record, records))
    collected = Counter(map(of_record, there.grpc.records(once=False)))
    assert set(collected) == set(captured)
    assert twice(collected) <= 2 * BATCH
    exported = Counter(map(of_ipfix, there.ipfix.flows()))
    assert set(exported) <= set(captured)
    assert twice(exported) <= 2 * BATCH
    # What its host held for the collector, and what that had in its hands when it was killed.
    unread = 4 * RECEIVE_BUFFER + 16_384
    assert IPFIX_RECORD * len(set(captured) - set(exported)) <= unread


def scrape(prometheus: Prometheus) -> tuple[float, Mapping[Any, float]]:
    """A moment, and what Prometheus has of it: nothing of then is still to come."""

    def settled() -> float:
        return time.time() - 1

    wait_until(lambda: prometheus.query(PACKETS, settled()), "a scrape")
    then = settled()
    return then, prometheus.query(PACKETS, then)


def check_prometheus(
    prometheus: Prometheus,
    scraped: tuple[float, Mapping[Any, float]],
    ledger: Mapping[str, Any],
) -> None:
    """It has what it had, and now every packet that the agent has counted since it started."""
    then, found = scraped
    assert sum(found.values()) > 0
    assert prometheus.query(PACKETS, then) == found
    counted = ledger["sinks"]["prometheus"]["delivered"]["packets"]
    assert counted >= ledger["published"]["packets"] > 0
    # Without what it had of the first agent: a server that was killed marks nothing as gone.
    scrapes = f"last_over_time({PACKETS}[5s])"
    wait_until(lambda: sum(prometheus.query(scrapes).values()) == counted, "Prometheus has all")


def of_record(record: flow_pb2.Record) -> Flow:
    return (
        record.time_flow_start.ToNanoseconds(), record.time_flow_end.ToNanoseconds(),
        record.packets, record.bytes, record.transport.src_port, record.transport.dst_port,
    )  # fmt: skip


def of_ipfix(flow: Mapping[str, Any]) -> Flow:
    udp = flow["protocolIdentifier"] == 17
    return (
        flow["flowStartNanoseconds"], flow["flowEndNanoseconds"], flow["packetDeltaCount"],
        flow["layer2OctetDeltaCount"], flow["sourceTransportPort"] * udp,
        flow["destinationTransportPort"] * udp,
    )  # fmt: skip


def has_delivered(agent: Agent, name: str) -> bool:
    return bool(sink_of(agent, name)["delivered"]["flows"])


def waits(agent: Agent, name: str) -> bool:
    """More flows than two drains have wait for a sink, all of them in its spool."""
    sink = sink_of(agent, name)
    return bool(sink["pending"]["flows"] + sink["spooled"]["flows"] > 2 * BATCH)


def twice(found: Mapping[Any, int]) -> int:
    """How many came again."""
    return sum(found.values()) - len(found)
