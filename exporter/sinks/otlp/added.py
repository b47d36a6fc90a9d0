"""
What enrichment added, as attributes of log records: one for each value that is known.

An entity's are written once, however many rows have it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.batch.attributes import Attribute, Column, Entities
from exporter.batch.batch import FlowBatch
from exporter.sinks.encodings.additions import Values, entity_texts, joined
from exporter.sinks.encodings.protobuf import width
from exporter.sinks.encodings.ragged import Cells, Lengths, Mask, Number, Piece, Table
from exporter.sinks.otlp.anyvalue import (
    LARGEST,
    attributes,
    before_number,
    before_text,
    lengths_at,
)

#: LogRecord.attributes.
_ATTRIBUTES = 6
#: Octets of key and text up to which all lengths are one octet.
_SHORT = 110


def added_pieces(schema: str, batch: FlowBatch) -> list[Piece]:
    """
    The attributes of all rows.

    Args:
        schema: What they are called.
        batch: Whose rows will be asked for, some at a time; not empty.
    """
    pieces: list[Piece] = [
        _entities(schema, number, some) for number, some in enumerate(batch.entities) if some.values
    ]
    return pieces + [_column(schema, what, column) for what, column in batch.added.items()]


def _entities(schema: str, number: int, some: Entities) -> Piece:
    def write(values: Values) -> list[bytes]:
        return joined(
            values,
            lambda what, column: attributes(_ATTRIBUTES, what.called(schema), column),
        )

    texts, where = entity_texts(some, some.values, f"otlp {schema}", write)
    return Table(texts, lambda batch: where[batch.entities[number].rows])


def _column(schema: str, what: Attribute, column: Column) -> Piece:
    key = what.called(schema)

    def values(batch: FlowBatch) -> NDArray[Any]:
        return batch.added[what]

    if column.dtype.kind != "S":

        def bounded(batch: FlowBatch) -> NDArray[Any]:
            return np.minimum(values(batch).astype(np.uint64), np.uint64(LARGEST))

        octets = width(np.minimum(column.astype(np.uint64), np.uint64(LARGEST)))
        return Number(before_number(_ATTRIBUTES, key, octets), octets, bounded)
    if len(key.encode()) + column.dtype.itemsize <= _SHORT:
        return _Text(key, column.dtype.itemsize, values)
    # Too long for lengths of one octet: each different text is written once.
    texts = np.unique(column)
    entries = attributes(_ATTRIBUTES, key, [text.decode() for text in texts.tolist()])
    return Table(entries, lambda batch: np.searchsorted(texts, values(batch)))


class _Text:
    """
    Short text that may differ in each row, if it is known.

    Args:
        key: Of the attribute.
        octets: Of the longest.
        values: ``S`` of that width.
    """

    def __init__(self, key: str, octets: int, values: Callable[[FlowBatch], Column]) -> None:
        self._values = values
        self._before = before_text(_ATTRIBUTES, key, 0)
        self._lengths_at = lengths_at(_ATTRIBUTES, key)
        self.template = self._before + bytes(octets)

    def fill(self, batch: FlowBatch, cells: Cells, mask: Mask) -> Lengths:
        """Write text and lengths."""
        head = len(self._before)
        column = np.ascontiguousarray(self._values(batch))
        text = column.view(np.uint8).reshape(-1, column.dtype.itemsize)
        cells[:, head:], mask[:, head:] = text, text != 0
        lengths: Cells = np.asarray(mask[:, head:].sum(axis=1, dtype=np.uint8))
        for at in self._lengths_at:
            cells[:, at] += lengths
        there = lengths > 0
        mask[:, :head] = there[:, np.newaxis]
        return np.asarray((lengths + np.int64(head)) * there)
