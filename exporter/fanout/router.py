"""One batch to every sink; none of them can hold up another, or the capture."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from exporter.batch.batch import FlowBatch, Totals
from exporter.fanout.worker import SinkWorker
from exporter.ledger import Kept, Ledger, Removed

#: Seconds for what a sink is delivering when it is pointed elsewhere.
_PATIENCE = 2.0


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
        #: Held while a batch is on its way to the queues: sinks come and go in between.
        self._publishing = threading.Lock()
        #: Held while sinks are changed or stopped.
        self._changing = threading.Lock()
        self._stopped = False
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

    def publish(
        self,
        batch: FlowBatch,
        drained: Totals,
        removed: Removed | None = None,
        kept: Kept | None = None,
    ) -> None:
        """
        Give a batch to every sink.

        Args:
            batch: What is passed on.
            drained: What the drain brought before deduplication.
            removed: What became of the rest; without it, it was deduplicated away.
            kept: See :meth:`Ledger.book`.
        """
        with self._publishing:
            # To disk first: whoever asks for the balance does not wait for disks.
            places = [(worker.queue, worker.queue.store(batch)) for worker in self.workers]
            with self._ledger.booking():
                self._ledger.book(drained, batch.totals, removed, kept)
                if len(batch):
                    for queue, number in places:
                        queue.put(batch, number)

    def change(
        self,
        add: Sequence[SinkWorker],
        retarget: Sequence[SinkWorker],
        remove: Sequence[str],
        timeout: float,
    ) -> None:
        """
        Change the sinks. Blocks while they deliver what waits.

        Args:
            add: Not started.
            retarget: Not started; each takes over the queue of the one of its name, which it has.
            remove: Names.
            timeout: Seconds for those to deliver what waits.

        Raises:
            ExporterError: If a new one can never work; nothing was changed then.
        """
        with self._changing:
            if self._stopped:
                return
            self._open(add, retarget)
            leaving = [worker for worker in self.workers if worker.sink.name in remove]
            old = {worker.sink.name: worker for worker in self.workers}
            new = {worker.sink.name: worker for worker in retarget}
            with self._publishing, self._ledger.booking():
                stay = [worker for worker in self.workers if worker not in leaving]
                self.workers = (*(new.get(one.sink.name, one) for one in stay), *add)
                for worker in leaving:
                    self._ledger.remove_sink(worker.sink.name)
                for worker in add:
                    self._ledger.add_sink(worker.sink.name, worker.queue.counts)
            for worker in add:
                worker.begin()
            for worker in retarget:
                old[worker.sink.name].release(_PATIENCE)
                worker.begin()
            _stop(leaving, timeout)

    def stop(self, timeout: float) -> None:
        """Let the sinks deliver what waits, all of them within ``timeout`` seconds together."""
        with self._changing:
            self._stopped = True
            _stop(self.workers, timeout)

    @staticmethod
    def _open(add: Sequence[SinkWorker], retarget: Sequence[SinkWorker]) -> None:
        opened: list[SinkWorker] = []
        try:
            for worker in (*add, *retarget):
                worker.open()
                opened.append(worker)
        except BaseException:
            for worker in opened:
                worker.sink.close()
            for worker in add:
                worker.queue.shut()
            raise


def _stop(workers: Sequence[SinkWorker], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    for worker in workers:
        worker.queue.close()
    for worker in workers:
        worker.stop(max(deadline - time.monotonic(), 0))
