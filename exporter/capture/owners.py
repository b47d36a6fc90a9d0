"""Which socket sent each flow: what the flow program noted when it made the flow's entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.abi.layout import FLOW_KEY, FLOW_OWNER
from exporter.batch.batch import FlowBatch
from exporter.batch.ends import hash_flows, opposite
from exporter.batch.group import equal_rows
from exporter.ebpf.maps import BatchCursor, Map

U8 = NDArray[np.uint64]

_ROWS = 8192


@dataclass(frozen=True)
class Owned:
    """
    Entries of flows and their sockets, each flow once, in no order.

    Args:
        words: uint64, shape (k, 6): the flow key as ``FlowBatch.key_words()``.
        starts: uint64, shape (k,): the entry's first packet, CLOCK_MONOTONIC ns.
        cookies: uint64, shape (k,): the socket's.
        cgroups: uint64, shape (k,): the id of its cgroup.
    """

    words: U8
    starts: U8
    cookies: U8
    cgroups: U8

    def __len__(self) -> int:
        return len(self.cookies)

    def take(self, rows: NDArray[np.bool_]) -> Owned:
        """Some of the entries."""
        return Owned(self.words[rows], self.starts[rows], self.cookies[rows], self.cgroups[rows])


@dataclass(frozen=True)
class Sockets:
    """
    Sockets of one end of all rows.

    Args:
        cookies, cgroups: uint64, shape (n,); 0 is unknown.
    """

    cookies: U8
    cgroups: U8


_NONE = Owned(np.empty((0, 6), np.uint64), *np.empty((3, 0), np.uint64))


class OwnerReader:
    """
    Empties the map of owners before and after each swap of the flow maps.

    Before it, because a flow that begins again before the reading takes the place of its earlier
    entry's owner: all but those of the last moment are safe then. What is read after it and is
    younger than the swap is kept for the next drain. Which entry of a flow an owner is of is known
    by the time of the entry's first packet, so that nothing can be taken for another.
    """

    def __init__(self) -> None:
        self._keys = np.empty(_ROWS, FLOW_KEY)
        self._values = np.empty(_ROWS, FLOW_OWNER)
        self._kept = self._ahead = self._last = _NONE
        self._young = _NONE
        self._offset_ns = 0

    def read_ahead(self, owners: Map) -> None:
        """
        Take out what is there before the flow maps are swapped.

        Args:
            owners: The map flow_owner.

        Raises:
            BpfError: If the kernel refuses.
        """
        self._ahead = self._taken(owners)

    def read(self, owners: Map, swap_ns: int, offset_ns: int) -> None:
        """
        Take out the rest.

        Args:
            owners: The map flow_owner.
            swap_ns: Before the flow maps were swapped, CLOCK_MONOTONIC.
            offset_ns: As of the flows that are read now.

        Raises:
            BpfError: If the kernel refuses.
        """
        self.note(self._taken(owners), swap_ns, offset_ns)

    def _taken(self, owners: Map) -> Owned:
        found: list[Owned] = []
        cursor = BatchCursor()
        while not cursor.done:
            rows = owners.take_batch(self._keys, self._values, cursor)
            values = self._values[:rows]
            words = self._keys[:rows].view(np.uint64).reshape(rows, 6).copy()
            columns = (values[name].copy() for name in ("first_mono_ns", "cookie", "cgroup_id"))
            found.append(Owned(words, *columns))
        return _joined(found)

    def note(self, found: Owned, swap_ns: int, offset_ns: int) -> None:
        """What :meth:`read` has found."""
        self._kept, self._last = self._young, found
        self._young = found.take(found.starts >= np.uint64(swap_ns))
        self._offset_ns = offset_ns

    def ends(self, batch: FlowBatch) -> tuple[Sockets, Sockets]:
        """
        The sockets that flows are of.

        Args:
            batch: Of the last drain.

        Returns:
            The one that sent each row; and the one that sent the flow in the opposite direction at
            the same interface, which gets the row's packets: unknown if there were several.
        """
        rows, words = len(batch), batch.key_words()
        source, destination = (Sockets(*np.zeros((2, rows), np.uint64)) for _ in range(2))
        starts = batch.flow_start_ns - np.uint64(self._offset_ns)
        for known in filter(len, (self._kept, self._ahead, self._last)):
            found = _Index(known.words).find(words)
            _fill(source, known, found.same, starts)
            _fill(destination, known, found.opposite, None)
        return source, destination


@dataclass(frozen=True)
class _Places:
    """Of every row the place of its own key, and of the opposite flow's; int64, -1 is nowhere."""

    same: NDArray[np.int64]
    opposite: NDArray[np.int64]


class _Index:
    """
    Finds flow keys among others, in both directions.

    Args:
        words: uint64, shape (k, 6), k at least 1: each once.
    """

    def __init__(self, words: U8) -> None:
        self._words = words
        self._low, self._marked = _marked(words)

    def find(self, wanted: U8) -> _Places:
        """
        Where each key and its opposite are.

        Args:
            wanted: uint64, shape (n, 6).

        Returns:
            One whose hash is another's, too, may be missed.
        """
        found = _Places(*np.full((2, len(wanted)), -1))
        if not len(wanted):
            return found
        # In the order of the hashes: what is looked for next is near.
        low, marked = _marked(wanted)
        kept = ~max(low, self._low)
        hashes, known = marked & kept, self._marked & kept
        place = np.searchsorted(known, hashes)
        # A flow and its opposite have one hash: they are neighbours.
        for neighbour in range(2):
            place += neighbour
            maybe = np.flatnonzero(known.take(place, mode="clip") == hashes)
            at = (self._marked.take(place[maybe], mode="clip") & self._low).astype(np.int64)
            self._tell(found, wanted, (marked[maybe] & low).astype(np.int64), at)
        return found

    def _tell(
        self, found: _Places, wanted: U8, rows: NDArray[np.int64], at: NDArray[np.int64]
    ) -> None:
        """Which of some rows have their own key at a place, and which the opposite one."""
        keys = wanted.take(rows, axis=0)
        same = equal_rows(self._words, at, keys)
        found.same[rows[same]] = at[same]
        rest = np.flatnonzero(~same)
        turned = rest[equal_rows(self._words, at[rest], opposite(keys.take(rest, axis=0)))]
        found.opposite[rows[turned]] = at[turned]


def _marked(words: U8) -> tuple[np.uint64, U8]:
    """Hash and row in one number, sorted; and which bits of it are the row."""
    low = np.uint64((1 << len(words).bit_length()) - 1)
    marked = hash_flows(words) & ~low | np.arange(len(words), dtype=np.uint64)
    marked.sort()
    return low, marked


def _fill(into: Sockets, known: Owned, at: NDArray[np.int64], starts: U8 | None) -> None:
    """Write down the sockets of entries, -1 for none; of those with other starts, none."""
    rows = np.flatnonzero(at >= 0)
    at = at[rows]
    if starts is not None:
        same = known.starts[at] == starts[rows]
        rows, at = rows[same], at[same]
    cookies, before = known.cookies[at], into.cookies[rows]
    # Another socket than was found in another reading: which of them it was is not known.
    one = (before == 0) | (before == cookies)
    into.cookies[rows] = np.where(one, cookies, 0)
    into.cgroups[rows] = np.where(one, known.cgroups[at], 0)


def _joined(some: list[Owned]) -> Owned:
    if not some:
        return _NONE
    parts: Any = zip(
        *((one.words, one.starts, one.cookies, one.cgroups) for one in some), strict=True
    )
    return Owned(*map(np.concatenate, parts))
