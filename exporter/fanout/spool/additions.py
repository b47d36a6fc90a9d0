"""
What enrichment added to a batch, as part of its stored form: a description, and columns after the
batch's own.

Only the entities that rows refer to are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.batch.attributes import Attribute, Entities
from exporter.batch.batch import FlowBatch

#: Reads the next stored column: how it is written, and its dtype.
Reader = Callable[[str, np.dtype[Any]], NDArray[Any]]

_FIELDS = ("otel", "meaning", "netobserv", "obi", "ipfix", "number")
_ROWS = np.dtype("<u4")


def used(some: Entities) -> Entities:
    """Without the entities that no row refers to; the unknown one stays."""
    wanted = np.zeros(len(some), np.bool_)
    wanted[some.rows] = True
    wanted[0] = True
    if wanted.all():
        return some
    numbers = np.cumsum(wanted, dtype=np.uint32) - np.uint32(1)
    chosen = np.flatnonzero(wanted).tolist()
    values = {
        what: tuple(values[number] for number in chosen) for what, values in some.values.items()
    }
    return Entities(numbers[some.rows], values)


def columns(batch: FlowBatch) -> Iterator[tuple[dict[str, Any], NDArray[Any]]]:
    """Each column to store, with what describes it but how it is written."""
    for some in map(used, batch.entities):
        described = [(*_fields(what), *values) for what, values in some.values.items()]
        yield {"entities": described}, np.ascontiguousarray(some.rows, _ROWS)
    for what, column in batch.added.items():
        kind = column.dtype.newbyteorder("<")
        yield {"added": _fields(what), "kind": kind.str}, np.ascontiguousarray(column, kind)


def restore(described: list[dict[str, Any]], read: Reader) -> dict[str, Any]:
    """``entities`` and ``added`` of a batch, out of what :func:`columns` gave."""
    entities: list[Entities] = []
    added: dict[Attribute, NDArray[Any]] = {}
    for one in described:
        if "entities" in one:
            entities.append(_entities(one["entities"], read(one["code"], _ROWS)))
        else:
            added[Attribute(*one["added"])] = read(one["code"], np.dtype(one["kind"]))
    return {"entities": tuple(entities), "added": added}


def _entities(described: list[list[Any]], rows: NDArray[Any]) -> Entities:
    count = len(_FIELDS)
    some = Entities(rows, {Attribute(*one[:count]): tuple(one[count:]) for one in described})
    lengths = {len(values) for values in some.values.values()}
    if len(lengths) > 1 or (len(rows) and int(rows.max()) >= len(some)):
        raise ValueError("rows refer to entities that are not there")
    return some


def _fields(what: Attribute) -> tuple[Any, ...]:
    return tuple(getattr(what, name) for name in _FIELDS)
