"""How far a sink is with what an earlier agent left in its spool: lines for the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from exporter.ledger import SinkCounts

log = logging.getLogger(__name__)

#: Seconds between two lines.
EVERY = 10.0


class CatchingUp:
    """
    Tells of one sink. What was left is delivered before everything else, so that what it has
    delivered or given up is of that as long as it is less.

    Args:
        name: Of the sink.
        counts: Its account.
    """

    def __init__(self, name: str, counts: Callable[[], SinkCounts]) -> None:
        self._name = name
        self._counts = counts
        self._whole = 0
        self._began = self._told = 0.0

    def begin(self) -> None:
        """The spool was looked through."""
        left = self._counts()
        if left.recovered.flows <= _settled(left):
            return
        self._whole = left.recovered.flows
        self._began = self._told = time.monotonic()
        log.info("sink %s: %d flows of an earlier agent wait in its spool", self._name, self._whole)

    def look(self) -> None:
        """Some more rows were delivered or given up."""
        if not self._whole:
            return
        settled, now = _settled(self._counts()), time.monotonic()
        rate = settled / max(now - self._began, 1e-3)
        if settled >= self._whole:
            log.info(
                "sink %s: replayed the spool of an earlier agent: %d flows in %.1f s, %d flows/s",
                self._name, self._whole, now - self._began, rate,
            )  # fmt: skip
            self._whole = 0
        elif now - self._told >= EVERY:
            self._told = now
            log.info(
                "sink %s: %d %% of %d flows of an earlier agent are replayed, %d flows/s",
                self._name, 100 * settled // self._whole, self._whole, rate,
            )  # fmt: skip


def _settled(counts: SinkCounts) -> int:
    return counts.delivered.flows + counts.dropped_total.flows
