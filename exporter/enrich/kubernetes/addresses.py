"""A sorted table of addresses: whole batches are looked up, changes are merged in when asked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import U8
from exporter.batch.group import equal_rows, hash_words
from exporter.enrich.kubernetes.history import FOREVER, I8, Hold, chain


class Row(NamedTuple):
    """
    What an address is.

    Args:
        slot: Who has it now, 0 for nobody or more than one.
        since: That is all there is to know of flows that begin then or later, Unix ns.
    """

    slot: int
    since: int


def row_of(newest: Hold) -> Row:
    """From all times with one address."""
    times = chain(newest)
    lasting = [one for one in times if one.lasts]
    ended = max((one.possible_to + 1 for one in times if not one.lasts), default=0)
    if not lasting:
        return Row(0, ended)
    if len(lasting) > 1:
        return Row(0, FOREVER)
    return Row(lasting[0].slot, max(ended, lasting[0].there_from))


class AddressTable:
    """
    Addresses in the order of their hashes. Not thread-safe.
    """

    def __init__(self) -> None:
        self._hashes = np.empty(0, np.uint64)
        self._words = np.empty((0, 2), np.uint64)
        self._slots = np.empty(0, np.int64)
        self._since = np.empty(0, np.int64)
        #: The most rows with one hash.
        self._longest = 1

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, words: U8, hashes: U8) -> I8:
        """
        Where addresses stand.

        Args:
            words: uint64, shape (u, 2), as ``Addresses.words``.
            hashes: Of them, shape (u,); fastest if nearly in order.

        Returns:
            int64, shape (u,): the row of each; -1 for none.
        """
        found = np.full(len(words), -1, np.int64)
        if not len(self):
            return found
        at = np.searchsorted(self._hashes, hashes)
        for step in range(self._longest):
            place = np.minimum(at + step, len(self) - 1)
            equal = equal_rows(self._words, place, words)
            found[equal] = place[equal]
        return found

    def take(self, rows: I8) -> tuple[I8, I8]:
        """``slot`` and ``since`` of rows, int64; those of row -1 are 0."""
        if not len(self):
            return np.zeros_like(rows), np.zeros_like(rows)
        known = rows >= 0
        slots, since = (np.where(known, some.take(rows), 0) for some in (self._slots, self._since))
        return slots, since

    def merge(self, changes: dict[bytes, Row | None]) -> None:
        """
        Take over what has changed. Costs a copy of the table, and a loop over the changes.

        Args:
            changes: By address; ``None`` for what nobody has or had.
        """
        if not changes:
            return
        words = _words(list(changes))
        changed = hash_words(words)
        gone = self.find(words, changed)
        keep = np.ones(len(self), np.bool_)
        keep[gone[gone >= 0]] = False
        there = np.array([row is not None for row in changes.values()], np.bool_)
        rows = [row for row in changes.values() if row is not None]
        values = np.array(rows, np.int64).reshape(len(rows), 2)
        new = words[there]
        hashes = np.concatenate((self._hashes[keep], changed[there]))
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._words = np.concatenate((self._words[keep], new))[order]
        self._slots = np.concatenate((self._slots[keep], values[:, 0]))[order]
        self._since = np.concatenate((self._since[keep], values[:, 1]))[order]
        self._longest = _longest(self._hashes)


def _words(addresses: list[bytes]) -> NDArray[np.uint64]:
    joined = np.frombuffer(b"".join(addresses), np.uint64)
    return joined.reshape(len(addresses), 2)


def _longest(hashes: NDArray[np.uint64]) -> int:
    """The length of the longest run of equal ones."""
    if not len(hashes):
        return 1
    begins = np.flatnonzero(np.concatenate(([True], hashes[1:] != hashes[:-1])))
    return int(np.diff(begins, append=len(hashes)).max())
