"""
Flow records as Arrow record batches, column by column, from the one column table.

Needs ``pyarrow``, the extra ``parquet``; imported when the first batch is made.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import FlowBatch
from exporter.batch.record import PointName, point_names
from exporter.batch.schema import COLUMNS, Column
from exporter.sinks.encodings import cells

_INTEGERS = {"u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64", "bool": "bool_"}


class ArrowColumns:
    """
    Makes record batches of one schema: the columns of the table by name, then ``interfaces``,
    ``agent_address`` and ``agent_name``.

    Args:
        addresses: ``text``, or ``binary``: 16 octets with IPv4 as ::ffff/96, and 6 of a MAC.

    Raises:
        ImportError: Without pyarrow.
    """

    def __init__(self, addresses: Literal["text", "binary"]) -> None:
        import pyarrow as pa

        self._pa = pa
        self._as_text = addresses == "text"
        point = [("name", pa.string()), ("index", pa.uint32()), ("direction", pa.string()),
                 ("netns", pa.string())]  # fmt: skip
        self._points = pa.list_(pa.struct(point))
        self.schema = pa.schema(
            [self._field(column) for column in COLUMNS]
            + [
                pa.field("interfaces", self._points, nullable=False),
                pa.field("agent_address", pa.string(), nullable=False),
                pa.field("agent_name", pa.string(), nullable=False),
            ]
        )

    def record_batch(self, batch: FlowBatch) -> Any:
        """
        All rows, in order.

        Returns:
            A ``pyarrow.RecordBatch`` of ``schema``; shares memory with the batch where it can.
        """
        arrays = [self._column(column, batch) for column in COLUMNS]
        arrays += [
            self._point_lists(batch),
            self._repeated(batch.observer.address, len(batch)),
            self._repeated(batch.observer.name, len(batch)),
        ]
        return self._pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _field(self, column: Column) -> Any:
        pa = self._pa
        if column.unit.startswith("ns, Unix"):
            kind = pa.timestamp("ns", "UTC")
        elif column.dtype in _INTEGERS:
            kind = getattr(pa, _INTEGERS[column.dtype])()
        else:
            octets = int(column.dtype.split(" x ")[0])
            kind = pa.string() if self._as_text else pa.binary(octets)
        about = {"meaning": column.meaning, "unit": column.unit, "ipfix": str(column.ipfix or "")}
        return pa.field(column.name, kind, nullable=False, metadata=about)

    def _column(self, column: Column, batch: FlowBatch) -> Any:
        pa = self._pa
        values = np.ascontiguousarray(getattr(batch, column.name))
        if values.ndim > 1 and self._as_text:
            octets = values.shape[1]
            return self._text(
                cells.macs(values) if octets == 6 else cells.addresses(values, batch.is_ipv4())
            )
        if column.dtype == "bool":
            return pa.array(values)
        kind = self.schema.field(column.name).type
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])

    def _text(self, column: cells.Cells) -> Any:
        offsets = np.zeros(len(column) + 1, np.int32)
        np.cumsum(_lengths(column), out=offsets[1:])
        buffers = [self._pa.py_buffer(part) for part in (offsets, cells.compact(column))]
        return self._pa.StringArray.from_buffers(len(column), *buffers)

    def _point_lists(self, batch: FlowBatch) -> Any:
        # Lists are few, rows are many.
        lists = [[_point(one) for one in point_names(p, batch)] for p in batch.point_lists] or [[]]
        return self._pa.array(lists, self._points).take(self._pa.array(batch.points))

    def _repeated(self, text: str, rows: int) -> Any:
        return self._pa.repeat(self._pa.scalar(text), rows)


def _point(point: PointName) -> dict[str, Any]:
    return {
        "name": point.name,
        "index": point.ifindex,
        "direction": ("ingress", "egress")[point.direction],
        "netns": point.netns,
    }


def _lengths(column: cells.Cells) -> NDArray[np.int64]:
    """Octets that are not empty in each cell."""
    if column.all():
        return np.full(len(column), column.shape[1])
    return np.asarray(np.count_nonzero(column, axis=1))
