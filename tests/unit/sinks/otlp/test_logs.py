"""
Our log records against opentelemetry-proto's own decoder.

Every attribute of every schema is what the row says, and nothing else is there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from exporter.batch.attributes import Attribute, Entities, Value
from exporter.batch.batch import FlowBatch, Interface, Observer, Point, Window
from exporter.batch.record import records
from exporter.fanout.contract import Message
from exporter.sinks.otlp.anyvalue import LARGEST
from exporter.sinks.otlp.encode import Envelope, Limits, encode_logs, observed_ns
from exporter.sinks.otlp.fields import Schema
from exporter.testing import Row, make_batch
from tests.strategies import COMMUNITY, EDGES, batches, enriched
from tests.unit.sinks.otlp.expected import attributes

SCHEMAS = get_args(Schema)
ENVELOPE = Envelope({"service.name": "flow-exporter", "host.name": "node-1", "n": 5, "b": True})
LIMITS = Limits(10_000, 3_500_000)


def plain(value: AnyValue) -> Any:
    """An AnyValue as Python has it."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, str(kind))


def request(message: Message) -> ExportLogsServiceRequest:
    return ExportLogsServiceRequest.FromString(message.payload)


def decode(message: Message) -> list[LogRecord]:
    return list(request(message).resource_logs[0].scope_logs[0].log_records)


def said(record: LogRecord) -> dict[str, Any]:
    found = {one.key: plain(one.value) for one in record.attributes}
    assert len(found) == len(record.attributes), "an attribute twice"
    return found


@pytest.mark.parametrize("schema", SCHEMAS)
@given(batch=batches() | enriched())
@settings(max_examples=100)
def test_every_attribute_is_what_the_row_says(schema: Schema, batch: FlowBatch) -> None:
    """Log records of a message are its rows, in order."""
    for message in encode_logs(batch, schema, ENVELOPE, LIMITS):
        rows = list(records(message.rows))
        found = decode(message)
        assert len(found) == len(rows)
        for log, row in zip(found, rows, strict=True):
            says = said(log)
            if schema == "netobserv":
                assert says.pop("TimeReceived") == log.observed_time_unix_nano // 10**9
            assert says == attributes(row, schema)
            assert log.time_unix_nano == row.time_flow_end_ns
            assert log.severity_number == 9
            assert log.event_name == "network.flow"
            assert not log.HasField("body")


@given(batches() | enriched())
def test_nothing_unknown_and_nothing_else(batch: FlowBatch) -> None:
    """The library's own encoding of what it decoded decodes to the same; no field is unknown."""
    for message in encode_logs(batch, "otel", ENVELOPE, LIMITS):
        decoded = request(message)
        again = decoded.SerializeToString()
        assert request(replace(message, payload=again)) == decoded
        decoded.DiscardUnknownFields()
        assert decoded.SerializeToString() == again
        assert len(again) <= len(message.payload)
        (logs,) = decoded.resource_logs
        assert {one.key: plain(one.value) for one in logs.resource.attributes} == {
            "service.name": "flow-exporter", "host.name": "node-1", "n": 5, "b": True,
        }  # fmt: skip
        assert logs.scope_logs[0].scope.name == "flow-exporter"


@given(batches(), st.integers(1, 5), st.integers(4096, 8192))
def test_limits(batch: FlowBatch, flows: int, octets: int) -> None:
    """No message has more records or octets than allowed; every row is in exactly one message."""
    messages = list(encode_logs(batch, "otel", ENVELOPE, Limits(flows, octets)))
    for message in messages:
        assert 1 <= len(message.rows) <= flows
        assert len(message.payload) <= octets
        assert len(decode(message)) == len(message.rows)

    def identities(some: FlowBatch) -> list[str]:
        return [repr(record) for record in records(some)]

    found = [one for message in messages for one in identities(message.rows)]
    assert sorted(found) == sorted(identities(batch))


@pytest.mark.parametrize("value", EDGES)
def test_edges_of_varints(value: int) -> None:
    """Numbers of 64 bits; what OpenTelemetry has no integer for becomes its largest."""
    values = (value, 0, 5)
    batch = make_batch(*(Row(packet_count=n, octet_count_l2=n, octet_count_l3=n) for n in values))
    (message,) = encode_logs(batch, "otel", ENVELOPE, LIMITS)
    for key in ("flow.packets", "flow.bytes", "flow.ip_bytes"):
        assert [said(log)[key] for log in decode(message)] == [min(n, LARGEST) for n in values]


