"""
What docs/downstream/clickhouse makes of a topic: ClickHouse's own Kafka engine reads a real broker.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.batch.attributes import Entities
from exporter.batch.batch import FlowBatch, FlowEndReason
from exporter.batch.record import FlowRecord
from exporter.decode import decode
from tests.e2e.agent import wait_until
from tests.e2e.broker import Broker
from tests.e2e.clickhouse import ClickHouse
from tests.e2e.test_kafka import config, running, some_flows
from tests.e2e.topic import read
from tests.strategies import POD


@pytest.fixture
def clickhouse(tmp_path: Path) -> Iterator[ClickHouse]:
    """With the tables of flows.sql and the views across nodes."""
    with ClickHouse(tmp_path) as started:
        started.run("flows.sql")
        yield started


def follow(clickhouse: ClickHouse, broker: Broker, topic: str, layout: str) -> None:
    """Let the Kafka engine read a topic from its beginning."""
    clickhouse.run(
        f"kafka-{layout}.sql",
        {
            "kafka:9092": broker.address(),
            "network-flows": topic,
            # A group whose member was killed waits for it.
            "'clickhouse'": f"'{topic}'",
            "flush_interval_ms = 7500": "flush_interval_ms = 200",
        },
    )


def publish(broker: Broker, batch: FlowBatch, layout: str) -> str:
    """A topic with these flows."""
    topic = broker.topic(partitions=3)
    with running(config(broker, topic, layout=layout)) as sink:
        sink.put(batch)
        assert sink.settled().delivered == batch.totals
    return topic


def lately(batch: FlowBatch) -> FlowBatch:
    """The flows as if they had been now: rows are kept for a week."""
    later = np.uint64(time.time_ns() - int(batch.flow_end_ns.max()))
    return replace(
        batch, flow_start_ns=batch.flow_start_ns + later, flow_end_ns=batch.flow_end_ns + later
    )


def enriched(batch: FlowBatch) -> FlowBatch:
    """Half of the flows come from pods."""
    rows = np.arange(len(batch), dtype=np.uint32) % 2
    return replace(batch, entities=(Entities(rows, {POD.of("source"): (None, "web-0")}),))


def octets(text: str) -> str:
    """An address as ClickHouse prints its IPv6."""
    parsed = ip_address(text)
    return f"::ffff:{parsed}" if parsed.version == 4 else str(parsed)


def row(record: FlowRecord) -> dict[str, Any]:
    """What flows.records should have of a record."""
    icmp = record.icmp
    return {
        "flow_start": record.time_flow_start_ns,
        "flow_end": record.time_flow_end_ns,
        "agent": octets(record.agent_ip),
        "agent_name": record.agent_name,
        "src_addr": octets(record.source),
        "dst_addr": octets(record.destination),
        "src_port": record.source_port,
        "dst_port": 0 if icmp else record.destination_port,
        "ip_protocol": record.ip_protocol,
        "icmp_type": icmp[0] if icmp else 0,
        "icmp_code": icmp[1] if icmp else 0,
        "direction": ("ingress", "egress")[record.direction],
        "interfaces": [point.name for point in record.points],
        "interface_directions": [point.direction for point in record.points],
        "src_mac": int(record.source_mac.replace(":", ""), 16),
        "dst_mac": int(record.destination_mac.replace(":", ""), 16),
        "vlan_id": record.vlan_id,
        "inner_vlan_id": record.inner_vlan_id,
        "packets": record.packets,
        "octets_l2": record.octets_l2,
        "octets_l3": record.octets_l3,
        "tcp_control_bits": record.tcp_control_bits,
        "tcp_flag_sets": record.tcp_flag_sets,
        "dscp": record.dscp,
        "sampling_interval": record.sampling_interval,
        "duplicate": record.duplicate,
        "end_reason": FlowEndReason(record.end_reason).text if record.end_reason else "",
        "src_name": record.metadata.get(POD.of("source"), ""),
    }


@pytest.mark.parametrize("layout", ["netobserv", "packed", "json"])
def test_every_field(clickhouse: ClickHouse, broker: Broker, layout: str) -> None:
    """
    Each row has what ``exporter.decode`` reads in the message, field by field; packets and octets
    are those published, to the last one, in the rows and in the minutes.
    """
    batch = lately(some_flows(2000))
    if layout == "json":
        batch = enriched(batch)
    topic = publish(broker, batch, layout)
    wanted = [row(record) for message in read(broker, topic) for record in decode(message.value)]
    follow(clickhouse, broker, topic, layout)
    wait_until(
        lambda: clickhouse.one("SELECT count() FROM flows.records") == (2000,), "all rows are there"
    )
    times = ", ".join(f"toUnixTimestamp64Nano({name}) AS {name}" for name in ("flow_start", "flow_end"))
    names = ", ".join(name for name in wanted[0] if not name.startswith("flow_"))
    found = clickhouse.rows(f"SELECT {times}, {names} FROM flows.records")
    assert Counter(map(str, found)) == Counter(map(str, wanted))
    totals = (sum(r["packets"] for r in wanted), sum(r["octets_l2"] for r in wanted))
    assert totals == (batch.totals.packets, batch.totals.octets)
    counted = [r for r in wanted if not r["duplicate"]]
    assert 0 < len(counted) < 2000
    sums = tuple(sum(r[name] for r in counted) for name in ("packets", "octets_l2"))
    for table in ("pairs", "workloads"):
        got = clickhouse.one(f"SELECT sum(records), sum(packets), sum(octets_l2) FROM flows.{table}")
        assert got == (len(counted), *sums)
