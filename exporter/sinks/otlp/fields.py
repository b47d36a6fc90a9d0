"""
What a flow's log record says, by schema: keys, and where their values come from.

``otel`` has the names that JSON records have (``batch.schema``), in OpenTelemetry's style; ``obi``
those of OBI's and Beyla's network metrics where they have one, else ``otel``'s; ``netobserv`` the
keys that flowlogs-pipeline writes.

A value that a flow does not have is absent: ports of ICMP, a VLAN of an untagged frame. What
enrichment added is in ``added``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import FlowBatch, FlowEndReason, Interface, Point
from exporter.batch.record import TCP, WITH_PORTS
from exporter.sinks.encodings.jsonl import protocol_name
from exporter.sinks.encodings.protobuf import width
from exporter.sinks.encodings.ragged import (
    Cells,
    Constant,
    Lengths,
    Mask,
    Number,
    Piece,
    Table,
)
from exporter.sinks.encodings.text import (
    IPV4_CELLS,
    IPV6_CELLS,
    MAC_CELLS,
    ipv4_cells,
    ipv6_cells,
    mac_cells,
)
from exporter.sinks.otlp.added import added_pieces
from exporter.sinks.otlp.anyvalue import (
    LARGEST,
    AnyValue,
    attribute,
    before_number,
    before_text,
    lengths_at,
)

Schema = Literal["otel", "obi", "netobserv"]

#: LogRecord.attributes.
_ATTRIBUTES = 6

_DIRECTIONS = ("ingress", "egress")
_ETHERTYPE = {4: 0x0800, 6: 0x86DD}
_MILLISECOND = np.uint64(1_000_000)
_SECOND_NS = 1_000_000_000

#: Octets of varints whose values are bounded: 63, 16, 12 and 8 bits.
_LONG, _SHORT, _BITS, _BYTE = 9, 3, 2, 2

Values = Callable[[FlowBatch], NDArray[Any]]
Present = Callable[[FlowBatch], Mask]


@dataclass(frozen=True)
class Context:
    """
    What the rows that are encoded together have in common.

    Args:
        batch: All of them: bounds, interface lists, observer.
        version: Of IP, 4 or 6.
        observed_ns: When they were drained, Unix ns.
    """

    batch: FlowBatch
    version: int
    observed_ns: int


#: Makes the part of the rows that has an attribute of this key; ``None`` if no row has it.
Source = Callable[[str, Context], Piece | None]


class _Address:
    """An address as text."""

    def __init__(self, key: str, version: int, values: Callable[[FlowBatch], Cells]) -> None:
        self._cells_of = ipv4_cells if version == 4 else ipv6_cells
        self._values = values
        self._before = before_text(_ATTRIBUTES, key, 0)
        self._lengths_at = lengths_at(_ATTRIBUTES, key)
        octets = IPV4_CELLS if version == 4 else IPV6_CELLS
        self.template = self._before + bytes(octets)

    def fill(self, batch: FlowBatch, cells: Cells, mask: Mask) -> Lengths:
        """Write text and lengths."""
        head = len(self._before)
        text, chosen = self._cells_of(self._values(batch))
        cells[:, head:], mask[:, head:] = text, chosen
        lengths: Cells = chosen.sum(axis=1, dtype=np.uint8)
        for at in self._lengths_at:
            cells[:, at] += lengths
        return np.asarray(lengths + np.int64(head))


class _Mac:
    """A MAC address as text, if it is not zero."""

    def __init__(self, key: str, values: Callable[[FlowBatch], Cells], *, always: bool) -> None:
        self._before = before_text(_ATTRIBUTES, key, MAC_CELLS)
        self._values = values
        self._always = always
        self.template = self._before + bytes(MAC_CELLS)

    def fill(self, batch: FlowBatch, cells: Cells, mask: Mask) -> Lengths | int:
        """Write the digits."""
        macs = self._values(batch)
        cells[:, len(self._before) :] = mac_cells(macs)
        if self._always:
            return len(self.template)
        present: Mask = np.asarray(macs.any(axis=1))
        mask[:] = present[:, np.newaxis]
        return present.astype(np.int64) * len(self.template)


def _has_ports(batch: FlowBatch) -> Mask:
    return np.isin(batch.ip_protocol, list(WITH_PORTS))


def _is_tcp(batch: FlowBatch) -> Mask:
    return np.asarray(batch.ip_protocol == TCP)


def _bounded(name: str, octets: int, present: Present | None = None) -> Source:
    """A column of small numbers."""
    return _values(lambda batch: getattr(batch, name), octets, present)


def _values(values: Values, octets: int, present: Present | None = None) -> Source:
    def make(key: str, _context: Context) -> Piece:
        return Number(before_number(_ATTRIBUTES, key, octets), octets, values, present)

    return make


def _count(name: str) -> Source:
    """A column of numbers of any size, as wide as the largest."""

    def values(batch: FlowBatch) -> NDArray[Any]:
        return np.asarray(np.minimum(getattr(batch, name), np.uint64(LARGEST)))

    def make(key: str, context: Context) -> Piece:
        octets = width(values(context.batch))
        return Number(before_number(_ATTRIBUTES, key, octets), octets, values)

    return make


def _time(name: str, unit: np.uint64) -> Source:
    def values(batch: FlowBatch) -> NDArray[Any]:
        return np.asarray(np.minimum(getattr(batch, name) // unit, np.uint64(LARGEST)))

    return _values(values, _LONG)


def _nonzero(name: str) -> Source:
    return _bounded(name, _SHORT, lambda batch: getattr(batch, name) != 0)


def _address(name: str) -> Source:
    return lambda key, context: _Address(key, context.version, lambda batch: getattr(batch, name))


def _mac(name: str, *, always: bool = False) -> Source:
    return lambda key, _context: _Mac(key, lambda batch: getattr(batch, name), always=always)


def _words(name: str, values: Sequence[AnyValue | None]) -> Source:
    """A column of small numbers as what they stand for; absent where that is ``None``."""

    def make(key: str, _context: Context) -> Piece:
        entries = [b"" if value is None else attribute(_ATTRIBUTES, key, value) for value in values]
        return Table(entries, lambda batch: getattr(batch, name))

    return make


def _constant(value: Callable[[Context], AnyValue]) -> Source:
    """The same in all rows; absent if it is empty."""

    def make(key: str, context: Context) -> Piece | None:
        found = value(context)
        return Constant(attribute(_ATTRIBUTES, key, found)) if found != "" else None

    return make


def _listed(value: Callable[[Sequence[Point], FlowBatch], AnyValue | None]) -> Source:
    """Something of the observation points that saw a flow; absent without any."""

    def make(key: str, context: Context) -> Piece | None:
        batch = context.batch
        if not batch.point_lists:
            return None
        found = [value(points, batch) if points else None for points in batch.point_lists]
        entries = [b"" if one is None else attribute(_ATTRIBUTES, key, one) for one in found]
        return Table(entries, lambda some: some.points) if any(entries) else None

    return make


def _interface(point: Point, batch: FlowBatch) -> Interface:
    return batch.interfaces.get(point) or Interface(str(point.ifindex))


def _names(points: Sequence[Point], batch: FlowBatch) -> list[str]:
    return [_interface(point, batch).name for point in points]


def _namespaces(points: Sequence[Point], batch: FlowBatch) -> list[str] | None:
    found = [_interface(point, batch).netns for point in points]
    return found if any(found) else None


def _netobserv_flags(batch: FlowBatch) -> NDArray[Any]:
    return batch.tcp_control_bits & 0xFF | batch.tcp_flag_sets.astype(np.uint16) << 8


_PROTOCOLS = [protocol_name(number) for number in range(256)]
_REASONS = [FlowEndReason(n).text if n in set(FlowEndReason) else None for n in range(256)]

_SRC_PORT = _bounded("src_port", _SHORT, _has_ports)
_DST_PORT = _bounded("dst_port", _SHORT, _has_ports)
_ICMP_TYPE = _values(lambda batch: batch.dst_port >> 8, _BYTE, FlowBatch.is_icmp)
_ICMP_CODE = _values(lambda batch: batch.dst_port & 0xFF, _BYTE, FlowBatch.is_icmp)
_TCP_FLAGS = _bounded("tcp_control_bits", _SHORT, _is_tcp)
_VERSION = _constant(lambda context: f"ipv{context.version}")
_NAMES = _listed(_names)

#: What only we have a name for, whatever the schema.
_OWN: tuple[tuple[str, Source], ...] = (
    ("time.start", _time("flow_start_ns", np.uint64(1))),
    ("time.end", _time("flow_end_ns", np.uint64(1))),
    ("network.iana_number", _bounded("ip_protocol", _BYTE)),
    ("network.vlan.id", _nonzero("vlan_id")),
    ("network.inner.vlan.id", _nonzero("inner_vlan_id")),
    ("flow.bytes", _count("octet_count_l2")),
    ("flow.ip_bytes", _count("octet_count_l3")),
    ("flow.packets", _count("packet_count")),
    ("flow.dscp", _bounded("dscp", _BYTE)),
    ("flow.tcp_flags", _TCP_FLAGS),
    ("flow.icmp.type", _ICMP_TYPE),
    ("flow.icmp.code", _ICMP_CODE),
    ("flow.end_reason", _words("flow_end_reason", _REASONS)),
    ("flow.duplicate", _words("duplicate", (None, True))),
    ("sampling.interval", _count("sampling_interval")),
    ("flow.interfaces.name", _NAMES),
    ("flow.interfaces.index", _listed(lambda points, _: [p.ifindex for p in points])),
    (
        "flow.interfaces.direction",
        _listed(lambda points, _: [_DIRECTIONS[p.direction] for p in points]),
    ),
    ("flow.interfaces.netns", _listed(_namespaces)),
)

SCHEMAS: dict[Schema, tuple[tuple[str, Source], ...]] = {
    "otel": (
        ("source.address", _address("src_addr")),
        ("source.port", _SRC_PORT),
        ("source.mac", _mac("src_mac")),
        ("destination.address", _address("dst_addr")),
        ("destination.port", _DST_PORT),
        ("destination.mac", _mac("dst_mac")),
        ("network.type", _VERSION),
        ("network.transport", _words("ip_protocol", _PROTOCOLS)),
        ("network.interface.name", _listed(lambda points, batch: _names(points, batch)[0])),
        ("flow.direction", _words("flow_direction", _DIRECTIONS)),
        *_OWN,
    ),
    "obi": (
        ("obi.ip", _constant(lambda context: context.batch.observer.address)),
        ("src.address", _address("src_addr")),
        ("src.port", _SRC_PORT),
        ("source.mac", _mac("src_mac")),
        ("dst.address", _address("dst_addr")),
        ("dst.port", _DST_PORT),
        ("destination.mac", _mac("dst_mac")),
        ("network.type", _VERSION),
        ("transport", _words("ip_protocol", [name.upper() for name in _PROTOCOLS])),
        ("iface", _listed(lambda points, batch: _names(points, batch)[0])),
        ("iface.direction", _words("flow_direction", _DIRECTIONS)),
        *_OWN,
    ),
    "netobserv": (
        ("SrcMac", _mac("src_mac", always=True)),
        ("DstMac", _mac("dst_mac", always=True)),
        ("Etype", _constant(lambda context: _ETHERTYPE[context.version])),
        ("TimeFlowStartMs", _time("flow_start_ns", _MILLISECOND)),
        ("TimeFlowEndMs", _time("flow_end_ns", _MILLISECOND)),
        ("TimeReceived", _constant(lambda context: context.observed_ns // _SECOND_NS)),
        ("AgentIP", _constant(lambda context: context.batch.observer.address)),
        ("IfDirections", _listed(lambda points, _: [point.direction for point in points])),
        ("Interfaces", _NAMES),
        ("Udns", _listed(lambda points, _: [""] * len(points))),
        ("Bytes", _count("octet_count_l2")),
        ("Packets", _count("packet_count")),
        ("Sampling", _count("sampling_interval")),
        ("SrcAddr", _address("src_addr")),
        ("DstAddr", _address("dst_addr")),
        ("Proto", _bounded("ip_protocol", _BYTE)),
        ("Dscp", _bounded("dscp", _BYTE)),
        ("SrcPort", _SRC_PORT),
        ("DstPort", _DST_PORT),
        ("Flags", _values(_netobserv_flags, _BITS, _is_tcp)),
        ("IcmpType", _ICMP_TYPE),
        ("IcmpCode", _ICMP_CODE),
    ),
}


def pieces(schema: Schema, context: Context) -> list[Piece]:
    """The attributes of a log record."""
    made: list[Any] = [source(key, context) for key, source in SCHEMAS[schema]]
    return [*(piece for piece in made if piece is not None), *added_pieces(schema, context.batch)]
