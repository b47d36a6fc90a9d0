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

    def get(self, hashes: U8, tags: U8, now_ns: int) -> tuple[U1, NDArray[np.bool_]]:
        """
        What is remembered of connections, and whether anything is. They were seen now.

        Args:
            hashes: uint64, shape (n,).
            tags: Another hash of each.
            now_ns: Unix ns.
        """
        values, known = np.empty(len(tags), np.uint8), np.empty(len(tags), np.bool_)
        for start in range(0, len(tags), _BLOCK):
            some = slice(start, start + _BLOCK)
            found, place = self._find(hashes[some], tags[some])
            found &= self._seen_ns.take(place) >= now_ns - self._expiry_ns
            self._seen_ns.put(place[found], now_ns)
            values[some], known[some] = self._values.take(place), found
        return values, known

    def put(self, hashes: U8, tags: U8, values: U1, now_ns: int) -> None:
        """
        Remember something of connections, each given once.

        Args:
            hashes: uint64, shape (n,).
            tags: Another hash of each.
            values: uint8, shape (n,).
            now_ns: Unix ns.
        """
        found, place = self._find(hashes, tags)
        self._set(place[found], tags[found], values[found], now_ns)
        rest = np.flatnonzero(~found)
        sets = place[rest] // WAYS
        order = np.argsort(sets, kind="stable")
        rest, sets = rest[order], sets[order]
        begins = np.flatnonzero(np.diff(sets, prepend=-1))
        rank = np.arange(len(rest)) - np.repeat(begins, np.diff(begins, append=len(rest)))
        for turn in range(WAYS):
            some = rank == turn
            if not some.any():
                break
            rows = rest[some]
            oldest = sets[some] * WAYS + self._seen_ns[sets[some]].argmin(axis=1)
            live = self._seen_ns.take(oldest) >= now_ns - self._expiry_ns
            self.evictions += int(np.count_nonzero(live))
            self._set(oldest, tags[rows], values[rows], now_ns)
        self.evictions += int(np.count_nonzero(rank >= WAYS))

    def _find(self, hashes: U8, tags: U8) -> tuple[NDArray[np.bool_], I8]:
        """Whether each is there, and its place; of one that is not, a place of its set."""
        sets = (hashes & self._mask).astype(np.int64)
        equal = self._tags.take(sets, axis=0) == (tags | _TAKEN)[:, np.newaxis]
        way = equal.argmax(axis=1)
        found = equal.ravel().take(np.arange(0, equal.size, WAYS) + way)
        return found, sets * WAYS + way

    def _set(self, places: I8, tags: U8, values: U1, now_ns: int) -> None:
        self._tags.put(places, tags | _TAKEN)
        self._values.put(places, values)
        self._seen_ns.put(places, now_ns)
