"""A database in memory, and what was decoded of it."""

from __future__ import annotations

import mmap
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.batch.attributes import EndAttribute, Value
from exporter.batch.group import distinct
from exporter.enrich.base import Addresses, Found
from exporter.enrich.chosen import chosen
from exporter.enrich.files import open_regular
from exporter.enrich.geoip.fields import AS, GEO, as_of, geo_of
from exporter.enrich.geoip.tree import Tree
from exporter.errors import ConfigError

#: Octets of a file: what a record of 32 bits can point to.
_LARGEST = 4 << 30
#: Records that one batch may make us decode. Addresses of the others are unknown in this batch.
AT_ONCE = 2048

_GROUPS: tuple[tuple[tuple[EndAttribute, ...], Callable[[Any], tuple[Value, ...]]], ...] = (
    (GEO, geo_of),
    (AS, as_of),
)


@dataclass
class Counts:
    """Of all databases, those that were replaced among them. Addresses; evictions are records."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0


class Database:
    """
    Asked by one thread.

    What has been decoded is kept by the record's place in the file, not by address: all addresses
    of one network and all networks with one record share it.

    Args:
        reader: An open ``maxminddb.Reader``.
        tree: Of the same file.
        capacity: Records that are kept decoded.
        counts: Counted into.
    """

    def __init__(self, reader: Any, tree: Tree, capacity: int, counts: Counts) -> None:
        self._reader = reader
        self._tree = tree
        self._capacity = capacity
        self._counts = counts
        self._groups = tuple(_Values(attributes, values) for attributes, values in _GROUPS)
        #: Ascending; beside each the numbers of its values by group, and the batch that had it.
        self._records = np.empty(0, np.int64)
        self._numbers = np.empty((len(_GROUPS), 0), np.uint32)
        self._used = np.empty(0, np.int64)
        self._batch = 0
        self._last: tuple[Addresses, tuple[Found, ...]] | None = None
        self.problem = ""

    def __len__(self) -> int:
        """How many records are decoded."""
        return len(self._records)

    def look_up(self, addresses: Addresses) -> tuple[Found, ...]:
        """Of ``GEO`` and of ``AS``. The same addresses again cost nothing."""
        if self._last is None or self._last[0] is not addresses:
            self._last = (addresses, self._look_up(addresses))
        return self._last[1]

    def _look_up(self, addresses: Addresses) -> tuple[Found, ...]:
        self._batch += 1
        found = self._tree.find(addresses.octets, addresses.is_ipv4())
        first, where = distinct(found.view(np.uint64)[:, np.newaxis])
        records = found.take(first)
        places = np.searchsorted(self._records, records)
        places[places == len(self._records)] = 0
        known = self._records[places] == records if len(self) else np.zeros(len(records), np.bool_)
        self._used[places[known]] = self._batch
        numbers = np.zeros((len(_GROUPS), len(records)), np.uint32)
        numbers[:, known] = self._numbers[:, places[known]]
        missing = np.flatnonzero(~known & (records != 0))[: min(AT_ONCE, self._capacity)]
        for place in missing.tolist():
            record = self._decode(addresses.octets[first[place]].tobytes())
            numbers[:, place] = [group.number(record) for group in self._groups]
        hits = int(known[where].sum())
        self._counts.hits += hits
        self._counts.misses += len(addresses) - hits
        answers = tuple(
            Found(*chosen(numbers[row][where], group.columns))
            for row, group in enumerate(self._groups)
        )
        if len(missing):
            self._keep(records[missing], numbers[:, missing])
        return answers

    def _decode(self, packed: bytes) -> Any:
        """The record that an address leads to; ``None`` if it is damaged."""
        ipv4 = packed.startswith(bytes(10) + b"\xff\xff")
        text = (
            socket.inet_ntop(socket.AF_INET, packed[12:])
            if ipv4
            else socket.inet_ntop(socket.AF_INET6, packed)
        )
        try:
            return self._reader.get(text)
        # RuntimeError is InvalidDatabaseError, of a package that not every agent needs.
        except (RuntimeError, ValueError) as err:
            self.problem = f"its record of {text} is damaged: {' '.join(str(err).split())}"
            return None

    def _keep(self, records: NDArray[np.int64], numbers: NDArray[np.uint32]) -> None:
        """Remember what was decoded; forget what was not asked for longest if there is no room."""
        if len(self) + len(records) > self._capacity:
            left = min(self._capacity * 3 // 4, self._capacity - len(records))
            numbers = self._forget(left, numbers)
        records = np.concatenate((self._records, records))
        order = np.argsort(records)
        self._records = records[order]
        self._numbers = np.concatenate((self._numbers, numbers), axis=1)[:, order]
        used = np.full(len(records), self._batch)
        used[: len(self._used)] = self._used
        self._used = used[order]

    def _forget(self, left: int, numbers: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """All but so many, and the values that none of these has. ``numbers`` as they are then."""
        self._counts.evictions += len(self) - left
        newest = np.argpartition(self._used, len(self) - left - 1)[len(self) - left :]
        newest.sort()
        self._records, self._used = self._records[newest], self._used[newest]
        both = np.concatenate((self._numbers[:, newest], numbers), axis=1)
        for group, row in zip(self._groups, both, strict=True):
            row[:] = group.renew(row)
        self._numbers = both[:, :left]
        return both[:, left:]


class _Values:
    """Distinct values of some attributes, with a number each; 0 has none."""

    def __init__(
        self, attributes: tuple[EndAttribute, ...], values: Callable[[Any], tuple[Value, ...]]
    ) -> None:
        self._values = values
        self._nothing: tuple[Value, ...] = (None,) * len(attributes)
        self.columns: dict[EndAttribute, list[Value]] = {what: [] for what in attributes}
        self._all: list[tuple[Value, ...]] = []
        self._numbers: dict[tuple[Value, ...], int] = {}
        self._begin()

    def number(self, record: Any) -> int:
        """Of the values of a record."""
        return self._add(self._values(record))

    def renew(self, numbers: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Keep the values that have these numbers; the numbers that they have now."""
        before = self._all
        self._begin()
        distinct, where = np.unique(numbers, return_inverse=True)
        now = np.array([self._add(before[old]) for old in distinct.tolist()], np.uint32)
        return now[where]

    def _begin(self) -> None:
        self._all, self._numbers = [], {}
        for column in self.columns.values():
            column.clear()
        self._add(self._nothing)

    def _add(self, values: tuple[Value, ...]) -> int:
        number = self._numbers.setdefault(values, len(self._all))
        if number == len(self._all):
            self._all.append(values)
            for column, value in zip(self.columns.values(), values, strict=True):
                column.append(value)
        return number


