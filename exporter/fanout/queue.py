"""
Batches that wait for one destination, bounded in rows, and the account of what became of them.

Every number changes under one lock, so that queued = delivered + dropped + pending at any moment,
and ``pending`` is counted from the batches themselves.
"""

from __future__ import annotations

import threading
from collections import deque

from exporter.batch.batch import FlowBatch, Totals
from exporter.fanout.config import QueueConfig
from exporter.ledger import SinkCounts


class BatchQueue:
    """
    One producer, one consumer, which holds at most one batch.

    Args:
        config: Bound and policy.
    """

    def __init__(self, config: QueueConfig) -> None:
        self._config = config
        self._changed = threading.Condition()
        self._waiting: deque[FlowBatch] = deque()
        self._waiting_rows = 0
        self._held = Totals()
        self._queued = Totals()
        self._delivered = Totals()
        self._dropped: dict[str, Totals] = {}
        self._closed = False

    def put(self, batch: FlowBatch) -> None:
        """Add a batch. Never blocks: what does not fit is dropped and counted."""
        with self._changed:
            self._queued += batch.totals
            if self._config.when_full == "drop_newest":
                batch = self._fitting(batch)
            if len(batch):
                self._waiting.append(batch)
                self._waiting_rows += len(batch)
            self._drop_oldest()
            self._changed.notify_all()

    def take(self) -> FlowBatch | None:
        """
        Wait for the next batch and hold it; book it with :meth:`delivered`, :meth:`dropped` and
        :meth:`drop_held`.

        Returns:
            ``None`` once the queue is closed and empty.
        """
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            batch = self._waiting.popleft()
            self._waiting_rows -= len(batch)
            self._held += batch.totals
            return batch

    def delivered(self, totals: Totals) -> None:
        """Rows of the held batch that the destination has."""
        with self._changed:
            self._held -= totals
            self._delivered += totals
            self._changed.notify_all()

    def dropped(self, reason: str, totals: Totals) -> None:
        """Rows of the held batch that are given up."""
        with self._changed:
            self._held -= totals
            self._book_drop(reason, totals)
            self._changed.notify_all()

    def drop_held(self, reason: str) -> None:
        """Give up what is left of the held batch, and count it."""
        with self._changed:
            if self._held.flows:
                self._book_drop(reason, self._held)
                self._held = Totals()
            self._changed.notify_all()

    def close(self) -> None:
        """No more batches come. The consumer gets what waits, then ``None``."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_empty(self, timeout: float) -> bool:
        """
        Wait until nothing is pending, at most ``timeout`` seconds. Returns whether nothing is.
        """
        with self._changed:
            return self._changed.wait_for(self._nothing_pending, timeout)

    def counts(self) -> SinkCounts:
        """The account. ``pending`` is counted from the batches that wait and are held."""
        with self._changed:
            pending = sum((batch.totals for batch in self._waiting), self._held)
            return SinkCounts(self._queued, self._delivered, pending, dict(self._dropped))

    def _nothing_pending(self) -> bool:
        return not self._waiting and self._held.flows == 0

    def _room(self) -> int:
        return self._config.rows - self._waiting_rows - self._held.flows

    def _fitting(self, batch: FlowBatch) -> FlowBatch:
        room = max(self._room(), 0)
        if len(batch) > room:
            self._book_drop("queue_full", batch.take(slice(room, None)).totals)
            batch = batch.take(slice(room))
        return batch

    def _drop_oldest(self) -> None:
        excess = -self._room()
        while excess > 0 and self._waiting:
            oldest = self._waiting.popleft()
            gone = min(excess, len(oldest))
            self._book_drop("queue_full", oldest.take(slice(gone)).totals)
            if gone < len(oldest):
                self._waiting.appendleft(oldest.take(slice(gone, None)))
            self._waiting_rows -= gone
            excess -= gone

    def _book_drop(self, reason: str, totals: Totals) -> None:
        self._dropped[reason] = self._dropped.get(reason, Totals()) + totals