def test_many_rows_over_several_windows() -> None:
    """5,000 rows of both families: each is where it belongs."""
    rows = [
        Row(src_port=n, src_addr=f"10.0.{n >> 8}.{n & 255}", dst_addr="10.0.0.1")
        if n % 3
        else Row(src_port=n, src_addr=f"2001:db8::{n:x}", dst_addr="::1", ip_protocol=17)
        for n in range(5000)
    ]
    found = [
        said(log) for m in encode_logs(make_batch(*rows), "otel", ENVELOPE, LIMITS)
        for log in decode(m)
    ]  # fmt: skip
    pairs = {one["source.port"]: one["source.address"] for one in found}
    assert pairs == {row.src_port: row.src_addr.replace("::0", "::") for row in rows}
    assert len(found) == 5000


def test_a_record_larger_than_the_limit_goes_alone() -> None:
    """A limit that no record can keep gives messages of one record."""
    points = tuple(Point(0, n, 0) for n in range(200))
    batch = make_batch(Row(points=points), Row(points=points))
    messages = list(encode_logs(batch, "otel", ENVELOPE, Limits(100, 1024)))
    assert [len(decode(message)) for message in messages] == [1, 1]
    assert said(decode(messages[0])[0])["flow.interfaces.index"] == list(range(200))


@pytest.mark.parametrize("octets", [1, 60, 200])
def test_added_text_of_any_length(octets: int) -> None:
    """In every row another, or none."""
    texts = [b"a" * octets, b"", b"b"] * 3
    batch = make_batch(*(Row(src_port=n) for n in range(9)))
    batch = replace(batch, added={COMMUNITY: np.array(texts, f"S{octets}")})
    (message,) = encode_logs(batch, "otel", ENVELOPE, LIMITS)
    found = [said(log).get("network.community_id", "") for log in decode(message)]
    assert found == [text.decode() for text in texts]


@pytest.mark.parametrize("length", [1, 50, 118, 119, 120, 127, 128, 5000])
def test_entities_of_any_length(length: int) -> None:
    """Long names, and numbers that are negative or too large."""
    name, number = Attribute("source.x.name", ""), Attribute("source.x.number", "", number=True)
    values: dict[Attribute, tuple[Value, ...]] = {
        name: (None, "ü" * length, "y" * length, ""),
        number: (None, -5, 2**64, 0),
    }
    batch = make_batch(*(Row(src_port=n) for n in range(4)))
    batch = replace(batch, entities=(Entities(np.array([3, 2, 1, 0], np.uint32), values),))
    (message,) = encode_logs(batch, "otel", ENVELOPE, LIMITS)
    found = [
        (says.get("source.x.name"), says.get("source.x.number"))
        for says in map(said, decode(message))
    ]
    assert found == [
        (None, 0), ("y" * length, LARGEST), ("ü" * length, -5), (None, None),
    ]  # fmt: skip


def test_interfaces() -> None:
    """Names, indexes, directions and namespaces side by side; the counted one by itself too."""
    points = (Point(0, 2, 0), Point(1, 7, 1))
    names = {points[0]: Interface("wlan-ü"), points[1]: Interface("eth0", "pod-1")}
    (message,) = encode_logs(
        make_batch(Row(points=points), interfaces=names), "otel", ENVELOPE, LIMITS
    )
    says = said(decode(message)[0])
    assert says["network.interface.name"] == "wlan-ü"
    assert says["flow.interfaces.name"] == ["wlan-ü", "eth0"]
    assert says["flow.interfaces.index"] == [2, 7]
    assert says["flow.interfaces.direction"] == ["ingress", "egress"]
    assert says["flow.interfaces.netns"] == ["", "pod-1"]


def test_times() -> None:
    """The record's time is the flow's last packet; it was observed when it was drained."""
    batch = make_batch(Row(flow_start_ns=5, flow_end_ns=9), window=Window(1, 12))
    (message,) = encode_logs(batch, "otel", ENVELOPE, LIMITS)
    (log,) = decode(message)
    assert (log.time_unix_nano, log.observed_time_unix_nano) == (9, 12)
    assert said(log)["time.start"] == 5
    assert observed_ns(replace(batch, window=Window())) == 9


def test_nothing_for_nothing() -> None:
    """An empty batch has no message; without an agent's address there is no key for it."""
    assert list(encode_logs(make_batch(), "otel", ENVELOPE, LIMITS)) == []
    batch = make_batch(Row(), observer=Observer(""))
    (message,) = encode_logs(batch, "obi", ENVELOPE, LIMITS)
    assert "obi.ip" not in said(decode(message)[0])


def test_a_large_batch_is_cut_by_octets() -> None:
    """100,000 rows: messages keep the limit, and are not much smaller than it."""
    batch = make_batch(Row(points=(Point(0, 2, 0),))).take(np.zeros(100_000, np.int64))
    messages = list(encode_logs(batch, "otel", ENVELOPE, Limits(1_000_000, 3_500_000)))
    sizes = [len(message.payload) for message in messages]
    assert max(sizes) <= 3_500_000
    assert min(sizes[:-1]) > 2_000_000
    assert sum(len(message.rows) for message in messages) == 100_000
