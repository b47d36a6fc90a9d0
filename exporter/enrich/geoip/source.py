"""Says where an address is, and whose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from exporter.batch.attributes import EndAttribute, Value
from exporter.enrich.base import Addresses, AddressSource, Found, State
from exporter.enrich.files import Files
from exporter.enrich.geoip.config import GeoIpConfig
from exporter.enrich.geoip.database import Counts, Database, open_database
from exporter.enrich.geoip.fields import AS, GEO


def sources(config: GeoIpConfig) -> list[AddressSource]:
    """Places and autonomous systems: they are of different networks, and have their own rows."""
    databases = Databases(config)
    return [_Part("geo", GEO, 0, databases), _Part("as", AS, 1, databases)]


class Databases:
    """
    The files, opened once for both.

    Args:
        config: Nothing is opened before :meth:`open`.
    """

    def __init__(self, config: GeoIpConfig) -> None:
        self.counts = Counts()
        self.now: tuple[Database, ...] = ()
        self._names: tuple[str, ...] = ()
        self._files = Files(
            config.databases, lambda p: open_database(p, config.cache, self.counts), self._use
        )

    def open(self) -> None:
        """Read all."""
        self._files.open()

    def close(self) -> None:
        """Watch them no more."""
        self._files.close()

    def state(self) -> State:
        """Of all together."""
        pairs = list(zip(self._names, self.now, strict=False))
        damaged = (f"{name}: {one.problem}" for name, one in pairs if one.problem)
        return State(
            self._files.problem or next(damaged, ""),
            self.counts.hits,
            self.counts.misses,
            self.counts.evictions,
            sum(len(database) for _, database in pairs),
        )

    def _use(self, databases: Mapping[Path, Database]) -> None:
        self._names = tuple(map(str, databases))
        self.now = tuple(databases.values())


class _Part:
    """One of the groups of attributes."""

    def __init__(
        self, name: str, attributes: tuple[EndAttribute, ...], place: int, databases: Databases
    ) -> None:
        self.name = name
        self.attributes = attributes
        self._place = place
        self._databases = databases

    def open(self) -> None:
        """Once for both: the first one opens."""
        if self._place == 0:
            self._databases.open()

    def close(self) -> None:
        """Again is fine."""
        self._databases.close()

    def state(self) -> State:
        """Counts are of both, and shown at the first."""
        state = self._databases.state()
        return state if self._place == 0 else State(state.problem)

    def look_up(self, addresses: Addresses) -> Found:
        """What the databases know now."""
        found = [one.look_up(addresses)[self._place] for one in self._databases.now]
        found = [one for one in found if one.numbers.any()]
        if not found:
            nothing: dict[EndAttribute, tuple[Value, ...]] = dict.fromkeys(self.attributes, (None,))
            return Found(np.zeros(len(addresses), np.uint32), nothing)
        first, *others = found
        for other in others:
            first = _merged(first, other)
        return first


def _merged(first: Found, other: Found) -> Found:
    """Of each attribute the first's value, else the other's."""
    sizes = [len(next(iter(one.values.values()))) for one in (first, other)]
    pairs = first.numbers.astype(np.uint64) * np.uint64(sizes[1]) + other.numbers
    # The unknown one of both is in it, and comes first.
    distinct, where = np.unique(np.append(np.uint64(0), pairs), return_inverse=True)
    ones, others = (part.tolist() for part in np.divmod(distinct, np.uint64(sizes[1])))
    values = {
        what: tuple(
            mine[one] if mine[one] is not None else theirs[two]
            for one, two in zip(ones, others, strict=True)
        )
        for (what, mine), theirs in zip(first.values.items(), other.values.values(), strict=True)
    }
    return Found(where[1:].astype(np.uint32), values)
