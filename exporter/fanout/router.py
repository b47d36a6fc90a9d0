"""One batch to every sink; none of them can hold up another, or the capture."""

from __future__ import annotations

import time
from collections.abc import Sequence

from exporter.batch.batch import FlowBatch, Totals
from exporter.fanout.worker import SinkWorker
from exporter.ledger import Ledger


class Router:
    """
    Publishes batches and books them.

    Args:
        workers: One for each sink, not started.
        ledger: Where to book; learns of every sink here.
    """

    def __init__(self, workers: Sequence[SinkWorker], ledger: Ledger) -> None:
        self.workers = tuple(workers)
        self._ledger = ledger
        for worker in self.workers:
            ledger.add_sink(worker.sink.name, worker.queue.counts)

    def start(self) -> None:
        """Start every sink, or none. Raises ExporterError if one can never work."""
        started: list[SinkWorker] = []
        try:
            for worker in self.workers:
                worker.start()
                started.append(worker)
        except BaseException:
            for worker in started:
                worker.stop(0)
            raise

    def publish(self, batch: FlowBatch, drained: Totals) -> None:
        """
        Give a batch to every sink.

        Args:
            batch: What is passed on.
            drained: What the drain brought before deduplication.
        """
        with self._ledger.booking():
            self._ledger.book(drained, batch.totals)
            if len(batch):
                for worker in self.workers:
                    worker.queue.put(batch)

    def stop(self, timeout: float) -> None:
        """Let the sinks deliver what waits, all of them within ``timeout`` seconds together."""
        deadline = time.monotonic() + timeout
        for worker in self.workers:
            worker.queue.close()
        for worker in self.workers:
            worker.stop(max(deadline - time.monotonic(), 0))
