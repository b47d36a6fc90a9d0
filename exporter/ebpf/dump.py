"""
A whole map, read while others change it.

What is promised: a key that stays in the map from the first look-up to the last is seen. Keys that
come and go may be seen or not. From hashes, on kernels with batch operations, whole buckets are
read at once, and a key is seen once. Elsewhere the walk goes from key to key: when the key it
stands on is deleted it goes on from the one before, and if that is gone too it begins anew, so a
key may be seen several times; and a key that is *written* by bpf_map_update_elem() meanwhile counts
as new, because the kernel puts it elsewhere in its bucket. Of an LPM trie the kernel's own walk may
pass over keys while others insert; here it is asked twice for each step, which has not been seen to
fail, but is no proof.

Look-ups are bounded: a map that changes faster than it can be read ends in
:class:`~exporter.ebpf.errors.DumpIncomplete`, never in an endless walk.
"""

from __future__ import annotations

import errno as errnos
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from exporter.ebpf.batches import BatchCursor, Batches
from exporter.ebpf.elements import LOOKUPS_PER_ENTRY, Elements
from exporter.ebpf.errors import BpfError, DumpIncomplete, KeyNotFound
from exporter.ebpf.mapspec import HASHED

_ROWS = 1024


@dataclass
class DumpStats:
    """
    How a dump went.

    Args:
        max_entries: The map's size; look-ups are at most four times as many.
        started_ns: When it began, CLOCK_MONOTONIC; 0 before.
        finished_ns: When it ended, in whatever way; 0 before.
        lookups: Keys that were looked up; rows of batches.
        failed_lookups: Keys that were gone when they were looked up.
        key_fallbacks: How often the walk went back to the key before.
        interruptions: How often it may have begun anew, because that was gone too.
        completed: The end was reached.
    """

    max_entries: int
    started_ns: int = 0
    finished_ns: int = 0
    lookups: int = 0
    failed_lookups: int = 0
    key_fallbacks: int = 0
    interruptions: int = 0
    completed: bool = False

    @property
    def duration_ns(self) -> int:
        """From its beginning to its end, or until now."""
        if not self.started_ns:
            return 0
        return (self.finished_ns or time.monotonic_ns()) - self.started_ns

    @property
    def bound(self) -> int:
        """Look-ups that are allowed."""
        return LOOKUPS_PER_ENTRY * self.max_entries

    def begin(self) -> None:
        """Start the clock; counts of an earlier dump are forgotten."""
        self.started_ns, self.finished_ns = time.monotonic_ns(), 0
        self.lookups = self.failed_lookups = 0
        self.key_fallbacks = self.interruptions = 0
        self.completed = False

    def end(self) -> None:
        """Stop the clock."""
        self.finished_ns = time.monotonic_ns()


def dump(table: Batches, stats: DumpStats | None = None) -> Iterator[tuple[bytes, bytes]]:
    """
    Every element, in the best way there is for this map; see the module for what is promised.

    Args:
        table: A map, live or fake.
        stats: Written to as the dump goes on.

    Yields:
        Key and value, fresh octets; of a per-CPU map all slots of the value.

    Raises:
        DumpIncomplete: After ``stats.bound`` look-ups.
        BpfError: If the kernel refuses.
    """
    if table.spec.type in HASHED and table.supports("lookup"):
        return _buckets(table, stats or DumpStats(table.spec.max_entries))
    return walk(table, stats)


def walk(table: Elements, stats: DumpStats | None = None) -> Iterator[tuple[bytes, bytes]]:
    """
    Every element, key by key, on any kernel. Arguments, results and errors as :func:`dump`.
    """
    stats = stats or DumpStats(table.spec.max_entries)
    stats.begin()
    try:
        yield from _walk(table, stats)
    finally:
        stats.end()


def _walk(table: Elements, stats: DumpStats) -> Iterator[tuple[bytes, bytes]]:
    current, previous = table.next_key(), None
    while current is not None:
        if stats.lookups >= stats.bound:
            raise _incomplete(table, stats)
        stats.lookups += 1
        # Before the look-up: a key that is deleted in between then still has its successor.
        following = _after(table, current)
        try:
            value = table.lookup(current)
        except KeyNotFound:
            stats.failed_lookups += 1
            if previous is not None:
                current, previous = previous, None
                stats.key_fallbacks += 1
            else:
                current = following
                stats.interruptions += 1
            continue
        yield current, value
        current, previous = following, current
    stats.completed = True


def _after(table: Elements, current: bytes) -> bytes | None:
    """
    The key after ``current``; of a trie the nearer of two answers.

    The kernel finds the way on from a node by looking which child of its parent it is. If a node is
    put between the two at that moment it finds neither, and passes over the parent's other child
    with all that is below it: kernel/bpf/lpm_trie.c trie_get_next_key(). To be misled it must now
    happen twice in a row.
    """
    answer = table.next_key(current)
    if table.spec.type != "lpm_trie":
        return answer
    other, here = table.next_key(current), _order(current)
    onward = [key for key in (answer, other) if key is not None and _order(key) > here]
    # An answer that leads back is the beginning anew of a walk whose key is gone.
    return min(onward, key=_order) if onward else answer and other


def _order(key: bytes) -> str:
    """Sorts as a trie is walked: what is below a prefix, with 0 and then with 1, before it."""
    bits = f"{int.from_bytes(key[4:], 'big'):0{8 * len(key) - 32}b}"
    return bits[: int.from_bytes(key[:4], "little")] + "2"


def _buckets(table: Batches, stats: DumpStats) -> Iterator[tuple[bytes, bytes]]:
    stats.begin()
    try:
        cursor, rows = BatchCursor(), min(_ROWS, max(1, table.spec.max_entries))
        while not cursor.done:
            keys = np.empty((rows, table.spec.key_size), np.uint8)
            values = np.empty((rows, table.value_octets), np.uint8)
            try:
                count = table.lookup_batch(keys, values, cursor)
            except BpfError as err:
                if err.errno != errnos.ENOSPC:
                    raise
                rows *= 2  # a bucket has more; nothing was read
                continue
            for key, value in zip(keys[:count], values[:count], strict=True):
                if stats.lookups >= stats.bound:
                    raise _incomplete(table, stats)
                stats.lookups += 1
                yield key.tobytes(), value.tobytes()
        stats.completed = True
    finally:
        stats.end()


def _incomplete(table: Elements, stats: DumpStats) -> DumpIncomplete:
    return DumpIncomplete(
        f"dump map {table.spec.name}", 0, f"not at its end after {stats.lookups} look-ups"
    )
