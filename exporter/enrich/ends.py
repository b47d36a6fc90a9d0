"""Each distinct address of a batch once, and the answers of sources at both ends of all rows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from exporter.batch.attributes import SIDES, Attribute, Entities, Side
from exporter.batch.batch import U4, FlowBatch
from exporter.batch.group import distinct
from exporter.enrich.base import Addresses, AddressSource, Found, Reading, State
from exporter.enrich.guard import Guard


@dataclass(frozen=True)
class Ends:
    """
    The distinct addresses of a batch, and where they stand.

    Args:
        addresses: Each once, in no order.
        numbers: By side, uint32, shape (n,): which address each row has there.
    """

    addresses: Addresses
    numbers: Mapping[Side, U4]


def ends_of(batch: FlowBatch) -> Ends:
    """Find the distinct addresses of both ends of all rows."""
    rows = len(batch)
    words = batch.key_words()
    both = np.concatenate((words[:, 0:2], words[:, 2:4]))
    first, numbers = distinct(both)
    octets = np.ascontiguousarray(both[first]).view(np.uint8).reshape(len(first), 16)
    source, destination = SIDES
    return Ends(
        Addresses(octets, batch.window), {source: numbers[:rows], destination: numbers[rows:]}
    )


class EndEnricher:
    """
    Asks sources about the addresses of a batch.

    Args:
        sources: In the order that their attributes are to stand.
    """

    name = "ends"
    requires: tuple[str, ...] = ("key",)
    provides: tuple[str, ...] = ("entities",)

    def __init__(self, *sources: AddressSource) -> None:
        self._sources = sources
        self._seconds = dict.fromkeys((source.name for source in sources), 0.0)
        self._finding = 0.0
        self._guard = Guard()
        self.attributes: tuple[Attribute, ...] = tuple(
            one for some in self.groups() for one in some
        )

    def groups(self) -> list[tuple[Attribute, ...]]:
        """The attributes of each source, at either end."""
        return [
            tuple(attribute.of(side) for side in SIDES for attribute in source.attributes)
            for source in self._sources
        ]

    def open(self) -> None:
        """Open the sources."""
        for source in self._sources:
            source.open()

    def close(self) -> None:
        """Close the sources."""
        for source in self._sources:
            source.close()

    def state(self) -> State:
        """The sources have states of their own."""
        return State()

    def readings(self) -> dict[str, Reading]:
        """Of each source, and of finding the distinct addresses."""
        own = {self.name: Reading(State(), self._finding)}
        return own | {
            source.name: self._guard.reading(
                source.name, source.state(), self._seconds[source.name]
            )
            for source in self._sources
        }

    def apply(self, batch: FlowBatch) -> FlowBatch:
        """Add what the sources know of each end."""
        if not len(batch):
            return batch
        begun = time.monotonic()
        ends = ends_of(batch)
        self._finding += time.monotonic() - begun
        entities = list(batch.entities)
        for source in self._sources:
            begun = time.monotonic()
            entities += self._guard.call(source.name, [], _asked, source, ends, batch)
            self._seconds[source.name] += time.monotonic() - begun
        return replace(batch, entities=tuple(entities))


def _asked(source: AddressSource, ends: Ends, batch: FlowBatch) -> list[Entities]:
    """What one source knows of a batch."""
    found = source.look_up(ends.addresses)
    known = found.timed is not None or found.numbers.any()
    return _spread(found, ends, batch) if known else []


def _spread(found: Found, ends: Ends, batch: FlowBatch) -> list[Entities]:
    """What was found, at each end of all rows."""
    return [
        Entities(
            _numbers(found, ends.numbers[side], batch),
            {what.of(side): values for what, values in found.values.items()},
        )
        for side in SIDES
    ]


def _numbers(found: Found, which: U4, batch: FlowBatch) -> U4:
    """Of every row at one end; only rows whose address depends on when are looked at."""
    numbers = found.numbers[which]
    if found.timed is not None:
        rows = np.flatnonzero(found.timed.which[which])
        numbers[rows] = found.timed.decide(
            which[rows].astype(np.int64), batch.flow_start_ns[rows], batch.flow_end_ns[rows]
        )
    return numbers
