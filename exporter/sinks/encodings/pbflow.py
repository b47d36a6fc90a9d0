"""
``pbflow.Records`` and single ``pbflow.Record`` from columns, without touching a single row.

Rows of one shape (address family, ICMP or not, length of the interface list) have equal layouts:
every varint is written at a fixed width, with continuation bits up to its last octet, which
protobuf allows. So a shape is a structured array whose constant octets are filled once and whose
fields are columns.

Source: https://protobuf.dev/programming-guides/encoding; proto/flow.proto.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import FlowBatch, Interface, Point, mac_numbers
from exporter.fanout.contract import Message
from exporter.sinks.encodings.protobuf import (
    FIXED32,
    LENGTH,
    VARINT,
    field,
    tag,
    varint,
    varints,
    width,
)

U8 = NDArray[np.uint64]

_ETHERTYPE = {4: 0x0800, 6: 0x86DD}
_SECOND = np.uint64(1_000_000_000)

#: Widths in octets of varints whose values are bounded.
_SECONDS, _NANOS, _MAC, _PORT, _BYTE, _FLAGS = 5, 5, 7, 3, 2, 2


@dataclass(frozen=True)
class _Shape:
    """
    What rows that are encoded together have in common. ``tail`` is octets of the interface list.
    """

    version: int
    icmp: bool
    tail: int


class _Layout:
    """
    Collects the parts of a record in order: constants, and holes that columns fill.

    A hole is (name, octets).
    """

    def __init__(self) -> None:
        self.parts: list[bytes | tuple[str, int]] = []

    @property
    def octets(self) -> int:
        return sum(len(p) if isinstance(p, bytes) else p[1] for p in self.parts)

    def constant(self, octets: bytes) -> None:
        self.parts.append(octets)

    def varint(self, number: int, name: str, width: int) -> None:
        self.parts += [tag(number, VARINT), (name, width)]

    def raw(self, name: str, octets: int) -> None:
        self.parts.append((name, octets))

    def message(self, number: int, inner: _Layout) -> None:
        self.constant(tag(number, LENGTH) + varint(inner.octets))
        self.parts += inner.parts

    def template(self) -> NDArray[Any]:
        """One row: a structured array, shape (1,), constants filled in."""
        fields = [
            (f"_{i}", "u1", (len(p),)) if isinstance(p, bytes) else (p[0], "u1", (p[1],))
            for i, p in enumerate(self.parts)
        ]
        row = np.zeros(1, np.dtype(fields))
        for i, part in enumerate(self.parts):
            if isinstance(part, bytes):
                row[f"_{i}"] = np.frombuffer(part, np.uint8)
        return row


def encode(batch: FlowBatch, max_flows: int, max_octets: int) -> Iterator[Message]:
    """
    A batch as ``pbflow.Records`` messages.

    Args:
        batch: Enriched or not.
        max_flows: Records in a message at most.
        max_octets: Octets in a message at most; a single record may exceed it.

    Yields:
        Messages; every row of the batch is in exactly one. Rows are not in the batch's order.
    """
    for part, encoder in parts(batch, framed=True):
        per_message = max(min(max_flows, max_octets // encoder.octets), 1)
        for start in range(0, len(part), per_message):
            window = part.take(slice(start, start + per_message))
            yield Message(encoder.encode(window), window)


def parts(batch: FlowBatch, *, framed: bool) -> Iterator[tuple[FlowBatch, Encoder]]:
    """
    A batch in parts whose records are equally long.

    Args:
        batch: Enriched or not.
        framed: Records are entries of ``pbflow.Records``, so that those of several parts may be
            joined; else each is a ``pbflow.Record`` on its own.

    Yields:
        Some rows, and what encodes any of them; every row of the batch is in exactly one part.
    """
    if not len(batch):
        return
    tails = [_interface_list(points, batch.interfaces) for points in batch.point_lists]
    for shape, rows in _shapes(batch, tails):
        part = batch if len(rows) == len(batch) else batch.take(rows)
        yield part, Encoder(part, shape, tails, framed=framed)


def _interface_list(points: tuple[Point, ...], names: Mapping[Point, Interface]) -> bytes:
    """Record.dup_list of a list of observation points."""
    return b"".join(field(26, _entry(point, names)) for point in points)


def _entry(point: Point, names: Mapping[Point, Interface]) -> bytes:
    name = names[point].name if point in names else str(point.ifindex)
    direction = tag(2, VARINT) + varint(point.direction) if point.direction else b""
    return field(1, name.encode()) + direction


def _shapes(batch: FlowBatch, tails: list[bytes]) -> Iterator[tuple[_Shape, NDArray[np.int64]]]:
    lengths = np.array([len(tail) for tail in tails] or [0], np.int64)
    tail = lengths[batch.points] if tails else np.zeros(len(batch), np.int64)
    code = tail << 2 | batch.is_ipv4() << 1 | batch.is_icmp()
    for value in np.unique(code).tolist():
        shape = _Shape(4 if value & 2 else 6, bool(value & 1), value >> 2)
        yield shape, np.flatnonzero(code == value)


class Encoder:
    """
    Encodes rows of one shape, a message at a time: what is in memory is one message, and it stays
    in the CPU's cache. Made by :func:`parts`.
    """

    def __init__(
        self, batch: FlowBatch, shape: _Shape, tails: list[bytes], *, framed: bool
    ) -> None:
        widths = {
            "octets": width(batch.octet_count_l2),
            "packets": width(batch.packet_count),
            "sampling": width(batch.sampling_interval),
        }
        layout = _layout(shape, widths, batch.observer.address)
        if framed:
            record, layout = layout, _Layout()
            layout.message(1, record)
        self._shape = shape
        self._template = layout.template()
        self._tails = _table(tails, shape.tail)

    @property
    def octets(self) -> int:
        """Of one record, its frame included."""
        return self._template.itemsize

    def encode(self, batch: FlowBatch) -> bytes:
        """Some of the rows, as they go over the wire: n records of equal length."""
        rows = np.repeat(self._template, len(batch))
        for name, values in _columns(batch, self._shape).items():
            target = rows[name]
            target[...] = varints(values, target.shape[1])
        _write_addresses(rows, batch, self._shape)
        if self._shape.tail:
            rows["tail"] = self._tails[batch.points]
        return rows.tobytes()


def _table(tails: list[bytes], length: int) -> NDArray[np.uint8]:
    """Interface lists of one length as rows; those of other lengths are left zero."""
    table = np.zeros((len(tails), length), np.uint8)
    for number, tail in enumerate(tails):
        if len(tail) == length:
            table[number] = np.frombuffer(tail, np.uint8)
    return table


def _layout(shape: _Shape, widths: Mapping[str, int], agent: str) -> _Layout:
    record = _Layout()
    record.constant(tag(1, VARINT) + varint(_ETHERTYPE[shape.version]))
    record.varint(2, "direction", 1)
    for number, name in ((3, "start"), (4, "end")):
        timestamp = _Layout()
        timestamp.varint(1, f"{name}_s", _SECONDS)
        timestamp.varint(2, f"{name}_ns", _NANOS)
        record.message(number, timestamp)
    link = _Layout()
    link.varint(1, "src_mac", _MAC)
    link.varint(2, "dst_mac", _MAC)
    record.message(5, link)
    network = _Layout()
    network.message(1, _address("src_addr", shape.version))
    network.message(2, _address("dst_addr", shape.version))
    network.varint(3, "dscp", 1)
    record.message(6, network)
    transport = _Layout()
    transport.varint(1, "src_port", _PORT)
    transport.varint(2, "dst_port", _PORT)
    transport.varint(3, "protocol", _BYTE)
    record.message(7, transport)
    record.varint(8, "octets", widths["octets"])
    record.varint(9, "packets", widths["packets"])
    record.varint(11, "duplicate", 1)
    if agent:
        record.constant(field(12, _agent(agent)))
    record.varint(13, "flags", _FLAGS)
    if shape.icmp:
        record.varint(14, "icmp_type", _BYTE)
        record.varint(15, "icmp_code", _BYTE)
    record.varint(29, "sampling", widths["sampling"])
    if shape.tail:
        record.raw("tail", shape.tail)
    return record


def _address(name: str, version: int) -> _Layout:
    address = _Layout()
    if version == 4:
        address.constant(tag(1, FIXED32))
        address.raw(name, 4)
    else:
        address.constant(tag(2, LENGTH) + varint(16))
        address.raw(name, 16)
    return address


def _agent(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    if address.version == 4:
        return tag(1, FIXED32) + address.packed[::-1]
    return field(2, address.packed)


def _columns(batch: FlowBatch, shape: _Shape) -> dict[str, NDArray[Any]]:
    """Values of the varint holes."""
    start, end = batch.flow_start_ns, batch.flow_end_ns
    start_s, end_s = start // _SECOND, end // _SECOND
    columns: dict[str, NDArray[Any]] = {
        "direction": batch.flow_direction,
        "start_s": start_s,
        "start_ns": start - start_s * _SECOND,
        "end_s": end_s,
        "end_ns": end - end_s * _SECOND,
        "src_mac": mac_numbers(batch.src_mac),
        "dst_mac": mac_numbers(batch.dst_mac),
        "dscp": batch.dscp,
        "protocol": batch.ip_protocol,
        "octets": batch.octet_count_l2,
        "packets": batch.packet_count,
        "duplicate": batch.duplicate,
        "flags": batch.tcp_control_bits & 0xFF | batch.tcp_flag_sets.astype(np.uint16) << 8,
        "sampling": batch.sampling_interval,
    }
    if shape.icmp:
        columns["icmp_type"] = batch.dst_port >> 8
        columns["icmp_code"] = batch.dst_port & 0xFF
        columns["src_port"] = columns["dst_port"] = np.zeros(len(batch), np.uint16)
    else:
        columns["src_port"], columns["dst_port"] = batch.src_port, batch.dst_port
    return columns


def _write_addresses(rows: NDArray[Any], batch: FlowBatch, shape: _Shape) -> None:
    for name, address in (("src_addr", batch.src_addr), ("dst_addr", batch.dst_addr)):
        rows[name] = address if shape.version == 6 else address[:, :11:-1]
