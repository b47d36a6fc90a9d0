"""Of a table of many things, those that one batch has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from exporter.batch.attributes import Value

#: Attribute or EndAttribute.
A = TypeVar("A")


def chosen(
    numbers: NDArray[Any], columns: Mapping[A, Sequence[Value]]
) -> tuple[NDArray[np.uint32], dict[A, tuple[Value, ...]]]:
    """
    A table that has only what is used, so that encoders write nothing that no row refers to.

    Args:
        numbers: Integers, shape (n,): which thing each address or row has; 0 is unknown.
        columns: By attribute, one value for each thing, the unknown one first.

    Returns:
        The same for the smaller table, as ``Found`` and ``Entities`` take them.
    """
    size = max(map(len, columns.values()), default=1)
    used = np.zeros(size, np.bool_)
    used[numbers] = True
    used[0] = True
    renumbered = np.cumsum(used, dtype=np.uint32) - np.uint32(1)
    which = np.flatnonzero(used).tolist()
    return renumbered[numbers], {what: _of(column, which) for what, column in columns.items()}


def _of(column: Sequence[Value], which: list[int]) -> tuple[Value, ...]:
    # itemgetter of one place gives that alone, no tuple.
    return itemgetter(*which)(column) if len(which) > 1 else (column[which[0]],)
