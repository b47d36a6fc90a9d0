"""
A single flow record as a value, for people and for tests.

The stages work on columns; what prints or compares single records makes them here.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from exporter.batch.attributes import Attribute, Value, known
from exporter.batch.batch import IPV4_PREFIX, NO_DETAILS, Details, FlowBatch, Interface, Point

TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
WITH_PORTS = frozenset({TCP, UDP, SCTP})
WITH_ICMP = frozenset({ICMP, ICMPV6})


class PointName(NamedTuple):
    """An observation point with its interface's name; ``netns`` is empty for the agent's own."""

    name: str
    ifindex: int
    direction: int
    netns: str
    details: Details = NO_DETAILS


@dataclass(frozen=True, slots=True)
class FlowRecord:
    """
    One flow record. ``batch.schema`` says what each column means.

    ``interface`` is the counted observation point's; ``points`` are all that saw the flow.
    ``metadata`` is what enrichment added, as far as it is known.
    """

    time_flow_start_ns: int
    time_flow_end_ns: int
    source: str
    destination: str
    source_port: int
    destination_port: int
    ip_protocol: int
    ip_version: int
    vlan_id: int
    inner_vlan_id: int
    source_mac: str
    destination_mac: str
    packets: int
    octets_l2: int
    octets_l3: int
    tcp_control_bits: int
    tcp_flag_sets: int
    dscp: int
    end_reason: int
    sampling_interval: int
    direction: int
    duplicate: bool
    points: tuple[PointName, ...]
    agent_ip: str
    agent_name: str
    metadata: Mapping[Attribute, Value] = field(default_factory=dict)

    @property
    def interface(self) -> str:
        """Name of the counted observation point's interface; empty if there is none."""
        return self.points[0].name if self.points else ""

    @property
    def icmp(self) -> tuple[int, int] | None:
        """Type and code, if it is ICMP or ICMPv6."""
        if self.ip_protocol not in WITH_ICMP:
            return None
        return divmod(self.destination_port, 256)


@functools.lru_cache(maxsize=1 << 16)
def address_text(packed: bytes) -> str:
    """The address of 16 octets as text; ::ffff/96 as IPv4."""
    if packed.startswith(IPV4_PREFIX):
        return str(ipaddress.IPv4Address(packed[12:]))
    return str(ipaddress.IPv6Address(packed))


def records(batch: FlowBatch) -> Iterator[FlowRecord]:
    """Every row of a batch as a value, in order."""
    named = [point_names(points, batch) for points in batch.point_lists]
    columns: list[Any] = [
        batch.flow_start_ns.tolist(),
        batch.flow_end_ns.tolist(),
        [address_text(packed) for packed in _octets(batch.src_addr)],
        [address_text(packed) for packed in _octets(batch.dst_addr)],
        batch.src_port.tolist(),
        batch.dst_port.tolist(),
        batch.ip_protocol.tolist(),
        [4 if ipv4 else 6 for ipv4 in batch.is_ipv4().tolist()],
        batch.vlan_id.tolist(),
        batch.inner_vlan_id.tolist(),
        [packed.hex(":") for packed in _octets(batch.src_mac)],
        [packed.hex(":") for packed in _octets(batch.dst_mac)],
        batch.packet_count.tolist(),
        batch.octet_count_l2.tolist(),
        batch.octet_count_l3.tolist(),
        batch.tcp_control_bits.tolist(),
        batch.tcp_flag_sets.tolist(),
        batch.dscp.tolist(),
        batch.flow_end_reason.tolist(),
        batch.sampling_interval.tolist(),
        batch.flow_direction.tolist(),
        batch.duplicate.tolist(),
        [named[number] if named else () for number in batch.points.tolist()],
    ]
    observer = batch.observer
    metadata = _metadata(batch)
    for number, row in enumerate(zip(*columns, strict=True)):
        values: tuple[Any, ...] = (*row, observer.address, observer.name, metadata[number])
        yield FlowRecord(*values)


def point_names(points: tuple[Point, ...], batch: FlowBatch) -> tuple[PointName, ...]:
    """A list of observation points with the names that enrichment found; else the index."""
    return tuple(_name(point, batch) for point in points)


def _metadata(batch: FlowBatch) -> list[dict[Attribute, Value]]:
    """What enrichment added to each row."""
    rows: list[dict[Attribute, Value]] = [{} for _ in range(len(batch))]
    for some in batch.entities:
        each = list(some.each())
        for row, number in zip(rows, some.rows.tolist(), strict=True):
            row.update(each[number])
    for attribute, column in batch.added.items():
        is_text = column.dtype.kind == "S"
        for number in np.flatnonzero(known(column)).tolist():
            value = column[number]
            rows[number][attribute] = value.decode() if is_text else int(value)
    return rows


def _octets(rows: Any) -> list[bytes]:
    width = rows.shape[1]
    joined = rows.tobytes()
    return [joined[at : at + width] for at in range(0, len(joined), width)]


def _name(point: Point, batch: FlowBatch) -> PointName:
    interface = batch.interfaces.get(point) or Interface(str(point.ifindex))
    return PointName(
        interface.name, point.ifindex, point.direction, interface.netns, interface.details
    )
