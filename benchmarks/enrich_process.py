"""What finding the process and container of flows costs; see ``bench_enrich``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from exporter.batch.batch import FlowBatch
from exporter.capture.cgroups import Belonging
from exporter.capture.owners import Owned, OwnerReader, Sockets
from exporter.capture.sockets import Owner, SocketTable, SocketWatcher
from exporter.enrich.base import AddressSource, Enricher
from exporter.enrich.process import ProcessConfig, Processes

_PROCESSES = 500


class _EveryFlow(OwnerReader):
    """Every flow is of a socket; ``sockets`` of them, in turn. Noting them is measured, too."""

    def __init__(self, sockets: int, table: SocketTable) -> None:
        super().__init__()
        self._sockets = sockets
        self._table = table

    def ends(self, batch: FlowBatch) -> tuple[Sockets, Sockets]:
        """As if the kernel program had noted those of this drain."""
        rows = np.arange(len(batch), dtype=np.uint64)
        cookies = rows % np.uint64(self._sockets) + np.uint64(1)
        starts, cgroups = batch.flow_start_ns, cookies % np.uint64(_PROCESSES)
        # As on any host: sockets come and go between two drains.
        self._table.put(self._sockets, self._table.owner(self._sockets) or Owner(), 1)
        self.note(Owned(batch.key_words(), starts, cookies, cgroups), (1 << 64) - 1, 0)
        return super().ends(batch)


class _Watcher(SocketWatcher):
    """Knows all sockets already."""

    def __init__(self, sockets: int) -> None:
        super().__init__(room=1 << 17)
        for cookie in range(1, sockets + 1):
            number = cookie % _PROCESSES
            self.table.put(
                cookie, Owner(number, f"command-{number}", Belonging(f"{number:064x}")), 1
            )

    def open(self) -> None:
        """There is nothing to watch."""

    def close(self) -> None:
        """Nothing."""


def enrichers() -> list[tuple[str, Callable[[int], AddressSource | Enricher]]]:
    """Every row has a socket at its source; as many sockets as distinct addresses."""

    def make(distinct: int) -> Enricher:
        watcher = _Watcher(distinct)
        reader = _EveryFlow(distinct, watcher.table)
        return Processes(ProcessConfig(), lambda: reader, watcher)

    return [("processes", make)]
