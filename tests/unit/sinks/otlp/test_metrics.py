"""
Our metrics against opentelemetry-proto's own decoder.

Sums are those of ``Series``, which has tests of its own; here it is what they become on the wire.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, NumberDataPoint

from exporter.batch.batch import FlowBatch, Window
from exporter.batch.record import WITH_PORTS, FlowRecord, records
from exporter.sinks.encodings.jsonl import protocol_name
from exporter.sinks.encodings.series import ATTRIBUTES
from exporter.sinks.otlp.anyvalue import LARGEST
from exporter.sinks.otlp.config import FlowMetricsConfig, OtlpConfig
from exporter.sinks.otlp.encode import Envelope, Limits
from exporter.sinks.otlp.fields import Schema
from exporter.sinks.otlp.metrics import KEYS, SCOPES, MetricsEncoder, Points
from exporter.sinks.otlp.sink import OtlpSink
from exporter.testing import Row, make_batch
from tests.strategies import batches, enriched
from tests.unit.sinks.otlp.test_logs import plain

ENVELOPE = Envelope({"service.name": "flow-exporter"})
LIMITS = Limits(10_000, 3_500_000)
Key = frozenset[tuple[str, Any]]


def encoder(schema: Schema = "otel", limits: Limits = LIMITS, **options: Any) -> MetricsEncoder:
    return MetricsEncoder(FlowMetricsConfig(**options), schema, limits)


def request(message: Points) -> ExportMetricsServiceRequest:
    return ExportMetricsServiceRequest.FromString(message.payload)


def points(messages: list[Points], metric: int) -> dict[Key, NumberDataPoint]:
    """Data points of the octets (0) or the packets (1) by their attributes."""
    found: dict[Key, NumberDataPoint] = {}
    for message in messages:
        for point in (
            request(message).resource_metrics[0].scope_metrics[0].metrics[metric].sum.data_points
        ):
            key = frozenset((one.key, plain(one.value)) for one in point.attributes)
            assert key not in found
            found[key] = point
    return found


def said(record: FlowRecord) -> Key:
    """Transport, source address and port of a record, as the otel schema has them."""
    port = record.source_port if record.ip_protocol in WITH_PORTS else 0
    return frozenset({
        ("network.transport", protocol_name(record.ip_protocol)),
        ("source.address", record.source),
        ("source.port", port),
    })  # fmt: skip


@given(batches(), st.sampled_from(("delta", "cumulative")), st.integers(4096, 6000))
def test_every_sum(batch: FlowBatch, temporality: str, octets: int) -> None:
    """Sums by attributes, in messages within the limit, each row in exactly one message."""
    made = encoder(
        limits=Limits(1, octets),
        attributes=("ip_protocol", "src_addr", "src_port"),
        temporality=temporality,
    )
    messages = list(made.encode(batch, ENVELOPE))
    wanted: dict[Key, list[int]] = {}
    for record in records(batch):
        if not record.duplicate:
            total = wanted.setdefault(said(record), [0, 0])
            total[0] = (total[0] + record.octets_l2) % (1 << 64)
            total[1] = (total[1] + record.packets) % (1 << 64)
    for metric in (0, 1):
        found = {key: point.as_int for key, point in points(messages, metric).items()}
        assert found == {key: min(total[metric], LARGEST) for key, total in wanted.items()}
    assert all(len(message.payload) <= octets for message in messages)
    assert sum(len(message.rows) for message in messages) == len(batch)
    assert sum(message.count for message in messages) == 2 * len(wanted)


@pytest.mark.parametrize("schema", get_args(Schema))
def test_names(schema: Schema) -> None:
    """Every attribute has a key of its own in every schema; metrics have the schema's names."""
    keys = [KEYS[schema][name][0] for name in ATTRIBUTES]
    assert len(set(keys)) == len(ATTRIBUTES)
    (message,) = encoder(schema, attributes=tuple(ATTRIBUTES)).encode(make_batch(Row()), ENVELOPE)
    (resource,) = request(message).resource_metrics
    octets, packets = resource.scope_metrics[0].metrics
    assert {one.key for one in octets.sum.data_points[0].attributes} == set(keys)
    prefix = {"otel": "network", "obi": "obi.network", "netobserv": "netobserv"}[schema]
    assert (octets.name, packets.name) == (f"{prefix}.flow.bytes", f"{prefix}.flow.packets")
    units = ("{bytes}", "{packets}") if schema == "obi" else ("By", "{packet}")
    assert (octets.unit, packets.unit) == units
    assert octets.sum.is_monotonic
    assert SCOPES[schema]


def test_obi() -> None:
    """What dashboards for OBI ask for."""
    (message,) = encoder(
        "obi", attributes=("ip_protocol", "src_addr", "dst_addr", "interface", "flow_direction")
    ).encode(make_batch(Row(direction=1, ifindex=3)), ENVELOPE)
    assert set(points([message], 0)) == {
        frozenset({
            ("transport", "TCP"), ("src.address", "192.0.2.1"), ("dst.address", "198.51.100.2"),
            ("iface", "3"), ("iface.direction", "egress"),
        })
    }  # fmt: skip


