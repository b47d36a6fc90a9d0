"""
What is remembered of connections from drain to drain.

A table of sets, as a CPU's cache has: a connection's hash names its set, whose few places are
looked at all at once. So a lookup costs the same however much is remembered, and nothing is sorted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import U1, U8

I8 = NDArray[np.int64]

#: Places in a set. Their tags are one line of the CPU's cache.
WAYS = 8
#: In every tag: a place whose tag is 0 is empty.
_TAKEN = np.uint64(1)
#: Connections that are looked up together: what is read of the table stays in the CPU's cache.
_BLOCK = 8192
_NEVER = np.iinfo(np.int64).min


class Memory:
    """
    A small number for each of so many connections, bounded.

    Args:
        entries: How many, rounded up to a power of two.
        expiry_ns: How long a quiet one is remembered.
    """

    def __init__(self, entries: int, expiry_ns: int) -> None:
        sets = 1 << max((entries - 1) // WAYS, 1).bit_length()
        self._mask = np.uint64(sets - 1)
        self._expiry_ns = expiry_ns
        self._tags = np.zeros((sets, WAYS), np.uint64)
        self._values = np.zeros((sets, WAYS), np.uint8)
        self._seen_ns = np.full((sets, WAYS), _NEVER)
        self.evictions = 0

    def __len__(self) -> int:
        return int(np.count_nonzero(self._tags))

    def exchange(
        self, hashes: U8, tags: U8, values: U1, told: I8, now_ns: int
    ) -> tuple[U1, NDArray[np.bool_]]:
        """
        Remember something of some connections, and say what is remembered of all. They were seen
        now.

        Args:
            hashes: uint64, shape (n,).
            tags: Another hash of each.
            values: uint8, shape (n,): what to remember.
            told: Of which rows; of each connection one at most.
            now_ns: Unix ns.

        Returns:
            What is remembered of each, uint8, shape (n,); and whether anything is.
        """
        found, place = self._find(hashes, tags)
        there = found[told]
        known = told[there]
        self._set(place[known], tags[known], values[known], now_ns)
        if len(known) < len(told):
            self._add(told[~there], place, tags, values, now_ns)
            # What was not there may be now, and what was there may have made room.
            found, place = self._find(hashes, tags)
        found &= self._seen_ns.take(place) >= now_ns - self._expiry_ns
        self._seen_ns.put(place[found], now_ns)
        return self._values.take(place), found

    def _add(self, rows: I8, place: I8, tags: U8, values: U1, now_ns: int) -> None:
        """What is not there yet; ``place`` is any in its set."""
        sets = place.take(rows) // WAYS
        # Set and row in one number: sorting it is a fraction of what a stable argsort takes.
        bits = len(rows).bit_length()
        marked = sets << bits | np.arange(len(rows))
        marked.sort()
        rows, sets = rows.take(marked & ((1 << bits) - 1)), marked >> bits
        begins = np.flatnonzero(np.diff(sets, prepend=-1))
        rank = np.arange(len(rows)) - np.repeat(begins, np.diff(begins, append=len(rows)))
        for turn in range(WAYS):
            some = np.flatnonzero(rank == turn)
            if not len(some):
                break
            row, set_ = rows.take(some), sets.take(some)
            oldest = set_ * WAYS + self._seen_ns.take(set_, axis=0).argmin(axis=1)
            live = self._seen_ns.take(oldest) >= now_ns - self._expiry_ns
            self.evictions += int(np.count_nonzero(live))
            self._set(oldest, tags.take(row), values.take(row), now_ns)
        self.evictions += int(np.count_nonzero(rank >= WAYS))

    def _find(self, hashes: U8, tags: U8) -> tuple[NDArray[np.bool_], I8]:
        """Whether each is there, and its place; of one that is not, a place of its set."""
        found, place = np.empty(len(tags), np.bool_), np.empty(len(tags), np.int64)
        for start in range(0, len(tags), _BLOCK):
            some = slice(start, start + _BLOCK)
            sets = (hashes[some] & self._mask).astype(np.int64)
            equal = self._tags.take(sets, axis=0) == (tags[some] | _TAKEN)[:, np.newaxis]
            way = equal.argmax(axis=1)
            place[some] = sets * WAYS + way
            found[some] = equal.ravel().take(np.arange(0, equal.size, WAYS) + way)
        return found, place

    def _set(self, places: I8, tags: U8, values: U1, now_ns: int) -> None:
        self._tags.put(places, tags | _TAKEN)
        self._values.put(places, values)
        self._seen_ns.put(places, now_ns)
