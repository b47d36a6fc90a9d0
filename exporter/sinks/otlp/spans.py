"""
Flows as spans: one for each flow record, with the attributes of its log record.

Trace and span ids are hashes of the flow, so that a message that is sent again, also by another
process, has the same ids:

- a trace is a conversation within an hour: both ends with their ports in either order, the protocol
  and the hour in which a flow began. All agents that see it, in either direction, agree;
- a span is one record of it: the whole key, the moment of its first packet, and who reports.

A span is ``INTERNAL``: who of the two ends is client or server is not known from packets.

Source: opentelemetry-proto: trace/v1/trace.proto, collector/trace/v1/trace_service.proto.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import FlowBatch
from exporter.batch.protocols import protocol_name
from exporter.batch.record import WITH_PORTS
from exporter.fanout.contract import Message
from exporter.sinks.encodings.protobuf import FIXED64, VARINT, field, tag, varint
from exporter.sinks.encodings.ragged import Cells, Constant, Fixed64, Mask, Piece, Table
from exporter.sinks.otlp.encode import EVENT_NAME, Envelope, Kind, Limits, encode_records
from exporter.sinks.otlp.fields import Context, Schema, pieces

Words = NDArray[np.uint64]

#: Span.attributes.
_ATTRIBUTES = 9
#: SPAN_KIND_INTERNAL.
_INTERNAL = 1
_HOUR = np.uint64(3600 * 10**9)
#: Odd multipliers of MurmurHash3's and SplitMix64's finalizers: any would do, but always the same.
_FACTORS = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
_SEEDS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFT = np.uint64(33)
#: Names by protocol number: few, as names of spans should be.
_NAMES = [field(5, f"{EVENT_NAME} {protocol_name(n)}".encode()) for n in range(256)]


def encode_spans(
    batch: FlowBatch, schema: Schema, envelope: Envelope, limits: Limits
) -> Iterator[Message]:
    """As ``encode_logs``: ``ExportTraceServiceRequest`` messages, one span per flow."""
    return encode_records(Kind(_layout, _ATTRIBUTES), batch, schema, envelope, limits)


def trace_ids(batch: FlowBatch) -> Words:
    """uint64, shape (n, 2)."""
    keys = batch.key_words()
    source, destination = keys[:, 0:2], keys[:, 2:4]
    has_ports = np.isin(batch.ip_protocol, list(WITH_PORTS))
    ports = [np.where(has_ports, p, 0).astype(np.uint64) for p in (batch.src_port, batch.dst_port)]
    first = (source[:, 0], source[:, 1], ports[0])
    second = (destination[:, 0], destination[:, 1], ports[1])
    is_later = _is_greater(first, second)
    ends = [
        word
        for one, other in zip(first, second, strict=True)
        for word in (np.where(is_later, other, one), np.where(is_later, one, other))
    ]
    words = [*ends, batch.ip_protocol.astype(np.uint64), batch.flow_start_ns // _HOUR]
    return np.stack([_hashed(words, seed) for seed in _SEEDS[:2]], axis=1)


def span_ids(batch: FlowBatch) -> Words:
    """uint64, shape (n, 1)."""
    reporter = zlib.crc32(f"{batch.observer.name} {batch.observer.address}".encode())
    words = [*batch.key_words().T, batch.flow_start_ns]
    return _hashed(words, _SEEDS[2] ^ reporter)[:, np.newaxis]


def _is_greater(first: tuple[Words, ...], second: tuple[Words, ...]) -> Mask:
    """Whether the words of one end come after those of the other, word by word."""
    greater = np.zeros(len(first[0]), np.bool_)
    for one, other in zip(reversed(first), reversed(second), strict=True):
        greater = (one > other) | ((one == other) & greater)
    return greater


def _hashed(words: list[Words], seed: int) -> Words:
    """One 64-bit hash per row, never 0, which is no id."""
    result = np.full(len(words[0]), np.uint64(seed))
    for word in words:
        result ^= word
        for factor in _FACTORS:
            result ^= result >> _SHIFT
            result *= factor
        result ^= result >> _SHIFT
    return np.maximum(result, np.uint64(1))


@dataclass(frozen=True)
class _Id:
    """
    A number as octets, most significant first.

    Args:
        number: Of the field.
        width: Octets.
        values: uint64, shape (n, width // 8).
    """

    number: int
    width: int
    values: Callable[[FlowBatch], Words]

    @property
    def template(self) -> bytes:
        """Zeros after the field's head."""
        return field(self.number, bytes(self.width))

    def fill(self, batch: FlowBatch, cells: Cells, _mask: Mask) -> int:
        """Write the numbers."""
        octets = np.ascontiguousarray(self.values(batch), ">u8").view(np.uint8)
        cells[:, -self.width :] = octets.reshape(-1, self.width)
        return len(self.template)


def _layout(schema: Schema, context: Context) -> list[Piece]:
    return [
        _Id(1, 16, trace_ids),
        _Id(2, 8, span_ids),
        Table(_NAMES, lambda batch: batch.ip_protocol),
        Constant(tag(6, VARINT) + varint(_INTERNAL)),
        Fixed64(tag(7, FIXED64), lambda batch: batch.flow_start_ns),
        Fixed64(tag(8, FIXED64), lambda batch: batch.flow_end_ns),
        *pieces(schema, context),
    ]
