"""Tables of service names: read, and made ready for whole batches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import U1, U2
from exporter.batch.record import SCTP, TCP, UDP
from exporter.enrich.files import read_octets
from exporter.enrich.services.wellknown import WELL_KNOWN
from exporter.errors import ConfigError

PROTOCOLS = {"tcp": TCP, "udp": UDP, "sctp": SCTP}
_LARGEST = 16 << 20
_LINE = re.compile(r"(\S{1,64})\s+([0-9]{1,5})/(\S+)")


class Service(NamedTuple):
    """``protocol`` is IANA's number."""

    protocol: int
    port: int
    name: str


def well_known() -> Iterator[Service]:
    """Those that come with the agent."""
    for line in WELL_KNOWN.splitlines():
        port, name, *protocols = line.split()
        for protocol in protocols:
            yield Service(PROTOCOLS[protocol], int(port), name)


def parse_place(text: str) -> tuple[tuple[int, ...], int]:
    """
    Protocols and port of ``tcp/9092``, or of ``9092`` for all protocols.

    Raises:
        ValueError: If it is neither.
    """
    protocol, _, port = text.rpartition("/")
    known = tuple(PROTOCOLS.values()) if not protocol else (PROTOCOLS.get(protocol.lower(), 0),)
    if not (port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 1 << 16) or (
        0 in known
    ):
        raise ValueError(f"{text[:80]!r} is not a port such as tcp/9092 or 9092")
    return known, int(port)


def read_services(path: Path) -> tuple[Service, ...]:
    """
    A file in the form of services(5). Other protocols than those with ports here are left out.

    Raises:
        ConfigError: On the first line that is not of that form.
    """
    try:
        lines = read_octets(path, _LARGEST).decode().splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text in UTF-8") from None
    found = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].strip()
        match = _LINE.match(words)
        if words and (match is None or int(match[2]) >= 1 << 16):
            raise ConfigError(f"{path}:{number}: {words[:80]!r} is not NAME PORT/PROTOCOL")
        if match is not None and match[3] in PROTOCOLS:
            found.append(Service(PROTOCOLS[match[3]], int(match[2]), match[1]))
    return tuple(found)


class ServiceTable:
    """
    Names by protocol and port. Never changes.

    Args:
        services: Of two with one place the later is used.
    """

    def __init__(self, services: Iterable[Service]) -> None:
        places = {(service.protocol, service.port): service.name for service in services}
        #: The first is no name.
        self.names: tuple[str | None, ...] = (None, *dict.fromkeys(places.values()))
        numbers = {name: number for number, name in enumerate(self.names)}
        #: Row 0 of the table is for protocols without ports.
        self._row = np.zeros(256, np.uint32)
        self._row[list(PROTOCOLS.values())] = np.arange(1, len(PROTOCOLS) + 1) << 16
        self._table = np.zeros((len(PROTOCOLS) + 1) << 16, np.uint32)
        for (protocol, port), name in places.items():
            self._table[self._row[protocol] + port] = numbers[name]
        self.entries = len(places)

    def rows(self, protocols: U1) -> NDArray[np.uint32]:
        """Where in the table each row's protocol begins: ``protocols`` of shape (n,)."""
        return np.asarray(self._row[protocols])

    def find(self, rows: NDArray[np.uint32], ports: U2) -> NDArray[np.uint32]:
        """Places in ``names``, 0 for none: ``rows`` of :meth:`rows` and ports, both (n,)."""
        return np.asarray(self._table[rows + ports])
