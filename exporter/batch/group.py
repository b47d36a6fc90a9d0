"""
Find equal rows in a whole batch.

Rows are compared as 64-bit words: hashed, sorted by hash, and those with equal hashes then compared
word by word, so that a hash collision costs time and never exactness.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_SHIFT = np.uint64(32)
#: Rows that are compared at a time.
_BLOCK = 16_384


def _odd() -> np.uint64:
    return np.uint64(secrets.randbits(64) | 1)


#: New in every process: who can choose packets cannot choose collisions.
SEED, OTHER_SEED = _odd(), _odd()
_FIRST, _SECOND = _odd(), _odd()


def hash_words(words: Words, seed: np.uint64 = SEED) -> NDArray[np.uint64]:
    """
    One 64-bit hash per row.

    Args:
        words: uint64, shape (n, k).
        seed: Another seed gives another, independent hash.

    Returns:
        uint64, shape (n,).
    """
    result = np.full(len(words), seed, np.uint64)
    for column in range(words.shape[1]):
        result ^= words[:, column]
        result *= _FIRST
        result ^= result >> _SHIFT
    result *= _SECOND
    result ^= result >> _SHIFT
    return result


@dataclass(frozen=True)
class Groups:
    """
    Rows with equal words, brought together.

    Args:
        order: int64, shape (n,): row numbers, equal rows adjacent.
        starts: int64, shape (g,): where in ``order`` each group begins.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    def sizes(self) -> NDArray[np.int64]:
        """Rows in each group, int64, shape (g,)."""
        return np.diff(self.starts, append=len(self.order))

    def labels(self) -> NDArray[np.int64]:
        """Group number of each place in ``order``, int64, shape (n,)."""
        return labels(self.starts, len(self.order))


def labels(starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """
    Number the runs that begin at ``starts``.

    Args:
        starts: int64, shape (g,), ascending, the first is 0.
        length: Of all runs together.

    Returns:
        int64, shape (length,): 0 for the first run, 1 for the second, ...
    """
    marks = np.zeros(length, np.int64)
    marks[starts[1:]] = 1
    return np.cumsum(marks)


def group_rows(words: Words, hashes: NDArray[np.uint64] | None = None) -> Groups:
    """
    Group equal rows.

    Args:
        words: uint64, shape (n, k).
        hashes: ``hash_words(words)``, if the caller has them.

    Returns:
        The groups; every row is in exactly one.
    """
    if not len(words):
        return Groups(np.empty(0, np.int64), np.empty(0, np.int64))
    if hashes is None:
        hashes = hash_words(words)
    order = np.argsort(hashes)
    ordered = hashes[order]
    changes = ordered[1:] != ordered[:-1]
    if not _all_equal(words, order, np.flatnonzero(~changes)):
        # Two different rows with one hash may be interleaved: sort by the words themselves.
        order = np.lexsort(words.T)
        changes = np.any(words[order[1:]] != words[order[:-1]], axis=1)
    return Groups(order, np.flatnonzero(np.concatenate(([True], changes))))


def _all_equal(words: Words, order: NDArray[np.int64], places: NDArray[np.int64]) -> bool:
    """Whether the row at each of some places equals the one after it."""
    # In blocks: a copy of all rows in their new order would be the largest array of a drain.
    for start in range(0, len(places), _BLOCK):
        some = places[start : start + _BLOCK]
        one, next_ = order.take(some), order.take(some + 1)
        if not np.array_equal(words.take(one, axis=0), words.take(next_, axis=0)):
            return False
    return True


def equal_rows(words: Words, rows: NDArray[Any], others: Words) -> NDArray[np.bool_]:
    """
    Which of some rows are equal to others.

    Args:
        words: uint64, shape (n, k), k at least 1.
        rows: Row numbers, shape (m,).
        others: uint64, shape (m, k).

    Returns:
        bool, shape (m,).
    """
    # A reduction over few columns takes ten times as long as the columns one by one.
    differ = words.take(rows, axis=0)
    differ ^= others
    result = differ[:, 0]
    for column in range(1, differ.shape[1]):
        result |= differ[:, column]
    return np.asarray(result == 0)


def _are(words: Words, rows: NDArray[np.int64], others: Words) -> bool:
    """Whether all of some rows are equal to others."""
    for start in range(0, len(rows), _BLOCK):
        some = slice(start, start + _BLOCK)
        if not np.array_equal(words.take(rows[some], axis=0), others[some]):
            return False
    return True


def places(
    ascending: NDArray[Any], wanted: NDArray[Any], side: Literal["left", "right"] = "left"
) -> NDArray[np.int64]:
    """
    ``np.searchsorted``, which goes through memory in order where numbers are sought in order.

    Args:
        ascending: Numbers, shape (k,).
        wanted: Numbers, shape (n,), in any order.
        side: As NumPy's.

    Returns:
        int64, shape (n,).
    """
    order = np.argsort(wanted)
    found = np.empty(len(wanted), np.int64)
    found[order] = np.searchsorted(ascending, wanted.take(order), side=side)
    return found


def distinct(words: Words) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """A row of each distinct one, and the number of each row's; exact whatever the hashes."""
    count = len(words)
    if not count:
        return np.empty(0, np.int64), np.empty(0, np.uint32)
    # Hash and row in one number: sorting it is a fourth of what argsort of the hashes takes.
    low = np.uint64((1 << count.bit_length()) - 1)
    marked = hash_words(words) & ~low | np.arange(count, dtype=np.uint64)
    marked.sort()
    row = (marked & low).astype(np.int64)
    marked &= ~low
    begins = np.concatenate(([True], marked[1:] != marked[:-1]))
    numbers = np.empty(count, np.uint32)
    numbers[row] = np.cumsum(begins, dtype=np.uint32) - np.uint32(1)
    first = row[begins]
    if not _are(words, first.take(numbers), words):
        groups = group_rows(words)
        first = groups.order[groups.starts]
        numbers[groups.order] = groups.labels()
    return first, numbers
