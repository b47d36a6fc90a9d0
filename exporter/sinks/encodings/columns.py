"""The holes and masks that the templates of lines have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from exporter.batch.batch import FlowBatch, FlowEndReason
from exporter.batch.protocols import protocol_name
from exporter.batch.record import PointName, point_names
from exporter.sinks.encodings import cells
from exporter.sinks.encodings.cells import Cells
from exporter.sinks.encodings.template import Holes, Mask, Masks

_MILLISECOND = np.uint64(1_000_000)


def has_ports(batch: FlowBatch) -> Mask:
    """TCP, UDP and SCTP."""
    protocol = batch.ip_protocol
    return np.asarray((protocol == 6) | (protocol == 17) | (protocol == 132))


#: Optional parts: where they are present.
MASKS: Masks = {
    "ports": has_ports,
    "tcp": lambda b: np.asarray(b.ip_protocol == 6),
    "icmp": FlowBatch.is_icmp,
    "source_mac": lambda b: np.asarray(b.src_mac.any(axis=1)),
    "destination_mac": lambda b: np.asarray(b.dst_mac.any(axis=1)),
    "vlan": lambda b: b.vlan_id != 0,
    "inner_vlan": lambda b: b.inner_vlan_id != 0,
    "ended": lambda b: b.flow_end_reason != 0,
    "duplicate": lambda b: b.duplicate,
}


@functools.cache
def _transports() -> Cells:
    return cells.table([protocol_name(number).encode() for number in range(256)])


@functools.cache
def _end_reasons() -> Cells:
    return cells.table([b"", *(reason.text.encode() for reason in FlowEndReason)])


_VERSIONS = cells.table([b"6", b"4"])
_ETHERTYPES = cells.table([b"34525", b"2048"])
DIRECTIONS = ("ingress", "egress")
_DIRECTIONS = cells.table([name.encode() for name in DIRECTIONS])


def same(text: bytes) -> Callable[[FlowBatch], Cells]:
    """A hole that has the same text in every row."""
    cell = cells.constant(text)
    return lambda _: cell


def point_lists(
    batch: FlowBatch, as_text: Callable[[tuple[PointName, ...]], bytes]
) -> Callable[[FlowBatch], Cells]:
    """
    A hole for the rows' lists of observation points.

    Args:
        batch: Whose rows will be asked for, some at a time.
        as_text: A list as text.
    """
    if not batch.point_lists:
        return same(as_text(()))
    # Lists are few, rows are many: each is written once.
    lists = cells.table([as_text(point_names(points, batch)) for points in batch.point_lists])
    return lambda b: cells.look_up(lists, b.points)


#: What can be filled in of any batch.
HOLES: Holes = {
    "start": lambda b: cells.times(b.flow_start_ns),
    "end": lambda b: cells.times(b.flow_end_ns),
    "start_ms": lambda b: cells.decimals(b.flow_start_ns // _MILLISECOND),
    "end_ms": lambda b: cells.decimals(b.flow_end_ns // _MILLISECOND),
    "source": lambda b: cells.addresses(b.src_addr, b.is_ipv4()),
    "destination": lambda b: cells.addresses(b.dst_addr, b.is_ipv4()),
    "source_port": lambda b: cells.decimals(b.src_port),
    "destination_port": lambda b: cells.decimals(b.dst_port),
    "source_mac": lambda b: cells.macs(b.src_mac),
    "destination_mac": lambda b: cells.macs(b.dst_mac),
    "version": lambda b: cells.look_up(_VERSIONS, b.is_ipv4().view(np.uint8)),
    "ethertype": lambda b: cells.look_up(_ETHERTYPES, b.is_ipv4().view(np.uint8)),
    "transport": lambda b: cells.look_up(_transports(), b.ip_protocol),
    "protocol": lambda b: cells.decimals(b.ip_protocol),
    "vlan": lambda b: cells.decimals(b.vlan_id),
    "inner_vlan": lambda b: cells.decimals(b.inner_vlan_id),
    "octets": lambda b: cells.decimals(b.octet_count_l2),
    "ip_octets": lambda b: cells.decimals(b.octet_count_l3),
    "packets": lambda b: cells.decimals(b.packet_count),
    "direction": lambda b: cells.look_up(_DIRECTIONS, b.flow_direction),
    "dscp": lambda b: cells.decimals(b.dscp),
    "control_bits": lambda b: cells.decimals(b.tcp_control_bits),
    "flags": lambda b: cells.decimals(
        b.tcp_control_bits & 0xFF | b.tcp_flag_sets.astype(np.uint16) << 8
    ),
    "icmp_type": lambda b: cells.decimals(b.dst_port >> 8),
    "icmp_code": lambda b: cells.decimals(b.dst_port & 0xFF),
    "end_reason": lambda b: cells.look_up(_end_reasons(), b.flow_end_reason),
    "sampling": lambda b: cells.decimals(b.sampling_interval),
}
