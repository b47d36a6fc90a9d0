"""
Requests of OTLP: what stands around records, log records, and spans out of ``spans.py``.

Source: opentelemetry-proto: logs/v1/logs.proto, collector/logs/v1/logs_service.proto.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter import __version__
from exporter.batch.batch import FlowBatch
from exporter.fanout.contract import Message
from exporter.sinks.encodings.protobuf import FIXED64, LENGTH, VARINT, field, tag, varint
from exporter.sinks.encodings.ragged import Constant, Fixed64, Piece, Rows
from exporter.sinks.otlp.anyvalue import AnyValue, attribute
from exporter.sinks.otlp.fields import Context, Schema, pieces

EVENT_NAME = "network.flow"
SCOPE = "flow-exporter"

#: SEVERITY_NUMBER_INFO.
_INFO = 9
#: LogRecord.attributes.
_ATTRIBUTES = 6

Attributes = Mapping[str, AnyValue]


@dataclass(frozen=True)
class Kind:
    """
    A kind of records.

    Args:
        layout: What one consists of.
        attributes: Number of the field that an attribute of it is.
    """

    layout: Callable[[Schema, Context], list[Piece]]
    attributes: int


@dataclass(frozen=True)
class Limits:
    """
    Of one message.

    Args:
        flows: Log records in it at most.
        octets: Of it at most; a single record may exceed it.
    """

    flows: int
    octets: int


class Envelope:
    """
    What stands around the records of one request.

    Args:
        resource: Attributes of who reports.
        scope: Name of the instrumentation scope.
    """

    def __init__(self, resource: Attributes, scope: str = SCOPE) -> None:
        attributes = b"".join(attribute(1, key, value) for key, value in resource.items())
        self._resource = field(1, attributes)
        self._scope = field(1, field(1, scope.encode()) + field(2, __version__.encode()))

    @property
    def octets(self) -> int:
        """Octets that it adds, at most."""
        return len(self._resource) + len(self._scope) + 30

    def wrap(self, records: Sequence[bytes]) -> bytes:
        """
        An ``Export...ServiceRequest``.

        Args:
            records: Encoded, fields number 2 of ``ScopeLogs``, ``ScopeSpans`` or ``ScopeMetrics``.
        """
        inner = len(self._scope) + sum(map(len, records))
        scoped = tag(2, LENGTH) + varint(inner)
        outer = len(self._resource) + len(scoped) + inner
        head = tag(1, LENGTH) + varint(outer) + self._resource + scoped + self._scope
        return b"".join((head, *records))


def observed_ns(batch: FlowBatch) -> int:
    """When a batch was drained, Unix ns; at least one row."""
    return batch.window.end_ns or int(batch.flow_end_ns.max())


def encode_logs(
    batch: FlowBatch, schema: Schema, envelope: Envelope, limits: Limits
) -> Iterator[Message]:
    """
    A batch as ``ExportLogsServiceRequest`` messages, one log record per flow.

    Args:
        batch: Enriched or not.
        schema: What attributes are called.
        envelope: Who reports.
        limits: Of each message.

    Yields:
        Messages; every row of the batch is in exactly one. Rows are not in the batch's order.
    """
    return encode_records(Kind(_layout, _ATTRIBUTES), batch, schema, envelope, limits)


def encode_records(
    kind: Kind, batch: FlowBatch, schema: Schema, envelope: Envelope, limits: Limits
) -> Iterator[Message]:
    """As :func:`encode_logs`, of any kind of records."""
    for version, part in _families(batch):
        context = Context(part, version, observed_ns(batch), kind.attributes)
        rows = Rows(2, kind.layout(schema, context))
        room = limits.octets - envelope.octets
        per_message = max(min(limits.flows, room // rows.longest), 1)
        for start in range(0, len(part), per_message):
            window = part.take(slice(start, start + per_message))
            yield Message(envelope.wrap([rows.encode(window)]), window)


def _families(batch: FlowBatch) -> Iterator[tuple[int, FlowBatch]]:
    """Rows of IPv4 and of IPv6, if there are any."""
    is_ipv4 = batch.is_ipv4()
    for version, chosen in ((4, is_ipv4), (6, ~is_ipv4)):
        rows: NDArray[np.int64] = np.flatnonzero(chosen)
        if len(rows):
            yield version, batch if len(rows) == len(batch) else batch.take(rows)


def _layout(schema: Schema, context: Context) -> list[Piece]:
    observed = np.uint64(context.observed_ns).tobytes()
    return [
        Fixed64(tag(1, FIXED64), lambda batch: batch.flow_end_ns),
        Constant(tag(2, VARINT) + varint(_INFO)),
        *pieces(schema, context),
        Constant(tag(11, FIXED64) + observed),
        Constant(field(12, EVENT_NAME.encode())),
    ]
