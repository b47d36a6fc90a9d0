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

from exporter._pb import flow_pb2
from tests.e2e.agent import Agent, wait_until
from tests.e2e.broker import Broker
from tests.e2e.net import Network, connect, disconnect
from tests.e2e.otelcol import Otelcol, attributes
from tests.e2e.test_delivery import passed, sink_of, wait_delivered, wait_drain
from tests.e2e.test_exact import ADDRESSES, pair
from tests.e2e.test_upgrade import pumping
from tests.e2e.topic import read
from tests.kernel.bpffs import bpffs

OUTAGE = float(os.environ.get("TEST_OUTAGE", "0"))
SINKS = ("kafka", "otlp")
#: Flows of a drain at most: two bursts of 200, and what else the two hosts say to each other.
BATCH = 450


def test_destinations_and_agent_are_killed(
    broker: Broker, network: Network, tmp_path: Path
) -> None:
    """
    A Kafka broker and an OpenTelemetry Collector are killed with -9 under traffic, and while they
    are away the agent is: when all are back, either has every packet and octet that the interface
    counted, and what came twice is at most the batches in flight at the two kills.
    """
    topic = broker.topic(partitions=3)
    one, other = pair(network)
    config = tmp_path / "config.yaml"
    collector = Otelcol(tmp_path)
    config.write_text(
        f"""
spool: {{directory: {tmp_path / "spool"}}}
sinks:
- kafka://{broker.address()}/{topic}?retry.longest=500ms&retry.timeout=3s
- otlp+grpc://127.0.0.1:{collector.listeners["plain"].grpc}?retry.longest=500ms&retry.timeout=3s
"""
    )

    def agent(life: str, pins: Path) -> Agent:
        (tmp_path / life).mkdir()
        return Agent(
            None, tmp_path / life, "--config", str(config), "--netns", one.netns.name,
            "--interfaces", one.device, "--drain-interval", "0.5s", "--pin", str(pins / "agent"),
        )  # fmt: skip

    with bpffs(tmp_path) as pins, collector, ExitStack() as stack:
        first = agent("first", pins).__enter__()
        try:
            connect(one, other, ADDRESSES)
            pump = stack.enter_context(pumping(one.netns))
            for sink in SINKS:
                wait_until(partial(has_delivered, first, sink), "a delivery")
            broker.kill()
            collector.kill()
            time.sleep(OUTAGE / 2)
            for sink in SINKS:
                wait_until(partial(waits, first, sink), "batches wait")
            wait_drain(first)
        finally:
            first.process.kill()
            first.process.wait()
        with agent("second", pins) as second:
            wait_drain(second)
            recovered = {sink: sink_of(second, sink)["recovered"]["flows"] for sink in SINKS}
            time.sleep(OUTAGE / 2)
            broker.start()
            collector.start()
            pump.stop()
            counters = disconnect(one)
            ledger = wait_delivered(second)
            assert second.stop() == 0, second.log
        messages = Counter(message.value for message in read(broker, topic))
        logs = Counter(json.dumps(attributes(log), sort_keys=True) for log in collector.logs())
    assert all(flows > 2 * BATCH for flows in recovered.values())
    assert ledger["earlier_agents"]["lost"] == {"packets": 0, "octets": 0}
    assert ledger["kernel"]["seen"]["packets"] == passed(counters)[0]
    assert [ledger["sinks"][sink]["dropped"] for sink in SINKS] == [{}, {}]
    records = [flow_pb2.Record.FromString(message) for message in messages]
    assert (sum(r.packets for r in records), sum(r.bytes for r in records)) == passed(counters)
    flows = [json.loads(log) for log in logs]
    assert (
        sum(flow["flow.packets"] for flow in flows),
        sum(flow["flow.bytes"] for flow in flows),
    ) == passed(counters)
    assert twice(messages) <= 2 * BATCH
    assert twice(logs) <= 2 * BATCH


def has_delivered(agent: Agent, name: str) -> bool:
    return bool(sink_of(agent, name)["delivered"]["flows"])


def waits(agent: Agent, name: str) -> bool:
    """More flows than two drains have wait for a sink, all of them in its spool."""
    sink = sink_of(agent, name)
    return bool(sink["pending"]["flows"] + sink["spooled"]["flows"] > 2 * BATCH)


def twice(found: Mapping[str, int] | Mapping[bytes, int]) -> int:
    """How many came again."""
    values = list(found.values())
    return sum(values) - len(values)
