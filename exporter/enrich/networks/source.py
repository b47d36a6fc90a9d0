"""Says which network an address is of."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from exporter.batch.attributes import EndAttribute
from exporter.enrich.base import Addresses, Found, State
from exporter.enrich.files import Files
from exporter.enrich.networks.config import NetworksConfig
from exporter.enrich.networks.prefixes import PrefixTable, Row
from exporter.enrich.networks.tables import read_table


class NetworkNames:
    """
    Looks addresses up in one table, made of the configuration and all files.

    Of equal prefixes the configuration's is the last, and files come in the order given: what is
    written by hand wins over what a provider publishes.

    Args:
        config: Nothing is read before :meth:`open`.
    """

    name = "networks"

    def __init__(self, config: NetworksConfig) -> None:
        self.attributes: tuple[EndAttribute, ...] = config.attributes()
        self._rows = config.rows()
        self._files = Files(config.files, lambda path: read_table(path, self.attributes), self._use)
        self._table = PrefixTable(self._rows, self.attributes)
        self._hits = self._misses = 0

    def open(self) -> None:
        """Read the files. One that cannot be used is a problem, no error: it may come later."""
        self._files.open()

    def close(self) -> None:
        """Watch the files no more."""
        self._files.close()

    def state(self) -> State:
        """``hits`` are addresses that a prefix holds, ``entries`` prefixes."""
        return State(
            self._files.problem, hits=self._hits, misses=self._misses, entries=len(self._table)
        )

    def look_up(self, addresses: Addresses) -> Found:
        """What is said of each address now."""
        table = self._table
        found = table.look_up(addresses)
        hits = int((found.numbers != 0).sum())
        self._hits += hits
        self._misses += len(addresses) - hits
        return found

    def _use(self, tables: Mapping[Path, tuple[Row, ...]]) -> None:
        rows = chain.from_iterable((*tables.values(), self._rows))
        self._table = PrefixTable(rows, self.attributes)
