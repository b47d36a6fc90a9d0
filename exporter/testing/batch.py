"""Batches from rows that are written as people write them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from exporter.abi.layout import FLOW_KEY
from exporter.batch.batch import IPV4_PREFIX, FlowBatch, Interface, Observer, Point, Window

_DTYPES = {
    "flow_start_ns": np.uint64,
    "flow_end_ns": np.uint64,
    "packet_count": np.uint64,
    "octet_count_l2": np.uint64,
    "octet_count_l3": np.uint64,
    "sampling_interval": np.uint32,
    "tcp_control_bits": np.uint16,
    "tcp_flag_sets": np.uint8,
    "dscp": np.uint8,
    "flow_end_reason": np.uint8,
    "duplicate": np.bool_,
}
_ADDRESSES, _MACS = ("src_addr", "dst_addr"), ("src_mac", "dst_mac")


@dataclass(frozen=True)
class Row:
    """
    One flow record. ``exporter.batch.schema`` says what each value means.

    Args:
        src_addr, dst_addr: IPv4 or IPv6, as text.
        src_mac, dst_mac: As text, ``02:00:00:00:00:01``.
        points: The observation points that saw the flow, the counted one first. ``None`` for a
            record that was not deduplicated yet.
    """

    src_addr: str = "192.0.2.1"
    dst_addr: str = "198.51.100.2"
    src_port: int = 40000
    dst_port: int = 443
    ip_protocol: int = 6
    ifindex: int = 2
    netns: int = 0
    direction: int = 0
    vlan_id: int = 0
    inner_vlan_id: int = 0
    flow_start_ns: int = 1_700_000_000_000_000_000
    flow_end_ns: int = 1_700_000_001_000_000_000
    packet_count: int = 10
    octet_count_l2: int = 1540
    octet_count_l3: int = 1400
    sampling_interval: int = 1
    tcp_control_bits: int = 0x10
    tcp_flag_sets: int = 0
    dscp: int = 0
    src_mac: str = "02:00:00:00:00:01"
    dst_mac: str = "02:00:00:00:00:02"
    flow_end_reason: int = 0
    duplicate: bool = False
    points: tuple[Point, ...] | None = None


def make_batch(
    *rows: Row,
    window: Window | None = None,
    interfaces: Mapping[Point, Interface] | None = None,
    observer: Observer | None = None,
) -> FlowBatch:
    """
    A batch of n rows, in the order given.

    Args:
        rows: None is fine: an empty batch. Either all have ``points`` or none has.
        window: Unix ns.
        interfaces: What enrichment would have found.
        observer: Likewise.

    Returns:
        Columns of shape (n,) with the dtypes of ``exporter.batch.batch.FlowBatch``; MACs uint8 of
        shape (n, 6). They share no memory with anything.

    Raises:
        ValueError: If an address or a MAC is not one, or only some rows have points.
        OverflowError: If a number does not fit its column.
    """
    values = {field.name: [getattr(row, field.name) for row in rows] for field in fields(Row)}
    key = np.zeros(len(rows), FLOW_KEY)
    for name in FLOW_KEY.names or ():
        # Through an array of the field's type: storing into a field would wrap what does not fit.
        key[name] = (
            _octets(values[name], 16)
            if name in _ADDRESSES
            else np.array(values[name], FLOW_KEY[name])
        )
    columns: dict[str, Any] = {name: np.array(values[name], _DTYPES[name]) for name in _DTYPES}
    columns |= {name: _octets(values[name], 6) for name in _MACS}
    numbers, lists = _number_points(values["points"])
    return FlowBatch(
        key=key,
        **columns,
        points=numbers,
        point_lists=lists,
        interfaces=dict(interfaces or {}),
        observer=observer or Observer(),
        window=window or Window(),
    )


def pack_address(text: str) -> bytes:
    """The 16 octets of an address in a flow key; IPv4 as ::ffff/96. Raises ValueError."""
    address = ipaddress.ip_address(text)
    return IPV4_PREFIX + address.packed if address.version == 4 else address.packed


def _pack_mac(text: str) -> bytes:
    packed = bytes.fromhex(text.replace(":", ""))
    if len(packed) != 6:
        raise ValueError(f"{text!r} is not a MAC address")
    return packed


def _octets(texts: list[str], width: int) -> Any:
    pack = pack_address if width == 16 else _pack_mac
    joined = b"".join(pack(text) for text in texts)
    return np.frombuffer(joined, np.uint8).reshape(len(texts), width).copy()


def _number_points(
    points: list[tuple[Point, ...] | None],
) -> tuple[Any, tuple[tuple[Point, ...], ...]]:
    given = [some for some in points if some is not None]
    if not given:
        return np.zeros(len(points), np.uint32), ()
    if len(given) < len(points):
        raise ValueError("either all rows have points or none has")
    lists = tuple(dict.fromkeys(given))
    return np.array([lists.index(some) for some in given], np.uint32), lists