@pytest.mark.parametrize("schema", get_args(Schema))
@given(batch=enriched())
@settings(max_examples=30)
def test_what_was_added(schema: Schema, batch: FlowBatch) -> None:
    """Keys by schema, integers as integers; what is not known is absent."""
    added = batch.attributes()
    config = FlowMetricsConfig(attributes=tuple(what.name for what in added[:-2]))
    made = MetricsEncoder(config, schema, LIMITS, added)
    wanted: dict[Key, int] = {}
    for record in records(batch):
        if not record.duplicate:
            key = frozenset(
                (getattr(what, schema) or what.otel, value)
                for what, value in record.metadata.items()
                if what in added[:-2]
            )
            wanted[key] = (wanted.get(key, 0) + record.packets) % (1 << 64)
    found = {key: one.as_int for key, one in points(list(made.encode(batch, ENVELOPE)), 1).items()}
    assert found == {key: min(total, LARGEST) for key, total in wanted.items()}


def test_times_and_temporality() -> None:
    """Cumulative: since the series began. Delta: since the drain before. Never ends before it."""
    first = make_batch(Row(src_port=1), window=Window(10, 20))
    second = make_batch(Row(src_port=1), Row(src_port=2), window=Window(20, 30))
    stepped = make_batch(Row(src_port=1), window=Window(5, 8))
    times: dict[str, list[list[tuple[int, int, int]]]] = {}
    for temporality in ("cumulative", "delta"):
        made = encoder(attributes=("src_port",), temporality=temporality)
        for batch in (first, second, stepped):
            messages = list(made.encode(batch, ENVELOPE))
            metric = request(messages[0]).resource_metrics[0].scope_metrics[0].metrics[0]
            name = AggregationTemporality.Name(metric.sum.aggregation_temporality)
            assert name.endswith(temporality.upper())
            times.setdefault(temporality, []).append([
                (p.start_time_unix_nano, p.time_unix_nano, p.as_int)
                for p in metric.sum.data_points
            ])  # fmt: skip
    assert times["cumulative"] == [
        [(10, 20, 1540)],
        [(10, 30, 3080), (20, 30, 1540)],
        # The clock was stepped back.
        [(10, 10, 4620), (20, 20, 1540)],
    ]
    assert times["delta"] == [
        [(10, 20, 1540)],
        [(20, 30, 1540), (20, 30, 1540)],
        [(5, 8, 1540)],
    ]


def test_overflow_says_so() -> None:
    """The series for what has no room has one attribute."""
    made = encoder(attributes=("src_port",), limit=2)
    messages = list(made.encode(make_batch(*(Row(src_port=n) for n in range(4))), ENVELOPE))
    found = {key: point.as_int for key, point in points(messages, 1).items()}
    assert found == {
        frozenset({("source.port", 0)}): 10,
        frozenset({("otel.metric.overflow", True)}): 30,
    }


def test_without_attributes_there_is_one_series() -> None:
    """The sum over everything; it is not overflow."""
    (message,) = encoder(attributes=()).encode(make_batch(Row(), Row()), ENVELOPE)
    assert {key: p.as_int for key, p in points([message], 1).items()} == {frozenset(): 20}


def test_split_keeps_every_row_and_every_series() -> None:
    """Down to one series a message, then no more; duplicates stay with the first."""
    sink = OtlpSink(
        "otlp",
        OtlpConfig(
            endpoint="h:1", signal="metrics", metrics=FlowMetricsConfig(attributes=("src_port",))
        ),
        {},
    )
    rows = [Row(src_port=n % 5, duplicate=n == 7) for n in range(12)]
    (whole,) = sink.encode(make_batch(*rows))
    waiting, single = [whole], []
    while waiting:
        message = waiting.pop()
        parts = list(sink.split(message))
        assert not parts or sum(len(p.rows) for p in parts) == len(message.rows)
        waiting += parts
        if not parts:
            single.append(message)
    assert len(single) == 5
    assert sum(len(message.rows) for message in single) == 12
    typed = [message for message in single if isinstance(message, Points)]
    found = {key: point.as_int for key, point in points(typed, 1).items()}
    assert found == {
        frozenset({("source.port", n)}): 10 * sum(r.src_port == n and not r.duplicate for r in rows)
        for n in range(5)
    }


def test_ten_thousand_series_over_many_messages() -> None:
    """As many messages as the limit asks for; all rows, all series."""
    batch = make_batch(Row()).take(np.zeros(10_000, np.int64))
    key = batch.key.copy()
    key["src_port"] = np.arange(10_000)
    batch = replace(batch, key=key)
    made = encoder(limits=Limits(1, 200_000), attributes=("src_port", "dst_addr"), limit=20_000)
    messages = list(made.encode(batch, ENVELOPE))
    sizes = [len(message.payload) for message in messages]
    assert max(sizes) <= 200_000
    assert min(sizes[:-1]) > 150_000
    assert sum(len(message.rows) for message in messages) == 10_000
    assert len(points(messages, 0)) == 10_000
