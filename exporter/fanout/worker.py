"""
One thread per sink: takes batches from its queue, encodes them, and delivers message by message
until the destination has each of them.

At least once: a message whose answer was lost is delivered again. A slow or dead destination stops
this thread only.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from exporter.batch.batch import FlowBatch
from exporter.errors import SinkError
from exporter.fanout.config import RetryConfig
from exporter.fanout.contract import Message, Sink
from exporter.fanout.queue import BatchQueue

log = logging.getLogger(__name__)

#: A destination that stays away is mentioned this often, in seconds.
_REMIND = 30.0


class SinkWorker:
    """
    Drives one sink.

    Args:
        sink: Opened by :meth:`start`, closed by :meth:`stop`.
        queue: What to deliver.
        retry: How to be patient.
        on_closed: Called when the destination is gone for good (reason ``closed``).
        on_settled: Called when rows were delivered or given up.
    """

    def __init__(
        self,
        sink: Sink,
        queue: BatchQueue,
        retry: RetryConfig,
        on_closed: Callable[[], None] = lambda: None,
        on_settled: Callable[[], None] = lambda: None,
    ) -> None:
        self.sink = sink
        self.queue = queue
        self.healthy = True
        self.retries = 0
        self._retry = retry
        self._on_closed = on_closed
        self._on_settled = on_settled
        self._give_up = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._mentioned = -_REMIND

    def start(self) -> None:
        """Open the sink and begin. Raises ExporterError if it can never work."""
        self.sink.open()
        self._thread = threading.Thread(
            target=self._run, name=f"sink {self.sink.name}", daemon=True
        )
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """
        Deliver what waits, for at most ``timeout`` seconds, then give up and count the rest.

        Again is fine.
        """
        self.queue.close()
        if self._thread is None:
            return
        self.queue.wait_empty(timeout)
        self._give_up.set()
        self.sink.close()
        self._thread.join()
        self._thread = None

    def _run(self) -> None:
        while (batch := self.queue.take()) is not None:
            try:
                self._send(batch)
            except Exception:
                # A mistake in a sink costs one batch, not the sink.
                log.exception("sink %s: a batch could not be sent", self.sink.name)
            # What is left of a batch that was delivered is nothing.
            self.queue.drop_held(self._why_stopped() or "internal")
            self._on_settled()

    def _send(self, batch: FlowBatch) -> None:
        if self._why_stopped():
            return
        for message in self.sink.encode(batch):
            self._deliver(message)
            if self._why_stopped():
                return

    def _why_stopped(self) -> str:
        """Why nothing more is delivered; empty if it is."""
        return "closed" if self._closed else "shutdown" if self._give_up.is_set() else ""

    def _deliver(self, message: Message) -> None:
        wait = self._retry.first
        while not self._why_stopped():
            try:
                self.sink.deliver(message, self._retry.timeout)
            except SinkError as err:
                if err.reason == "too_large":
                    self._deliver_split(message)
                    return
                if not err.retryable:
                    self._drop(message, err)
                    return
                self._complain(err)
                self.retries += 1
                self._give_up.wait(wait * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
                wait = min(2 * wait, self._retry.longest)
            else:
                self._book_success(message)
                return

    def _deliver_split(self, message: Message) -> None:
        parts = list(self.sink.split(message))
        if not parts:
            self.queue.dropped("too_large", message.rows.totals)
            return
        for part in parts:
            self._deliver(part)

    def _book_success(self, message: Message) -> None:
        self.queue.delivered(message.rows.totals)
        self._on_settled()
        if not self.healthy:
            self.healthy = True
            self._mentioned = -_REMIND
            log.info("sink %s delivers again", self.sink.name)

    def _drop(self, message: Message, err: SinkError) -> None:
        # A destination that took only some does not say which: the first ones stand for them.
        lost = message.rows.take(slice(err.rows)).totals
        self.queue.dropped(err.reason, lost)
        if lost.flows < len(message.rows):
            self.queue.delivered(message.rows.totals - lost)
        if err.reason == "closed":
            self._closed = True
            self._on_closed()
            return
        self._complain(err)

    def _complain(self, err: SinkError) -> None:
        self.healthy = False
        if time.monotonic() - self._mentioned >= _REMIND:
            self._mentioned = time.monotonic()
            log.warning("sink %s: %s", self.sink.name, err)
