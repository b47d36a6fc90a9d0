"""
Sums of flows as OTLP metrics: octets and packets by chosen attributes.

Source: opentelemetry-proto, metrics/v1/metrics.proto;
https://opentelemetry.io/docs/specs/otel/metrics/data-model (temporality, resets).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from exporter.batch.attributes import Attribute
from exporter.batch.batch import FlowBatch
from exporter.fanout.contract import Message
from exporter.sinks.encodings.jsonl import protocol_name
from exporter.sinks.encodings.named import attribute_named
from exporter.sinks.encodings.protobuf import VARINT, field, tag, varint
from exporter.sinks.encodings.series import I8, Reading, Series, Value
from exporter.sinks.otlp.anyvalue import LARGEST, AnyValue, attribute
from exporter.sinks.otlp.config import FlowMetricsConfig
from exporter.sinks.otlp.encode import Envelope, Limits, observed_ns
from exporter.sinks.otlp.fields import Schema

#: What the overflow series has instead of attributes.
_OVERFLOW = attribute(7, "otel.metric.overflow", value=True)

#: NumberDataPoint: start_time_unix_nano = 2, time_unix_nano = 3, as_int = 6, each of eight octets.
_POINT = struct.Struct("<cQcQcQ")
_START, _TIME, _AS_INT = b"\x11", b"\x19", b"\x31"

#: Octets of a data point beside its attributes, tag and length too.
_POINT_OCTETS = _POINT.size + 6
#: Octets of the metrics' own fields, at most.
_METRIC_OCTETS = 400

_TEMPORALITY = {"delta": 1, "cumulative": 2}


@dataclass(frozen=True)
class Instrument:
    """A metric: which of a reading's sums, and what it is called."""

    sums: str
    name: str
    unit: str
    description: str


def _instruments(octets: tuple[str, str], packets: tuple[str, str]) -> tuple[Instrument, ...]:
    return (
        Instrument("octets_l2", *octets, "Octets of frames, as the interface saw them."),
        Instrument("packets", *packets, "Packets on the wire."),
    )


INSTRUMENTS: dict[Schema, tuple[Instrument, ...]] = {
    "otel": _instruments(("network.flow.bytes", "By"), ("network.flow.packets", "{packet}")),
    # The units are annotations there: Prometheus names get no suffix of them.
    "obi": _instruments(
        ("obi.network.flow.bytes", "{bytes}"), ("obi.network.flow.packets", "{packets}")
    ),
    "netobserv": _instruments(
        ("netobserv.flow.bytes", "By"), ("netobserv.flow.packets", "{packet}")
    ),
}
SCOPES: dict[Schema, str] = {
    "otel": "flow-exporter",
    "obi": "network_ebpf_events",
    "netobserv": "flow-exporter",
}

Shown = tuple[str, Callable[[Value], AnyValue]]


def _as_is(value: Value) -> AnyValue:
    return value


def _direction(value: Value) -> AnyValue:
    return ("ingress", "egress")[int(value)]


#: Attribute of a series -> its key, and what its value becomes.
_OTEL: dict[str, Shown] = {
    "src_addr": ("source.address", _as_is),
    "dst_addr": ("destination.address", _as_is),
    "src_port": ("source.port", _as_is),
    "dst_port": ("destination.port", _as_is),
    "src_mac": ("source.mac", _as_is),
    "dst_mac": ("destination.mac", _as_is),
    "ip_protocol": ("network.transport", lambda value: protocol_name(int(value))),
    "ip_version": ("network.type", lambda value: f"ipv{value}"),
    "interface": ("network.interface.name", _as_is),
    "flow_direction": ("flow.direction", _direction),
    "vlan_id": ("network.vlan.id", _as_is),
    "inner_vlan_id": ("network.inner.vlan.id", _as_is),
    "dscp": ("flow.dscp", _as_is),
}
KEYS: dict[Schema, dict[str, Shown]] = {
    "otel": _OTEL,
    "obi": _OTEL
    | {
        "src_addr": ("src.address", _as_is),
        "dst_addr": ("dst.address", _as_is),
        "src_port": ("src.port", _as_is),
        "dst_port": ("dst.port", _as_is),
        "ip_protocol": ("transport", lambda value: protocol_name(int(value)).upper()),
        "interface": ("iface", _as_is),
        "flow_direction": ("iface.direction", _direction),
    },
    "netobserv": _OTEL
    | {
        "src_addr": ("SrcAddr", _as_is),
        "dst_addr": ("DstAddr", _as_is),
        "src_port": ("SrcPort", _as_is),
        "dst_port": ("DstPort", _as_is),
        "src_mac": ("SrcMac", _as_is),
        "dst_mac": ("DstMac", _as_is),
        "ip_protocol": ("Proto", _as_is),
        "ip_version": ("Etype", lambda value: 0x0800 if value == 4 else 0x86DD),
        "interface": ("Interfaces", _as_is),
        "flow_direction": ("IfDirections", _as_is),
        "dscp": ("Dscp", _as_is),
    },
}


