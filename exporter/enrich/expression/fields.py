"""What expressions can name: the columns of a record as JSON calls them, and what is added."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from exporter.batch.attributes import Attribute, Value
from exporter.batch.batch import FlowBatch, Interface, Point
from exporter.batch.protocols import protocol_name
from exporter.enrich.expression.values import Address, Text, Values, constant, numbered

Kind = Literal["address", "number", "text"]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_PROTOCOLS = tuple(protocol_name(number) for number in range(256))
#: Of what has no number: no packet is ICMP's type -1.
_NONE = -1


@dataclass(frozen=True)
class Field:
    """
    Something to name.

    Args:
        kind: Of its values.
        read: Takes them from a batch.
    """

    kind: Kind
    read: Callable[[FlowBatch], Values]


def fields(attributes: Iterable[Attribute]) -> dict[str, Field]:
    """
    By name, what an expression can refer to.

    Args:
        attributes: What enrichment adds. One whose name is no CEL identifier cannot be referred to.
    """
    added = {what.otel: _attribute(what) for what in attributes if _NAME.fullmatch(what.otel)}
    return {**_COLUMNS, **added}


def _column(name: str) -> Field:
    return Field("number", lambda batch: getattr(batch, name).astype(np.int64))


def _address(word: int) -> Field:
    return Field("address", lambda batch: Address(batch.key_words()[:, word : word + 2]))


def _icmp(shift: int) -> Field:
    def read(batch: FlowBatch) -> Values:
        number = batch.dst_port.astype(np.int64) >> shift & 0xFF
        return np.where(batch.is_icmp(), number, _NONE)

    return Field("number", read)


def _destination_port(batch: FlowBatch) -> Values:
    """As in a record: ICMP has none."""
    return np.where(batch.is_icmp(), 0, batch.dst_port.astype(np.int64))


def _interface(of: Callable[[Interface], str]) -> Field:
    """Of the observation point that was counted, the first of its list."""

    def name(batch: FlowBatch, points: tuple[Point, ...]) -> str:
        if not points:
            return ""
        return of(batch.interfaces.get(points[0]) or Interface(str(points[0].ifindex)))

    return Field(
        "text",
        lambda batch: numbered(batch.points, [name(batch, some) for some in batch.point_lists]),
    )


_COLUMNS: Mapping[str, Field] = {
    "source.address": _address(0),
    "destination.address": _address(2),
    "source.port": _column("src_port"),
    "destination.port": Field("number", _destination_port),
    "network.iana_number": _column("ip_protocol"),
    "network.transport": Field("text", lambda batch: numbered(batch.ip_protocol, _PROTOCOLS)),
    "network.type": Field("text", lambda batch: numbered(batch.is_ipv4(), ("ipv6", "ipv4"))),
    "network.vlan.id": _column("vlan_id"),
    "network.inner.vlan.id": _column("inner_vlan_id"),
    "flow.bytes": _column("octet_count_l2"),
    "flow.ip_bytes": _column("octet_count_l3"),
    "flow.packets": _column("packet_count"),
    "flow.direction": Field(
        "text", lambda batch: numbered(batch.flow_direction, ("ingress", "egress"))
    ),
    "flow.dscp": _column("dscp"),
    "flow.tcp_flags": _column("tcp_control_bits"),
    "flow.icmp.type": _icmp(8),
    "flow.icmp.code": _icmp(0),
    "sampling.interval": _column("sampling_interval"),
    "interface.name": _interface(lambda interface: interface.name),
    "interface.netns": _interface(lambda interface: interface.netns),
}


def _attribute(what: Attribute) -> Field:
    if what.number:
        return Field("number", lambda batch: _numbers(batch, what))
    return Field("text", lambda batch: _texts(batch, what))


def _numbers(batch: FlowBatch, what: Attribute) -> Values:
    if what in batch.added:
        most = np.uint64(np.iinfo(np.int64).max)
        return np.minimum(batch.added[what].astype(np.uint64), most).astype(np.int64)
    for some in batch.entities:
        if what in some.values:
            return np.array([_number(value) for value in some.values[what]], np.int64)[some.rows]
    return np.zeros((), np.int64)


def _number(value: Value) -> int:
    return value if isinstance(value, int) else 0


def _texts(batch: FlowBatch, what: Attribute) -> Text:
    if what in batch.added:
        distinct, codes = np.unique(batch.added[what], return_inverse=True)
        return numbered(codes, [text.decode() for text in distinct.tolist()])
    for some in batch.entities:
        if what in some.values:
            return numbered(some.rows, [str(value or "") for value in some.values[what]])
    return constant("")
