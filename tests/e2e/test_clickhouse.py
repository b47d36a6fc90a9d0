"""
What docs/downstream/clickhouse makes of a topic: ClickHouse's own Kafka engine reads a real broker.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from kafka import KafkaProducer

from exporter.batch.attributes import Attribute, Entities, Value
from exporter.batch.batch import FlowBatch, FlowEndReason
from exporter.batch.record import FlowRecord
from exporter.decode import decode
from tests.e2e.broker import Broker
from tests.e2e.clickhouse import ClickHouse
from tests.e2e.test_kafka import config, running, some_flows
from tests.e2e.topic import read


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


#: No flow in any layout.
RUBBISH = (b"\xff\xff", b"{}", b'{"a":', b"hello")
#: What flows.records has of an end, by the path in a record; a value for each.
NAMES: dict[str, tuple[str, str | int]] = {
    "k8s.kind": ("kind", "Pod"),
    "k8s.namespace.name": ("namespace", "shop"),
    "k8s.name": ("name", "web-0"),
    "k8s.owner.kind": ("owner_kind", "StatefulSet"),
    "k8s.owner.name": ("owner", "web"),
    "k8s.node.name": ("node", "node-1"),
    "k8s.node.ip": ("node_addr", "192.0.2.7"),
    "k8s.zone": ("zone", "zone-a"),
    "domain": ("domain", "web.example"),
    "as.number": ("as", 64_500),
    "geo.country.iso_code": ("country", "NZ"),
}


def enriched(batch: FlowBatch) -> FlowBatch:
    """Of every other source and of every third destination all that there is a column for."""
    entities = []
    for side, every in (("source", 2), ("destination", 3)):
        rows = (np.arange(len(batch)) % every == 1).astype(np.uint32)
        for owned in ("k8s", "domain", "as", "geo"):
            values: dict[Attribute, tuple[Value, ...]] = {
                Attribute(f"{side}.{path}", "", number=isinstance(value, int)): (None, value)
                for path, (_, value) in NAMES.items()
                if path.split(".")[0] == owned
            }
            entities.append(Entities(rows, values))
    return replace(batch, entities=tuple(entities))


def names(record: FlowRecord) -> dict[str, Any]:
    """The columns of what enrichment added."""
    added = {attribute.otel: value for attribute, value in record.metadata.items()}
    found: dict[str, Any] = {}
    for side, short in (("source", "src"), ("destination", "dst")):
        for path, (name, value) in NAMES.items():
            known = added.get(f"{side}.{path}", 0 if isinstance(value, int) else "")
            if name == "node_addr":
                known = octets(str(known)) if known else "::"
            found[f"{short}_{name}"] = known
    return found


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
    } | names(record)


@pytest.mark.parametrize("layout", ["netobserv", "packed", "json"])
def test_every_field(clickhouse: ClickHouse, broker: Broker, layout: str) -> None:
    """
    Each row has what ``exporter.decode`` reads in the message, field by field; packets and octets
    are those published, to the last one, in the rows and in the minutes. What is no flow stops
    nothing, and is kept aside as it came.
    """
    batch = lately(some_flows(2000))
    if layout == "json":
        batch = enriched(batch)
    topic = publish(broker, batch, layout)
    wanted = [row(record) for message in read(broker, topic) for record in decode(message.value)]
    with closing(KafkaProducer(bootstrap_servers=broker.address())) as other:
        for rubbish in RUBBISH:
            other.send(topic, rubbish)
    clickhouse.follow(layout, broker.address(), topic)
    clickhouse.wait_for(2000)
    times = ", ".join(
        f"toUnixTimestamp64Nano({name}) AS {name}" for name in ("flow_start", "flow_end")
    )
    others = ", ".join(name for name in wanted[0] if not name.startswith("flow_"))
    found = clickhouse.rows(f"SELECT {times}, {others} FROM flows.records")
    assert Counter(map(str, found)) == Counter(map(str, wanted))
    known = sum(r["src_name"] == "web-0" and r["dst_as"] == 64_500 for r in wanted)
    assert known == (334 if layout == "json" else 0)
    totals = (sum(r["packets"] for r in wanted), sum(r["octets_l2"] for r in wanted))
    assert totals == (batch.totals.packets, batch.totals.octets)
    counted = [r for r in wanted if not r["duplicate"]]
    assert 0 < len(counted) < 2000
    sums = tuple(sum(r[name] for r in counted) for name in ("packets", "octets_l2"))
    for table in ("pairs", "workloads"):
        got = clickhouse.one(
            f"SELECT sum(records), sum(packets), sum(octets_l2) FROM flows.{table}"
        )
        assert got == (len(counted), *sums)
    clickhouse.wait_until_one("SELECT count() FROM flows.unreadable", len(RUBBISH))
    aside = clickhouse.rows("SELECT hex(message) AS message, topic FROM flows.unreadable")
    assert Counter((r["message"], r["topic"]) for r in aside) == Counter(
        (rubbish.hex().upper(), topic) for rubbish in RUBBISH
    )
