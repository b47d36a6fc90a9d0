"""
A batch as octets and back: whole columns, each as narrow as its values allow.

::

    8 octets    length of the description
    JSON        rows, window, observer, interfaces, lists of points, how each column is written,
                what enrichment added
    columns     each begins at a multiple of 8

A column is written as it is, as a narrower integer, or once if all rows have the same value.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from exporter.batch.batch import (
    NO_DETAILS,
    Details,
    FlowBatch,
    Interface,
    Observer,
    Peer,
    Point,
    Totals,
    Window,
)
from exporter.fanout.spool import additions
from exporter.fanout.spool.layout import OWN, Layout, convert

_LENGTH = struct.Struct("<Q")
_ALIGN = 8
_SAME = "same"
_MEMO = "_spool_body"


@dataclass(frozen=True)
class Body:
    """
    A batch, ready to be written: buffers that share the columns' memory where they can.

    Args:
        buffers: One after the other.
        octets: Of all of them.
        crc: CRC-32 of all of them.
        totals: What the rows add up to.
    """

    buffers: tuple[bytes | memoryview, ...]
    octets: int
    crc: int
    totals: Totals


def body_of(batch: FlowBatch) -> Body:
    """Encode a batch; only once, however many sinks spool it."""
    memo = vars(batch)
    # Kept as functools.cached_property would: a batch never changes.
    found: Body | None = memo.get(_MEMO)
    if found is None:
        found = memo[_MEMO] = _encode(batch)
    return found


def decode(body: bytearray, layout: Layout) -> FlowBatch:
    """
    A batch out of its octets, whose checksum is right. Its columns share their memory.

    Raises:
        ValueError: If they are not a batch of the layout.
    """
    try:
        (length,) = _LENGTH.unpack_from(body)
        described = json.loads(bytes(body[_LENGTH.size : _LENGTH.size + length]))
        return _decode(body, _aligned(_LENGTH.size + length), described, layout)
    except (struct.error, KeyError, TypeError, IndexError) as err:
        raise ValueError(f"not a batch: {err!r}") from err


def _encode(batch: FlowBatch) -> Body:
    written: dict[str, str] = {}
    columns: list[bytes | memoryview] = []
    for name, kind in OWN.types.items():
        code, column = _narrow(np.ascontiguousarray(getattr(batch, name), kind.base))
        written[name] = code
        columns += _padded(memoryview(column.data).cast("B") if column.size else b"")
    more: list[dict[str, Any]] = []
    for about, values in additions.columns(batch):
        code, column = _narrow(values)
        more.append({**about, "code": code})
        columns += _padded(memoryview(column.view(np.uint8).data))
    described = {"rows": len(batch), "columns": written, "more": more, **_describe(batch)}
    # The standard library's: names of interfaces may hold what is not UTF-8.
    text = json.dumps(described, separators=(",", ":")).encode()
    buffers = (*_padded(_LENGTH.pack(len(text)) + text), *columns)
    crc = 0
    for buffer in buffers:
        crc = zlib.crc32(buffer, crc)
    return Body(buffers, sum(len(buffer) for buffer in buffers), crc, batch.totals)


def _narrow(column: np.ndarray[Any, Any]) -> tuple[str, np.ndarray[Any, Any]]:
    """How a column is written, and what."""
    if column.dtype.fields is not None or not len(column):
        return "", column.view(np.uint8)
    if column.ndim > 1 or column.dtype.kind != "u":
        if (column == column[0]).all():
            return _SAME, column[:1].copy()
        return "", column
    least, most = int(column.min()), int(column.max())
    if least == most:
        return _SAME, column[:1].copy()
    for kind in ("<u1", "<u2", "<u4"):
        if most < 1 << 8 * np.dtype(kind).itemsize < 1 << 8 * column.dtype.itemsize:
            return kind, column.astype(kind)
    return "", column


def _padded(buffer: bytes | memoryview) -> list[bytes | memoryview]:
    """A buffer and what aligns the next one."""
    return [buffer, bytes(-len(buffer) % _ALIGN)]


def _aligned(at: int) -> int:
    return at + -at % _ALIGN


def _describe(batch: FlowBatch) -> dict[str, Any]:
    lists = batch.point_lists
    return {
        "window": (batch.window.start_ns, batch.window.end_ns),
        "observer": (batch.observer.address, batch.observer.name),
        "interfaces": [(*point, one.name, one.netns) for point, one in _used(batch).items()],
        # In the order of the interfaces; apart from them, for versions that know nothing of it.
        "details": [_known(one.details) for one in _used(batch).values()],
        "lists": [len(points) for points in lists],
        "points": [number for points in lists for point in points for number in point],
    }


def _known(details: Details) -> dict[str, Any]:
    """What is not empty."""
    return {key: value for key, value in dataclasses.asdict(details).items() if value}


def _details(known: dict[str, Any]) -> Details:
    peer = known.pop("peer", None)
    return Details(**known, peer=Peer(**peer) if peer else None) if known or peer else NO_DETAILS


def _used(batch: FlowBatch) -> Mapping[Point, Interface]:
    """Interfaces that a record of the batch can refer to: an agent may know thousands more."""
    if not batch.point_lists:
        return batch.interfaces
    points = {point for points in batch.point_lists for point in points}
    return {point: one for point, one in batch.interfaces.items() if point in points}


def _decode(body: bytearray, at: int, described: Any, layout: Layout) -> FlowBatch:
    rows = int(described["rows"])

    def read(code: str, kind: np.dtype[Any]) -> np.ndarray[Any, Any]:
        nonlocal at
        count = min(rows, 1) if code == _SAME else rows
        stored = np.dtype(code) if code not in ("", _SAME) else kind
        column = np.frombuffer(body, stored, count, at)
        at = _aligned(at + stored.itemsize * count)
        return _widen(column, kind, rows)

    names = described["columns"]
    columns: dict[str, Any] = {n: read(names[n], kind) for n, kind in layout.types.items()}
    columns |= additions.restore(described["more"], read)
    if at != len(body):
        raise ValueError(f"{len(body) - at} octets too many")
    for name, kind in OWN.types.items():
        if name not in columns:
            columns[name] = np.zeros((rows, *kind.shape), kind.base)
        elif kind != layout.types[name]:
            columns[name] = convert(columns[name], kind)
    return FlowBatch(**columns, **_undescribe(described))


def _widen(column: np.ndarray[Any, Any], kind: np.dtype[Any], rows: int) -> np.ndarray[Any, Any]:
    if len(column) < rows:
        return np.repeat(column, rows, axis=0)
    return column if kind.fields is not None else column.astype(kind.base, copy=False)


def _undescribe(described: Any) -> dict[str, Any]:
    interfaces = described["interfaces"]
    numbers = iter(described["points"])
    points = [Point(*point) for point in zip(numbers, numbers, numbers, strict=True)]
    bounds = accumulate(described["lists"], initial=0)
    return {
        "point_lists": tuple(tuple(points[start:end]) for start, end in pairwise(bounds)),
        "interfaces": {
            Point(netns, ifindex, direction): Interface(name, where, _details(known))
            for (netns, ifindex, direction, name, where), known in zip(
                interfaces, described.get("details", [{}] * len(interfaces)), strict=True
            )
        },
        "observer": Observer(*described["observer"]),
        "window": Window(*described["window"]),
    }
