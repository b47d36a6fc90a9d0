"""All enrichers that a configuration asks for, in the order that they are applied."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from exporter.batch.attributes import Attribute
from exporter.batch.batch import FlowBatch, Interface
from exporter.enrich.base import AddressSource, Enricher, Reading
from exporter.enrich.config import EnrichConfig
from exporter.enrich.ends import EndEnricher
from exporter.enrich.interfaces import InterfaceNames
from exporter.enrich.observer import AgentConfig, ObserverName

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surroundings:
    """
    What enrichers may ask the rest of the agent.

    Args:
        names: (namespace number, ifindex) -> interface, as of now.
    """

    names: Callable[[], Mapping[tuple[int, int], Interface]]


#: Of an enrichment that is only asked what it would add.
NOWHERE = Surroundings(names=dict)


def make(config: EnrichConfig, agent: AgentConfig, around: Surroundings) -> Enrichment:
    """Every enricher that is asked for, not opened yet."""
    enrichers: list[Enricher] = [InterfaceNames(around.names), ObserverName(agent)]
    sources = _sources(config)
    if sources:
        enrichers.append(EndEnricher(*sources))
    return Enrichment(enrichers)


def attributes_of(config: EnrichConfig, agent: AgentConfig) -> tuple[Attribute, ...]:
    """
    What the enrichers that are asked for add, also what users name themselves. Opens nothing.

    Raises:
        ConfigError: If one cannot be made as it is configured.
    """
    return make(config, agent, NOWHERE).attributes


def _sources(_config: EnrichConfig) -> list[AddressSource]:
    """What is known of addresses, whichever end of a flow they are."""
    return []


class Enrichment:
    """
    Enrichers, one after the other.

    Args:
        enrichers: In order: each after those that provide what it requires. No two own the same
            object of a record.
    """

    def __init__(self, enrichers: list[Enricher]) -> None:
        self._enrichers = tuple(enrichers)
        self._seconds = dict.fromkeys((one.name for one in enrichers), 0.0)
        self._opened: list[Enricher] = []
        _check(self._enrichers)

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """All that can be added, in the order of the enrichers."""
        return tuple(what for enricher in self._enrichers for what in enricher.attributes)

    def open(self) -> None:
        """
        Open all.

        Raises:
            ExporterError: If one can never work; those before it are closed then.
        """
        try:
            for enricher in self._enrichers:
                self._opened.append(enricher)
                enricher.open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all, in the other order. Again is fine."""
        while self._opened:
            self._opened.pop().close()

    def apply(self, batch: FlowBatch) -> FlowBatch:
        """The batch with everything added; the same rows in the same order."""
        for enricher in self._enrichers:
            begun = time.monotonic()
            batch = enricher.apply(batch)
            self._seconds[enricher.name] += time.monotonic() - begun
        return batch

    def readings(self) -> dict[str, Reading]:
        """By name; sources of one enricher each have their own."""
        found: dict[str, Reading] = {}
        for enricher in self._enrichers:
            if isinstance(enricher, EndEnricher):
                found |= enricher.readings()
            else:
                found[enricher.name] = Reading(enricher.state(), self._seconds[enricher.name])
        return found


def _check(enrichers: tuple[Enricher, ...]) -> None:
    there = {"key", "point_lists", "points", "window"}
    taken: set[str] = set()
    for enricher in enrichers:
        missing = sorted(set(enricher.requires) - there)
        assert not missing, f"{enricher.name} comes before what it requires: {missing}"
        there.update(enricher.provides)
        alone = (enricher.attributes,)
        for attributes in enricher.groups() if isinstance(enricher, EndEnricher) else alone:
            owned = {what.owned for what in attributes}
            assert not owned & taken, f"provided by two: {sorted(owned & taken)}"
            taken |= owned
