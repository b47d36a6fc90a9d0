"""Names of either end of a flow: what answers on the wire said, else what a DNS server says."""

from __future__ import annotations

import numpy as np

from exporter.batch.attributes import EndAttribute
from exporter.enrich.base import Addresses, Found, State
from exporter.enrich.dns.config import NamesConfig
from exporter.enrich.dns.passive import PassiveNames, ReadDns
from exporter.enrich.dns.reverse import ReverseNames

DOMAIN = EndAttribute(
    "domain",
    "Name that a host asked for and was answered this address, else what reverse DNS says.",
    "DnsName",
    "{}.name",
)


class Names:
    """
    Names of addresses.

    Args:
        config: Where from.
        read: What the kernel program copied of DNS since the last time.
    """

    name = "names"
    attributes: tuple[EndAttribute, ...] = (DOMAIN,)

    def __init__(self, config: NamesConfig, read: ReadDns) -> None:
        self.passive = PassiveNames(config, read) if config.passive else None
        self.reverse = ReverseNames(config.reverse) if config.reverse is not None else None
        self._hits = self._misses = 0

    def open(self) -> None:
        """
        Begin to learn and to ask.

        Raises:
            ConfigError: If reverse names are wanted and there is no resolver.
        """
        for part in (self.passive, self.reverse):
            if part is not None:
                part.open()

    def close(self) -> None:
        """Stop both. Again is fine."""
        for part in (self.passive, self.reverse):
            if part is not None:
                part.close()

    def state(self) -> State:
        """Of both together."""
        parts = [part.state() for part in (self.passive, self.reverse) if part is not None]
        return State(
            problem="; ".join(part.problem for part in parts if part.problem),
            hits=self._hits,
            misses=self._misses,
            evictions=sum(part.evictions for part in parts),
            entries=sum(part.entries for part in parts),
            events={name: count for part in parts for name, count in part.events.items()},
        )

    def look_up(self, addresses: Addresses) -> Found:
        """The names that hold in the addresses' window. Everything that was seen is read first."""
        numbers = np.zeros(len(addresses), np.uint32)
        names: tuple[str | None, ...] = (None,)
        if self.passive is not None:
            self.passive.catch_up()
            numbers, names = self.passive.find(addresses)
        if self.reverse is not None:
            other, further = self.reverse.find(addresses, numbers == 0)
            numbers = np.where(other > 0, other + np.uint32(len(names) - 1), numbers)
            names += further[1:]
        known = int(np.count_nonzero(numbers))
        self._hits += known
        self._misses += len(addresses) - known
        return Found(numbers, {DOMAIN: names})
