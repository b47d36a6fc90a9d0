"""
Flow records as Arrow record batches, column by column, from the one column table; then what
enrichment added.

Needs ``pyarrow``, the extra ``parquet``; imported when the first batch is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exporter.batch.attributes import Attribute, Value, known
from exporter.batch.batch import FlowBatch
from exporter.batch.record import PointName, point_names
from exporter.batch.schema import COLUMNS, Column
from exporter.sinks.encodings import cells

#: The end of a stream: a continuation marker, and no octets of a message.
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_INTEGERS = {"u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64", "bool": "bool_"}


class ArrowColumns:
    """
    Makes record batches of one schema: the columns of the table by name, then ``interfaces``,
    ``agent_address`` and ``agent_name``, then what enrichment adds.

    Args:
        addresses: ``text``, or ``binary``: 16 octets with IPv4 as ::ffff/96, and 6 of a MAC.
        added: What enrichment adds: nullable columns, texts with a dictionary, integers uint64.

    Raises:
        ImportError: Without pyarrow.
    """

    def __init__(
        self, addresses: Literal["text", "binary"], added: Sequence[Attribute] = ()
    ) -> None:
        import pyarrow as pa
        import pyarrow.compute

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
        self.added = tuple(dict.fromkeys(added))
        for what in self.added:
            self.schema = self.schema.append(self._added_field(what))
        #: What every stream begins with.
        self.header: bytes = self.schema.serialize().to_pybytes()

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
        arrays += [self._added(what, batch) for what in self.added]
        return self._pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def messages(self, batch: FlowBatch) -> bytes:
        """All rows as the messages of an IPC stream: dictionaries, then one record batch."""
        pa = self._pa
        target = pa.BufferOutputStream()
        with pa.ipc.new_stream(target, self.schema) as stream:
            stream.write_batch(self.record_batch(batch))
        octets: bytes = target.getvalue().to_pybytes()
        assert octets.startswith(self.header)
        assert octets.endswith(_END)
        return octets[len(self.header) : -len(_END)]

    def _added_field(self, what: Attribute) -> Any:
        pa = self._pa
        kind = pa.uint64() if what.number else pa.dictionary(pa.int32(), pa.string())
        name = what.name
        # A label may be called as something else already is.
        while name in self.schema.names:
            name += "_"
        about = {"meaning": what.meaning, "otel": what.otel, "ipfix": str(what.ipfix or "")}
        return pa.field(name, kind, metadata=about)

    def _added(self, what: Attribute, batch: FlowBatch) -> Any:
        if what in batch.added:
            return self._added_column(batch.added[what], what)
        for some in batch.entities:
            if what in some.values:
                used, place = some.used()
                values = [some.values[what][number] for number in used.tolist()]
                return self._looked_up(values, place[some.rows], what)
        return self._looked_up([None], np.zeros(len(batch), np.uint32), what)

    def _looked_up(self, values: list[Value], rows: NDArray[np.uint32], what: Attribute) -> Any:
        """Values by their numbers, null where they are not known; each text once."""
        pa = self._pa
        if what.number:
            fits = [v if isinstance(v, int) and 0 <= v < 1 << 64 else None for v in values]
            return pa.array(fits, pa.uint64()).take(pa.array(rows))
        texts: dict[str, int] = {}
        numbers = np.array(
            [-1 if v in (None, "") else texts.setdefault(str(v), len(texts)) for v in values],
            np.int32,
        )[rows]
        indices = pa.array(numbers, mask=numbers < 0)
        return pa.DictionaryArray.from_arrays(indices, pa.array(texts, pa.string()))

    def _added_column(self, column: Any, what: Attribute) -> Any:
        pa = self._pa
        if what.number:
            return pa.array(column.astype(np.uint64))
        octets = np.ascontiguousarray(column).view(np.uint8).reshape(-1, column.dtype.itemsize)
        plain = self._text(octets)
        return pa.compute.if_else(pa.array(known(column)), plain, None).dictionary_encode()

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
