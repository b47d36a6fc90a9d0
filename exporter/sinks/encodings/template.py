"""
Lines of text from columns: a template with holes, filled for many rows at once.

A line is a fixed number of octets, with NULs where a value is shorter than its hole or an optional
part is absent; they are taken out at the end. So no row is looked at by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import FlowBatch
from exporter.sinks.encodings.cells import Cells, compact, constant

Mask = NDArray[np.bool_]
#: Text with holes ``<name>``, and optional text: (name of its mask, text with holes).
Part = str | tuple[str, str]
Holes = Mapping[str, Callable[[FlowBatch], Cells]]
Masks = Mapping[str, Callable[[FlowBatch], Mask]]

#: Rows at a time: lines of 600 octets stay in the CPU's second-level cache.
_ROWS = 1024
_HOLE = re.compile(r"<(\w+)>")


class Template:
    """
    What every line looks like.

    Args:
        parts: In order.
    """

    def __init__(self, *parts: Part) -> None:
        #: Each: (name of a mask, empty for none; a constant, or the name of a hole).
        self._pieces: list[tuple[str, bytes | str]] = []
        for part in parts:
            mask, text = ("", part) if isinstance(part, str) else part
            for number, piece in enumerate(_HOLE.split(text)):
                if piece:
                    self._pieces.append((mask, piece if number % 2 else piece.encode()))

    def fill(self, batch: FlowBatch, holes: Holes, masks: Masks) -> Iterator[bytes]:
        """
        The lines of all rows, some at a time, in order.

        Args:
            batch: n rows.
            holes: Cells of each hole, for some of the rows; shape (1, width) for all alike.
            masks: Where each optional part is present, for some of the rows.
        """
        for start in range(0, len(batch), _ROWS):
            yield self._fill(batch.take(slice(start, start + _ROWS)), holes, masks)

    def _fill(self, rows: FlowBatch, holes: Holes, masks: Masks) -> bytes:
        wanted = {name for name, _ in self._pieces if name}
        where = {name: masks[name](rows) for name in wanted}
        pieces = [
            (
                where.get(mask),
                constant(piece) if isinstance(piece, bytes) else holes[piece](rows),
            )
            for mask, piece in self._pieces
            if not mask or where[mask].any()
        ]
        pieces = [(mask, cells) for mask, cells in pieces if cells.shape[1]]
        lines = np.zeros(len(rows), _dtype([cells.shape[1] for _, cells in pieces]))
        for number, (mask, cells) in enumerate(pieces):
            target = lines[f"f{number}"]
            items = np.ascontiguousarray(cells).view(target.dtype).reshape(-1)
            if mask is None or mask.all():
                target[...] = items
            else:
                target[mask] = items if len(items) == 1 else items[mask]
        return compact(lines.view(np.uint8))


def _dtype(widths: list[int]) -> np.dtype[Any]:
    return np.dtype([(f"f{number}", f"V{width}") for number, width in enumerate(widths)])
