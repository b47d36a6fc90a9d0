"""
Names from the answers that hosts get, as they are seen on the wire.

A thread reads what the kernel copied four times a second, and a drain reads the rest: every answer
that was seen before the drain counts in it. What one reading can hold is bounded by the ring.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from exporter.capture.dns import DnsPackets
from exporter.ebpf.errors import BpfError
from exporter.enrich.base import Addresses, State
from exporter.enrich.dns.config import NamesConfig
from exporter.enrich.dns.exchanges import Exchanges
from exporter.enrich.dns.table import Lifetime, NameTable

log = logging.getLogger(__name__)

#: Seconds between readings; seconds that a loss is a problem.
_INTERVAL, _RECENT = 0.25, 60.0

ReadDns = Callable[[], DnsPackets]


class PassiveNames:
    """
    What answers said.

    Args:
        config: Sizes and times.
        read: What was copied since the last time.
        clock: Seconds, for how long ago something was lost.
    """

    def __init__(
        self, config: NamesConfig, read: ReadDns, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost, self._lost_at = 0, float("-inf")
        self._trouble = ""
        self._size = config.ring_size
        self.exchanges = Exchanges(config.ports, require_query=config.require_query)
        self.table = NameTable(
            config.addresses, Lifetime(config.minimum, config.maximum, config.grace)
        )

    def open(self) -> None:
        """Begin to read."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="dns", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop. Again is fine."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            log.debug("DNS messages: %s", self.exchanges.counts)

    def catch_up(self) -> None:
        """Read what waits."""
        with self._lock:
            try:
                packets = self._read()
            except (BpfError, OSError) as err:
                self._trouble = f"DNS packets cannot be read: {err}"
                return
            self._trouble = ""
            for name, addresses, ttl, time_ns in self.exchanges.feed(packets.packets):
                for address in addresses:
                    self.table.learn(address, name, ttl, time_ns)
            if packets.lost > self._lost:
                self._lost, self._lost_at = packets.lost, self._clock()

    def find(self, addresses: Addresses) -> tuple[NDArray[np.uint32], tuple[str | None, ...]]:
        """Names that hold, as ``NameTable.names``."""
        with self._lock:
            return self.table.names(self.table.find(addresses))

    def state(self) -> State:
        """What it holds, and whether something was lost in the last minute."""
        problem = self._trouble
        if not problem and self._clock() - self._lost_at < _RECENT:
            problem = (
                f"{self._lost} DNS packets were lost since the start, the last of them within a "
                f"minute: names are missing; enrich.names.ring_size is {self._size}"
            )
        return State(
            problem, evictions=self.table.evictions, entries=len(self.table), events=self._events()
        )

    def _events(self) -> dict[str, int]:
        streams = self.exchanges.streams
        return {
            **vars(self.exchanges.counts),
            "broken_streams": streams.broken,
            "unknown_segments": streams.unknown,
            "lost": self._lost,
        }

    def _run(self) -> None:
        while not self._stop.wait(_INTERVAL):
            self.catch_up()
