"""
All enrichers that a configuration asks for, in the order that they are applied.

Each is imported when it is asked for: an agent has none of the others in memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from exporter.batch.attributes import Attribute
from exporter.batch.batch import FlowBatch, Interface
from exporter.capture.dns import DnsPackets
from exporter.capture.owners import OwnerReader
from exporter.enrich.base import AddressSource, Enricher, Reading
from exporter.enrich.config import EnrichConfig
from exporter.enrich.ends import EndEnricher
from exporter.enrich.guard import Guard
from exporter.enrich.guard import apply as guarded
from exporter.enrich.identity.config import IdentityConfig
from exporter.enrich.interfaces import InterfaceNames
from exporter.enrich.labels import Labels
from exporter.enrich.observer import AgentConfig, ObserverName

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surroundings:
    """
    What enrichers may ask the rest of the agent.

    Args:
        names: (namespace number, ifindex) -> interface, as of now.
        dns: What the kernel program copied of DNS since the last time.
        owners: Sockets of the last drain's flows; ``None`` where nothing is captured.
    """

    names: Callable[[], Mapping[tuple[int, int], Interface]]
    dns: Callable[[], DnsPackets] = lambda: DnsPackets([])
    owners: Callable[[], OwnerReader | None] = lambda: None


#: Of an enrichment that is only asked what it would add.
NOWHERE = Surroundings(names=dict)


def make(config: EnrichConfig, agent: AgentConfig, around: Surroundings) -> Enrichment:
    """Every enricher that is asked for, not opened yet."""
    enrichers: list[Enricher] = [InterfaceNames(around.names), ObserverName(agent)]
    if agent.cloud.wanted():
        from exporter.enrich.cloud.enricher import CloudPlace

        enrichers.append(CloudPlace(agent.cloud))
    if config.processes is not None:
        from exporter.enrich.process import Processes

        enrichers.append(Processes(config.processes, around.owners))
    sources = _sources(config, around)
    if sources:
        enrichers.append(EndEnricher(*sources))
    enrichers += _identities(config.identity)
    # After who began is known: the responder's port names the service.
    if config.services is not None:
        from exporter.enrich.services.enricher import ServiceNames

        enrichers.append(ServiceNames(config.services))
    enrichment = Enrichment(enrichers)
    enrichment.use(labels(config, enrichment))
    return enrichment


def labels(config: EnrichConfig, enrichment: Enrichment) -> Labels | None:
    """
    What users say, from what an enrichment adds.

    Raises:
        ConfigError: If an expression is wrong.
    """
    if not config.labels and not config.derive:
        return None
    return Labels(config.labels, config.derive, enrichment.attributes(but=Labels.name))


def attributes_of(config: EnrichConfig, agent: AgentConfig) -> tuple[Attribute, ...]:
    """
    What the enrichers that are asked for add, also what users name themselves. Opens nothing.

    Raises:
        ConfigError: If one cannot be made as it is configured.
    """
    return make(config, agent, NOWHERE).attributes()


def _sources(config: EnrichConfig, around: Surroundings) -> list[AddressSource]:
    """What is known of addresses, whichever end of a flow they are."""
    sources: list[AddressSource] = []
    if config.kubernetes is not None:
        from exporter.enrich.kubernetes.source import KubernetesSource

        sources.append(KubernetesSource(config.kubernetes))
    if config.names is not None:
        from exporter.enrich.dns.names import Names

        sources.append(Names(config.names, around.dns))
    if config.networks is not None:
        from exporter.enrich.networks.source import NetworkNames

        sources.append(NetworkNames(config.networks))
    if config.geoip is not None:
        from exporter.enrich.geoip.source import sources as geoip_sources

        sources += geoip_sources(config.geoip)
    return sources


def _identities(config: IdentityConfig) -> list[Enricher]:
    """What a flow is, from the flow alone."""
    found: list[Enricher] = []
    if config.community_id:
        from exporter.enrich.identity.community import CommunityId

        found.append(CommunityId(config.community_seed, base64=config.community_base64))
    if config.flow_id:
        from exporter.enrich.identity.flow_id import FlowId

        found.append(FlowId())
    if config.initiator:
        from exporter.enrich.identity.initiator import Initiator

        found.append(Initiator(config.connections, int(config.expiry * 1e9)))
    return found


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
        self._guard = Guard()
        _check(self._enrichers)

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

    def attributes(self, but: str = "") -> tuple[Attribute, ...]:
        """What all add, or all but the one of a name."""
        others = (enricher for enricher in self._enrichers if enricher.name != but)
        return tuple(what for enricher in others for what in enricher.attributes)

    def use(self, labels: Labels | None) -> None:
        """Other labels than before, from the next batch on; after everything else."""
        others = tuple(one for one in self._enrichers if one.name != Labels.name)
        enrichers = (*others, labels) if labels else others
        _check(enrichers)
        self._seconds.setdefault(Labels.name, 0.0)
        self._enrichers = enrichers

    def close(self) -> None:
        """Close all, in the other order. Again is fine."""
        while self._opened:
            self._opened.pop().close()

    def apply(self, batch: FlowBatch) -> FlowBatch:
        """The batch with everything added; the same rows in the same order, whatever happens."""
        for enricher in self._enrichers:
            begun = time.monotonic()
            batch = self._guard.call(enricher.name, batch, guarded, enricher.apply, batch)
            self._seconds[enricher.name] += time.monotonic() - begun
        return batch

    def readings(self) -> dict[str, Reading]:
        """By name; sources of one enricher each have their own."""
        found: dict[str, Reading] = {}
        for enricher in self._enrichers:
            name = enricher.name
            if isinstance(enricher, EndEnricher):
                found |= enricher.readings()
            else:
                found[name] = Reading(enricher.state(), self._seconds[name])
            found[name] = self._guard.reading(name, found[name].state, found[name].seconds)
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
