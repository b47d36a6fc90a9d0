"""
Says which service a flow is of, by the port of the end that serves.

That is the end that did not begin the connection, where it is known who began; else, of two ports
that have a name, the lower one, as servers' ports are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporter.batch.attributes import Attribute, Entities
from exporter.batch.batch import FlowBatch
from exporter.enrich.base import State
from exporter.enrich.chosen import chosen
from exporter.enrich.files import Files
from exporter.enrich.services.config import ServicesConfig
from exporter.enrich.services.names import (
    Service,
    ServiceTable,
    parse_place,
    read_services,
    well_known,
)

#: ECS's name for what is guessed from a port: OpenTelemetry's network.protocol.name is what was
#: spoken. OBI has the guess under that name.
APPLICATION = Attribute(
    "network.application",
    "Service registered for the port of the end that serves.",
    "Service",
    "network.protocol.name",
)
#: What another enricher calls who began; its values are ``source`` and ``destination``.
INITIATOR = "flow.initiator"


class ServiceNames:
    """
    Looks every row's ports up in one table.

    Comes after what finds out who began a connection, where there is such an enricher.

    Args:
        config: Nothing is read before :meth:`open`.
    """

    name = "services"
    requires: tuple[str, ...] = ("key",)
    provides: tuple[str, ...] = ("entities",)
    attributes: tuple[Attribute, ...] = (APPLICATION,)

    def __init__(self, config: ServicesConfig) -> None:
        self._named = tuple(
            Service(protocol, port, name)
            for place, name in config.names.items()
            for protocols, port in [parse_place(place)]
            for protocol in protocols
        )
        paths = (config.file,) if config.file is not None else ()
        self._files = Files(paths, read_services, self._use)
        self._table = ServiceTable((*well_known(), *self._named))
        self._hits = self._misses = 0

    def open(self) -> None:
        """Read the file, if there is one. If it cannot be used, the agent's own names are."""
        self._files.open()

    def close(self) -> None:
        """Watch the file no more."""
        self._files.close()

    def state(self) -> State:
        """``hits`` are rows with a name, ``misses`` rows with ports and none."""
        return State(
            self._files.problem, hits=self._hits, misses=self._misses, entries=self._table.entries
        )

    def apply(self, batch: FlowBatch) -> FlowBatch:
        """Add the names."""
        table = self._table
        rows = table.rows(batch.ip_protocol)
        numbers = _serving(
            table.find(rows, batch.src_port),
            table.find(rows, batch.dst_port),
            batch.src_port < batch.dst_port,
            _initiators(batch),
        )
        hits = int(np.count_nonzero(numbers))
        self._hits += hits
        self._misses += int(np.count_nonzero(rows)) - hits
        if not hits:
            return batch
        added = Entities(*chosen(numbers, {APPLICATION: table.names}))
        return replace(batch, entities=(*batch.entities, added))

    def _use(self, files: Mapping[Path, tuple[Service, ...]]) -> None:
        services = [service for file in files.values() for service in file]
        self._table = ServiceTable((*services, *self._named))


def _serving(
    source: NDArray[np.uint32],
    destination: NDArray[np.uint32],
    source_is_lower: NDArray[np.bool_],
    initiators: NDArray[np.uint8] | None,
) -> NDArray[np.uint32]:
    """The number of the end that serves: all of shape (n,); 0 is none."""
    by_port = np.where((source != 0) & (source_is_lower | (destination == 0)), source, destination)
    if initiators is None:
        return by_port
    return np.choose(initiators, (by_port, destination, source))


def _initiators(batch: FlowBatch) -> NDArray[np.uint8] | None:
    """1 where the source began, 2 where the destination did, else 0; ``None``: nobody looked."""
    for some in batch.entities:
        for attribute, values in some.values.items():
            if attribute.otel == INITIATOR:
                ends = {"source": 1, "destination": 2}
                codes = np.array([ends.get(str(value), 0) for value in values], np.uint8)
                return np.asarray(codes[some.rows])
    return None