@dataclass(frozen=True)
class Points(Message):
    """
    Series of one request, and the flows that this drain added to them.

    Args:
        reading: The series.
        slots: Of each row, int64, shape (n,).
        time_ns: When it was read, Unix ns.
        envelope: Who reports.
    """

    reading: Reading
    slots: I8
    time_ns: int
    envelope: Envelope

    @property
    def count(self) -> int:
        """Data points."""
        return 2 * len(self.reading)


class MetricsEncoder:
    """
    Sums the flows of each batch, and writes what the sums are then.

    Cumulative sums are kept here; a delta is one batch's own, so that the same batch gives the same
    message again.

    Args:
        config: What is summed.
        schema: What attributes are called.
        limits: Of each message.
        added: What enrichment adds.
    """

    def __init__(
        self,
        config: FlowMetricsConfig,
        schema: Schema,
        limits: Limits,
        added: Sequence[Attribute] = (),
    ) -> None:
        self._config = config
        self._schema: Schema = schema
        self._limits = limits
        self._series = self._empty()
        self._known: dict[tuple[Value, ...], bytes] = {}
        shown = KEYS[schema]
        self._shown: list[Shown] = [
            shown[name] if name in shown else (attribute_named(name, added).called(schema), _as_is)
            for name in config.attributes
        ]

    def encode(self, batch: FlowBatch, envelope: Envelope) -> Iterator[Points]:
        """
        A batch as ``ExportMetricsServiceRequest`` messages.

        Yields:
            Messages; every row is in exactly one, that of its series. One that has only series that
            this batch did not add to has no rows.
        """
        if not len(batch):
            return
        start_ns = batch.window.start_ns or int(batch.flow_start_ns.min())
        if self._config.temporality == "delta":
            series = self._empty()
        else:
            series = self._series
            series.expire()
        slots = series.add(batch, start_ns)
        points = Points(b"", batch, series.read(), slots, observed_ns(batch), envelope)
        yield from self._cut(points)

    def split(self, points: Points) -> Iterator[Points]:
        """The same in two messages; none if there is only one series."""
        half = (len(points.reading) + 1) // 2
        if half == len(points.reading):
            return
        yield from self._parts(points, [0, half])

    def _empty(self) -> Series:
        config = self._config
        return Series(config.attributes, config.limit, config.idle)

    def _cut(self, points: Points) -> Iterator[Points]:
        """Within the limit of octets."""
        sizes = [2 * (len(self._attributes(v)) + _POINT_OCTETS) for v in points.reading.values]
        room = self._limits.octets - points.envelope.octets - _METRIC_OCTETS
        starts, used = [0], 0
        for number, size in enumerate(sizes):
            if used and used + size > room:
                starts.append(number)
                used = 0
            used += size
        yield from self._parts(points, starts)

    def _parts(self, points: Points, starts: list[int]) -> Iterator[Points]:
        ends = [*starts[1:], len(points.reading)]
        for start, end in zip(starts, ends, strict=True):
            reading = _some(points.reading, slice(start, end))
            rows, slots = points.rows, points.slots
            if len(starts) > 1:
                chosen = np.isin(slots, reading.slots)
                if not start:
                    # Duplicates are summed nowhere, and must be somewhere.
                    chosen |= slots < 0
                rows, slots = rows.take(chosen), slots[chosen]
            payload = self._request(reading, points.time_ns, points.envelope)
            yield Points(payload, rows, reading, slots, points.time_ns, points.envelope)

    def _request(self, reading: Reading, time_ns: int, envelope: Envelope) -> bytes:
        attributes = [self._attributes(values) for values in reading.values]
        starts = reading.start_ns.tolist()
        metrics = []
        for instrument in INSTRUMENTS[self._schema]:
            sums = np.minimum(getattr(reading, instrument.sums), np.uint64(LARGEST)).tolist()
            points = b"".join(
                field(1, said + _POINT.pack(_START, start, _TIME, max(time_ns, start), _AS_INT, n))
                for said, start, n in zip(attributes, starts, sums, strict=True)
            )
            temporality = tag(2, VARINT) + varint(_TEMPORALITY[self._config.temporality])
            monotonic = tag(3, VARINT) + varint(1)
            metrics.append(
                field(
                    2,
                    field(1, instrument.name.encode())
                    + field(2, instrument.description.encode())
                    + field(3, instrument.unit.encode())
                    + field(7, points + temporality + monotonic),
                )
            )
        return envelope.wrap(metrics)

    def _attributes(self, values: tuple[Value, ...]) -> bytes:
        """A series' attributes; the series that has none of its attributes is overflow."""
        if not values and self._shown:
            return _OVERFLOW
        known = self._known.get(values)
        if known is None:
            if len(self._known) > 2 * self._config.limit:
                self._known.clear()
            known = b"".join(
                attribute(7, key, shown(value))
                for (key, shown), value in zip(self._shown, values, strict=True)
                # What is not known is absent.
                if value != ""
            )
            self._known[values] = known
        return known


def _some(reading: Reading, chosen: slice) -> Reading:
    return Reading(
        reading.values[chosen],
        reading.sums[chosen],
        reading.start_ns[chosen],
        reading.slots[chosen],
        overflow=reading.overflow,
    )
