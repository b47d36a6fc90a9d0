"""
Our spans against opentelemetry-proto's own decoder, with the attributes of log records.

Ids are the flow's: the same in another process, in another batch, and for both directions.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from exporter.batch.batch import FlowBatch, Observer
from exporter.batch.record import records
from exporter.fanout.contract import Message
from exporter.sinks.otlp.encode import Envelope, Limits, encode_logs
from exporter.sinks.otlp.fields import Schema
from exporter.sinks.otlp.spans import encode_spans, span_ids, trace_ids
from exporter.testing import Row, make_batch
from tests.strategies import batches, enriched
from tests.unit.sinks.otlp.test_logs import LIMITS, decode, plain, said

ENVELOPE = Envelope({"service.name": "flow-exporter"})
HOUR = 3600 * 10**9
TCP: dict[str, Any] = {
    "src_addr": "10.0.0.1",
    "dst_addr": "10.0.0.2",
    "src_port": 40_000,
    "dst_port": 443,
}


def request(message: Message) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest.FromString(message.payload)


def spans(message: Message) -> list[Span]:
    (resource,) = request(message).resource_spans
    (scope,) = resource.scope_spans
    return list(scope.spans)


@pytest.mark.parametrize("schema", get_args(Schema))
@given(batch=enriched())
def test_a_span_is_the_flow_of_a_log_record(schema: Schema, batch: FlowBatch) -> None:
    """The same rows in the same messages with the same attributes; nothing is unknown."""
    logs = list(encode_logs(batch, schema, ENVELOPE, LIMITS))
    made = list(encode_spans(batch, schema, ENVELOPE, LIMITS))
    assert len(made) == len(logs)
    for message, beside in zip(made, logs, strict=True):
        rows = list(records(message.rows))
        for span, log, row in zip(spans(message), decode(beside), rows, strict=True):
            assert {one.key: plain(one.value) for one in span.attributes} == said(log)
            assert len(span.attributes) == len(log.attributes)
            assert (len(span.trace_id), len(span.span_id)) == (16, 8)
            assert (span.start_time_unix_nano, span.end_time_unix_nano) == (
                row.time_flow_start_ns, row.time_flow_end_ns,
            )  # fmt: skip
            assert (span.kind, span.parent_span_id) == (Span.SPAN_KIND_INTERNAL, b"")
        decoded = request(message)
        (resource,) = decoded.resource_spans
        assert resource.scope_spans[0].scope.name == "flow-exporter"
        again = decoded.SerializeToString()
        decoded.DiscardUnknownFields()
        assert decoded.SerializeToString() == again


@given(batches())
def test_no_id_is_zero(batch: FlowBatch) -> None:
    """Zeros are no id; the ids of rows do not depend on what is beside them."""
    traces, own = trace_ids(batch), span_ids(batch)
    assert traces.all()
    assert own.all()
    for number in range(len(batch)):
        alone = batch.take(slice(number, number + 1))
        assert trace_ids(alone).tolist() == traces[number : number + 1].tolist()
        assert span_ids(alone).tolist() == own[number : number + 1].tolist()


def test_names() -> None:
    """The protocol, and nothing of which there are many."""
    batch = make_batch(Row(ip_protocol=6), Row(ip_protocol=17), Row(ip_protocol=132))
    (message,) = encode_spans(batch, "otel", ENVELOPE, LIMITS)
    assert [span.name for span in spans(message)] == [
        "network.flow tcp", "network.flow udp", "network.flow sctp",
    ]  # fmt: skip


@pytest.mark.parametrize("six", [False, True])
def test_a_conversation_is_a_trace(six: bool) -> None:
    """Both directions, at any interface and of any drain in an hour; not the next conversation."""
    ends = ("2001:db8::9", "2001:db8::10") if six else ("10.0.0.9", "10.0.0.10")
    there: dict[str, Any] = {
        "src_addr": ends[0],
        "dst_addr": ends[1],
        "src_port": 40_000,
        "dst_port": 443,
    }
    back: dict[str, Any] = {
        "src_addr": ends[1],
        "dst_addr": ends[0],
        "src_port": 443,
        "dst_port": 40_000,
    }
    start = 500_000 * HOUR
    same = make_batch(
        Row(**there, flow_start_ns=start),
        Row(**back, flow_start_ns=start + 5),
        Row(**there, flow_start_ns=start + HOUR - 1, ifindex=9, direction=1, vlan_id=7),
    )
    others = make_batch(
        Row(**there | {"src_port": 40_001}, flow_start_ns=start),
        Row(**there | {"dst_addr": ends[0]}, flow_start_ns=start),
        Row(**there, flow_start_ns=start, ip_protocol=17),
        Row(**there, flow_start_ns=start + HOUR),
        Row(**there | {"src_port": 443, "dst_port": 40_000}, flow_start_ns=start),
    )
    (trace,) = set(map(tuple, trace_ids(same).tolist()))
    assert trace[0] != trace[1]
    assert len(set(map(tuple, [*trace_ids(others).tolist(), trace]))) == 6
    assert len(set(span_ids(same)[:, 0].tolist())) == 3


def test_an_echo_and_its_reply_are_one_trace() -> None:
    """ICMP has types, and no ports that could be of either end."""
    one: dict[str, Any] = {"src_addr": "10.0.0.1", "dst_addr": "10.0.0.2", "ip_protocol": 1}
    other: dict[str, Any] = {"src_addr": "10.0.0.2", "dst_addr": "10.0.0.1", "ip_protocol": 1}
    batch = make_batch(Row(**one, dst_port=8 << 8), Row(**other, dst_port=0))
    first, second = trace_ids(batch).tolist()
    assert first == second


def test_who_reports_is_in_the_span() -> None:
    """Two agents see the same packets at interfaces with the same number: one trace, two spans."""
    batch = make_batch(Row(**TCP), observer=Observer("192.0.2.7", "node-1"))
    other = replace(batch, observer=Observer("192.0.2.8", "node-2"))
    assert trace_ids(batch).tolist() == trace_ids(other).tolist()
    assert span_ids(batch).tolist() != span_ids(other).tolist()


def test_another_process_makes_the_same_ids() -> None:
    """What is sent again after a kill is the same, octet by octet."""
    script = (
        "from tests.unit.sinks.otlp.test_spans import TCP, trace_ids, span_ids, Row, make_batch;"
        "b = make_batch(Row(**TCP)); print(trace_ids(b).tolist(), span_ids(b).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    batch = make_batch(Row(**TCP))
    assert done.stdout.strip() == f"{trace_ids(batch).tolist()} {span_ids(batch).tolist()}"


def test_limits() -> None:
    """Spans are longer than log records: no message is too long for all that."""
    batch = make_batch(*(Row(src_port=n) for n in range(1, 100)))
    messages = list(encode_spans(batch, "otel", ENVELOPE, Limits(1000, 8192)))
    assert len(messages) > 4
    assert max(len(message.payload) for message in messages) <= 8192
    assert sum(len(spans(message)) for message in messages) == 99
