"""Names of addresses, for ``bench_enrich``: tables that know every second address of a batch."""

from __future__ import annotations

import time
from collections.abc import Callable

from exporter.capture.dns import DnsPackets
from exporter.enrich.base import AddressSource, Enricher
from exporter.enrich.dns.config import NamesConfig, ReverseConfig
from exporter.enrich.dns.names import Names
from exporter.enrich.dns.table import NameTable

_DAY = 86_400
#: 10.0.0.0 and 2001:db8::, as a table has them.
_FOUR, _SIX = 0xFFFF_0A00_0000, 0x2001_0DB8 << 96


def enrichers() -> list[tuple[str, Callable[[int], AddressSource | Enricher]]]:
    """Name, and a maker given the number of distinct addresses."""
    return [("names, passive", _passive), ("names, reverse", _reverse)]


def _passive(addresses: int) -> Names:
    made = Names(NamesConfig(addresses=max(addresses, 16)), lambda: DnsPackets([]))
    assert made.passive is not None
    _fill(made.passive.table, addresses)
    return made


def _reverse(addresses: int) -> Names:
    """Nothing is asked of the network: the other half has no name, and that is known, too."""
    config = ReverseConfig(
        networks=("all",), resolvers=("127.0.0.1:9",), addresses=max(2 * addresses, 16)
    )
    made = Names(NamesConfig(passive=False, reverse=config), lambda: DnsPackets([]))
    assert made.reverse is not None
    _fill(made.reverse.table, addresses, unnamed=True)
    return made


def _fill(table: NameTable, addresses: int, *, unnamed: bool = False) -> None:
    """The even ones of 10.0.0.0 and of 2001:db8:: on, half of each."""
    now = time.time_ns() - _DAY * 10**9 // 2
    for number in range(0, addresses, 2):
        for base in (_FOUR, _SIX):
            name = f"host-{number}.example.com"
            table.learn((base + number).to_bytes(16, "big"), name, _DAY, now)
            if unnamed:
                table.learn((base + number + 1).to_bytes(16, "big"), "", _DAY, now)
