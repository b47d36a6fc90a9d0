"""
Rows of octets whose lengths differ, made of columns without touching a single row.

All rows share one layout of cells, wide enough for the longest; beside it stands a mask of the
cells that a row has. Taking the cells that the mask selects, in order, joins the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import FlowBatch
from exporter.sinks.encodings.protobuf import LENGTH, tag, varint, varints

Cells = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Lengths = NDArray[np.int64]

#: Rows that are made at a time: cells and mask stay in the CPU's cache.
_WINDOW = 1024


class Piece(Protocol):
    """A part of every row."""

    @property
    def template(self) -> bytes:
        """The cells, with what is the same in all rows."""

    def fill(self, batch: FlowBatch, cells: Cells, mask: Mask) -> Lengths | int:
        """
        Write what differs.

        Args:
            batch: n rows.
            cells: Shape (n, len(template)), filled with the template.
            mask: Of the same shape, all true.

        Returns:
            Octets of each row's part, int64, shape (n,); a number if all are equal.
        """


@dataclass(frozen=True)
class Constant:
    """The same octets in every row."""

    template: bytes

    def fill(self, _batch: FlowBatch, _cells: Cells, _mask: Mask) -> int:
        """Nothing differs."""
        return len(self.template)


@dataclass(frozen=True)
class Number:
    """
    A varint after a constant.

    Args:
        before: The constant.
        octets: Of the varint.
        values: Unsigned, shape (n,), below ``1 << 7 * octets``.
        present: Which rows have it at all, bool, shape (n,); ``None`` for all of them.
    """

    before: bytes
    octets: int
    values: Callable[[FlowBatch], NDArray[Any]]
    present: Callable[[FlowBatch], Mask] | None = None

    @property
    def template(self) -> bytes:
        """The constant, then zeros."""
        return self.before + bytes(self.octets)

    def fill(self, batch: FlowBatch, cells: Cells, mask: Mask) -> Lengths | int:
        """Write the varints."""
        values = self.values(batch)
        cells[:, len(self.before) :] = varints(values, self.octets)
        if self.present is None:
            return len(self.template)
        present = self.present(batch)
        if present.all():
            return len(self.template)
        mask[:] = present[:, np.newaxis]
        return present * np.int64(cells.shape[1])


@dataclass(frozen=True)
class Fixed64:
    """A 64-bit integer, least significant octet first, after a constant."""

    before: bytes
    values: Callable[[FlowBatch], NDArray[np.uint64]]

    @property
    def template(self) -> bytes:
        """The constant, then zeros."""
        return self.before + bytes(8)

    def fill(self, batch: FlowBatch, cells: Cells, _mask: Mask) -> int:
        """Write the numbers."""
        values = np.ascontiguousarray(self.values(batch), "<u8")
        cells[:, len(self.before) :] = values.view(np.uint8).reshape(-1, 8)
        return len(self.template)


class Table:
    """
    One of a few octet strings in each row.

    Args:
        entries: The strings, of any length, one at least.
        index: Which one a row has, unsigned, shape (n,).
    """

    def __init__(
        self, entries: Sequence[bytes], index: Callable[[FlowBatch], NDArray[Any]]
    ) -> None:
        longest = max(map(len, entries))
        self.template = bytes(longest)
        self._index = index
        self._lengths = np.array([len(entry) for entry in entries], np.int64)
        padded = b"".join(entry.ljust(longest, b"\0") for entry in entries)
        self._cells = np.frombuffer(padded, np.uint8).reshape(len(entries), longest)
        self._mask = np.arange(longest) < self._lengths[:, np.newaxis]

    def fill(self, batch: FlowBatch, cells: Cells, mask: Mask) -> Lengths:
        """Look the strings up."""
        index = self._index(batch)
        cells[:] = self._cells.take(index, axis=0)
        mask[:] = self._mask.take(index, axis=0)
        return self._lengths.take(index)


class Rows:
    """
    A layout of rows, each a length-delimited field of one protobuf message.

    Args:
        number: Of the field.
        pieces: What a row consists of, in order.
    """

    def __init__(self, number: int, pieces: Sequence[Piece]) -> None:
        body = b"".join(piece.template for piece in pieces)
        prefix = tag(number, LENGTH)
        self._size = len(varint(len(body)))
        template = prefix + bytes(self._size) + body
        self._template = np.frombuffer(template, np.uint8)
        self._length_at = len(prefix)
        at = len(prefix) + self._size
        self._fixed = 0
        self._pieces: list[tuple[int, int, Piece]] = []
        for piece in pieces:
            width = len(piece.template)
            if isinstance(piece, Constant):
                self._fixed += width
            else:
                self._pieces.append((at, at + width, piece))
            at += width

    @property
    def longest(self) -> int:
        """Octets that no row exceeds."""
        return len(self._template)

    def encode(self, batch: FlowBatch) -> bytes:
        """The rows, joined."""
        windows = range(0, len(batch), _WINDOW)
        return b"".join(self._window(batch.take(slice(at, at + _WINDOW))) for at in windows)

    def _window(self, batch: FlowBatch) -> bytes:
        cells = np.empty((len(batch), self.longest), np.uint8)
        cells[:] = self._template
        mask = np.ones(cells.shape, np.bool_)
        lengths = np.full(len(batch), self._fixed, np.int64)
        for start, end, piece in self._pieces:
            lengths += piece.fill(batch, cells[:, start:end], mask[:, start:end])
        cells[:, self._length_at : self._length_at + self._size] = varints(
            lengths.astype(np.uint64), self._size
        )
        return cells[mask].tobytes()