def open_database(path: Path, capacity: int, counts: Counts) -> Database:
    """
    Copy a file into memory and open it.

    A copy, because whoever writes over a file that is mapped kills the process that reads it.

    Raises:
        ConfigError: If it cannot be read or is no database, in one line.
    """
    # Only agents with a database pay for it.
    import maxminddb

    descriptor = os.memfd_create("geoip", os.MFD_CLOEXEC)
    try:
        with open_regular(path, _LARGEST) as file, os.fdopen(descriptor, "wb", closefd=False) as to:
            shutil.copyfileobj(file, to, 1 << 20)
        # By the C library where the package has it.
        reader = maxminddb.open_database(f"/proc/self/fd/{descriptor}")
        metadata = reader.metadata()
        copy = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        tree = Tree(copy, metadata.node_count, metadata.record_size, metadata.ip_version)
    except (maxminddb.InvalidDatabaseError, ValueError) as err:
        reason = " ".join(str(err).split()).replace(f"/proc/self/fd/{descriptor}", path.name)
        raise ConfigError(f"{path} is no database in MaxMind's format: {reason}") from None
    except OSError as err:
        raise ConfigError(f"cannot read {path}: {err.strerror}") from err
    finally:
        os.close(descriptor)
    return Database(reader, tree, capacity, counts)
