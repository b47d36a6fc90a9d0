"""
What expressions work on: a whole batch's values of one type.

Text is few distinct texts that rows refer to, so that a function of text is called once for each of
them, however many rows there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import U8

#: bool and int64, shape (n,), or a single value for all rows.
Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]
#: Where every combination of two numberings has a place in a table; beyond, they are sorted.
_TABLE = 1 << 18


@dataclass(frozen=True)
class Text:
    """
    Texts of rows.

    Args:
        codes: int64, shape (n,) or (): which text each row has.
        texts: Distinct or not, at least one.
    """

    codes: NDArray[np.int64]
    texts: tuple[str, ...]

    def each(self, function: Callable[[str], Any], dtype: type) -> Any:
        """A function of every row's text, called once for each text; shape (n,)."""
        return np.array([function(text) for text in self.texts], dtype)[self.codes]


@dataclass(frozen=True)
class Address:
    """Addresses of rows: uint64, shape (n, 2), as their 16 octets are in memory."""

    words: U8


Values = Flags | Numbers | Text | Address


def constant(text: str) -> Text:
    """The same text for all rows."""
    return Text(np.zeros((), np.int64), (text,))


def numbered(codes: NDArray[Any], texts: Sequence[str]) -> Text:
    """Texts by number; nothing is known where there are none."""
    return Text(codes.astype(np.int64), tuple(texts)) if texts else constant("")


def pairs(
    one: NDArray[np.int64], other: NDArray[np.int64], size: int, other_size: int
) -> tuple[NDArray[np.int64], list[int], list[int]]:
    """
    Number the combinations of two numberings that occur.

    Args:
        one: int64, shape (n,) or ().
        other: Likewise.
        size: How many numbers ``one`` has.
        other_size: Likewise.

    Returns:
        The number of each row's combination, shape as broadcast; what ``one`` and ``other`` are in
        each combination.
    """
    mixed = np.asarray(one * other_size + other)
    if size * other_size <= _TABLE:
        used = np.zeros(size * other_size, np.bool_)
        used[mixed] = True
        distinct = np.flatnonzero(used)
        codes = (np.cumsum(used) - 1)[mixed]
    else:
        distinct, codes = np.unique(mixed, return_inverse=True)
        codes = codes.reshape(mixed.shape)
    return codes, (distinct // other_size).tolist(), (distinct % other_size).tolist()


def joined(one: Text, other: Text) -> Text:
    """One text after the other."""
    codes, firsts, seconds = pairs(one.codes, other.codes, len(one.texts), len(other.texts))
    both = zip(firsts, seconds, strict=True)
    return Text(codes, tuple(one.texts[a] + other.texts[b] for a, b in both) or ("",))


def chosen(condition: Flags, one: Values, other: Values) -> Values:
    """Of each row the one where a condition holds, else the other; both of one type."""
    if isinstance(one, Text) and isinstance(other, Text):
        codes = np.where(condition, one.codes, other.codes + len(one.texts))
        return Text(codes, one.texts + other.texts)
    if isinstance(one, Address) and isinstance(other, Address):
        return Address(np.where(np.asarray(condition)[..., np.newaxis], one.words, other.words))
    return np.where(condition, one, other)  # type: ignore[arg-type]


def ranks(one: Text, other: Text) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of rows' texts that compare as the texts do."""
    order = {text: rank for rank, text in enumerate(sorted({*one.texts, *other.texts}))}
    return one.each(order.__getitem__, np.int64), other.each(order.__getitem__, np.int64)
