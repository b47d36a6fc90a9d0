"""
Make a map what a desired table says, row by row or as a whole.

Writes go through whatever table they are given: through a :class:`CachedMap` they are remembered,
told to its events and measured by its pressure. Only one reconciler may own a map: what it does not
want there, it removes.
"""

from __future__ import annotations

import errno as errnos
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from exporter.ebpf.cache import CachedMap
from exporter.ebpf.errors import BpfError, KeyNotFound
from exporter.ebpf.table import Table, collect_keys, holds
from exporter.ebpf.watched import WatchedMap, walk_interrupted

Row = TypeVar("Row")

#: No room: of a hash, and of an LPM trie (kernel/bpf/lpm_trie.c trie_update_elem()).
_FULL = frozenset({errnos.E2BIG, errnos.ENOSPC})

Pair = tuple[bytes, bytes]
Octets = np.generic | NDArray[Any]


@dataclass(frozen=True)
class Changes:
    """Elements that a full pass wrote, removed, and found as they should be."""

    written: int
    removed: int
    unchanged: int


class Reconciler(Generic[Row]):
    """
    Operations that bring a map towards a desired table.

    Args:
        table: The map. Stays the caller's.
        encode: A row of the desired table as octets of key and value. :func:`raw` for records of
            NumPy.
    """

    def __init__(self, table: Table, encode: Callable[[Row], Pair]) -> None:
        self._table = table
        self._encode = encode

    def update(self, row: Row) -> None:
        """
        Write a row without looking first: for a change that is known to be one.

        Raises:
            MapFull: If there is no room.
            BpfError: If the kernel refuses otherwise.
        """
        self._table.update(*self._encode(row))

    def ensure(self, row: Row) -> bool:
        """
        Write a row if the map has it not, or has it otherwise.

        Of an LPM trie that may take a walk over all keys; :meth:`reconcile` walks once for all.

        Returns:
            Whether the map was changed.

        Raises:
            MapFull: If there is no room.
            BpfError: If the kernel refuses otherwise.
        """
        return self._ensure(*self._encode(row))

    def delete(self, row: Row) -> None:
        """
        Remove a row; one that is not there is as it should be.

        Raises:
            BpfError: If the kernel refuses.
        """
        self._delete(self._encode(row)[0])

    def prune(self, desired: Iterable[Row]) -> int:
        """
        Remove what is not desired. Keys are collected before the first is removed.

        Args:
            desired: All rows that shall stay.

        Returns:
            Elements removed.

        Raises:
            ExceptionGroup: Of BpfError, one for each element that could not be removed, and one if
                the map changes faster than it can be walked. The others are removed.
        """
        removed, errors = self._prune({self._encode(row)[0] for row in desired})
        self._raise("prune", errors)
        return removed

    def reconcile(self, desired: Iterable[Row]) -> Changes:
        """
        Make the map just what is desired.

        Rows are written before others are removed, so that the map is never emptier than need be;
        those for which there was no room are written after that.

        Args:
            desired: All rows. Of two with the same key the last one counts.

        Raises:
            ExceptionGroup: Of BpfError, one for each row or element that could not be dealt with.
                The others are as desired.
        """
        wanted = dict(self._encode(row) for row in desired)
        # One walk for all rows: what a trie has cannot be told by a lookup.
        keys = set(collect_keys(self._table)[0])
        written, refused = self._ensure_all(wanted, keys)
        removed, errors = self._prune(wanted.keys())
        full = {key: wanted[key] for key, err in refused.items() if err.errno in _FULL}
        still = self._ensure_all(full, keys)[1]
        errors += [err for key, err in refused.items() if key not in full or key in still]
        self._raise("reconcile", errors)
        return Changes(written + len(full), removed, len(wanted) - written - len(full))

    def _ensure_all(
        self, wanted: Mapping[bytes, bytes], keys: Collection[bytes]
    ) -> tuple[int, dict[bytes, BpfError]]:
        """How many were written, and which could not be."""
        written, refused = 0, {}
        for key, value in wanted.items():
            try:
                written += self._ensure(key, value, keys)
            except BpfError as err:
                refused[key] = err
        return written, refused

    def _ensure(self, key: bytes, value: bytes, keys: Collection[bytes] | None = None) -> bool:
        if isinstance(self._table, WatchedMap):
            # It has to know that the row is wanted even where the kernel has it already: a
            # deletion of it may be waiting.
            return self._table.ensure(key, value, keys)
        if holds(self._table, key, value, keys):
            return False
        self._table.update(key, value)
        return True

    def _delete(self, key: bytes) -> bool:
        if isinstance(self._table, WatchedMap):
            return self._table.silent_delete(key)
        try:
            self._table.delete(key)
        except KeyNotFound:
            return False
        return True

    def _prune(self, wanted: Collection[bytes]) -> tuple[int, list[BpfError]]:
        found, complete = collect_keys(self._table)
        errors = [] if complete else [walk_interrupted(self._table.spec)]
        if isinstance(self._table, CachedMap):
            # What waits to be inserted would come back.
            found += [entry.key for entry in self._table.entries()]
        removed = 0
        for key in dict.fromkeys(found):
            if key in wanted:
                continue
            try:
                removed += self._delete(key)
            except BpfError as err:
                errors.append(err)
        return removed, errors

    def _raise(self, verb: str, errors: list[BpfError]) -> None:
        if errors:
            raise ExceptionGroup(f"{verb} map {self._table.spec.name}", errors)


def raw(key: Octets, value: Octets) -> Pair:
    """
    Key and value as they lie in memory: records of a dtype that is laid out as the C struct.

    Args:
        key: Any shape, C-contiguous or not; its elements in C order.
        value: Likewise; of a per-CPU map one row of eight octets or more for each possible CPU.

    Returns:
        Copies.
    """
    return key.tobytes(), value.tobytes()
