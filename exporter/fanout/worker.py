"""
One thread per sink: takes batches from its queue, encodes them, and delivers message by message
until the destination has each of them.

At least once: a message whose answer was lost is delivered again, and with a spool the batch of an
agent that was killed. A slow or dead destination stops this thread only.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from enum import StrEnum

from exporter.batch.batch import FlowBatch
from exporter.errors import SinkError
from exporter.fanout.catching_up import CatchingUp
from exporter.fanout.config import RetryConfig
from exporter.fanout.contract import Message, Sink
from exporter.fanout.queue import BatchQueue

log = logging.getLogger(__name__)

#: A destination that stays away is mentioned this often, in seconds.
_REMIND = 30.0


class Circuit(StrEnum):
    """Whether a destination takes what it is sent. One message at a time tries a broken one."""

    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


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
        self.circuit = Circuit.CLOSED
        self.last_error = ""
        self.retries = 0
        self._retry = retry
        self._on_closed = on_closed
        self._on_settled = on_settled
        self._give_up = threading.Event()
        self._closed = False
        self._releasing = False
        self._left: list[FlowBatch] = []
        self._thread: threading.Thread | None = None
        self._mentioned = -_REMIND
        self._catching_up = CatchingUp(sink.name, queue.counts)

    @property
    def healthy(self) -> bool:
        """Whether the latest delivery succeeded, or there was none."""
        return self.circuit is Circuit.CLOSED

    def open(self) -> None:
        """Open the sink and the queue. Raises ExporterError if one can never work."""
        self.sink.open()
        try:
            self.queue.open()
        except BaseException:
            self.sink.close()
            raise

    def start(self) -> None:
        """Open and begin. Raises ExporterError if it can never work."""
        self.open()
        self.begin()

    def begin(self) -> None:
        """Deliver from now on."""
        self._catching_up.begin()
        self.queue.pause(paused=False)
        self._thread = threading.Thread(
            target=self._run, name=f"sink {self.sink.name}", daemon=True
        )
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """
        Deliver what waits, for at most ``timeout`` seconds, then give up: what is in a spool stays
        there, and the rest is counted.

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
        self.queue.shut()

    def release(self, patience: float) -> None:
        """
        Deliver no more, for another worker to go on with the queue: no row is given up.

        Args:
            patience: Seconds for what is being delivered; then it is interrupted, and may come
                again.
        """
        if self._thread is None:
            return
        self._releasing = True
        self.queue.pause(paused=True)
        if self.healthy:
            self._thread.join(patience)
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
            if self._releasing:
                self.queue.put_back(self._left)
            if why := self._why_stopped():
                self.queue.abandon(why)
            # What is left of a batch that was delivered is nothing.
            self.queue.drop_held("internal")
            self._catching_up.look()
            self._on_settled()

    def _send(self, batch: FlowBatch) -> None:
        if self._why_stopped():
            return
        for message in self.sink.encode(batch):
            self._deliver(message)
            if self._why_stopped():
                return

    def _why_stopped(self) -> str:
        """Why nothing more is delivered; empty if it is, or if another worker does it."""
        if self._closed:
            return "closed"
        return "shutdown" if self._give_up.is_set() and not self._releasing else ""

    def _deliver(self, message: Message) -> None:
        wait = self._retry.first
        while not self._releasing and not self._why_stopped():
            if not self.healthy:
                self.circuit = Circuit.HALF_OPEN
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
        self._left.append(message.rows)

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
            self.circuit = Circuit.CLOSED
            self._mentioned = -_REMIND
            log.info("sink %s delivers again", self.sink.name)

    def _drop(self, message: Message, err: SinkError) -> None:
        if err.reason == "closed":
            self._closed = True
            self._fail(err)
            self._on_closed()
            return
        # A destination that took only some does not say which: the first ones stand for them.
        lost = message.rows.take(slice(err.rows)).totals
        self.queue.dropped(err.reason, lost)
        if lost.flows < len(message.rows):
            self.queue.delivered(message.rows.totals - lost)
        self._complain(err)

    def _fail(self, err: SinkError) -> None:
        self.circuit = Circuit.OPEN
        self.last_error = str(err)

    def _complain(self, err: SinkError) -> None:
        self._fail(err)
        if time.monotonic() - self._mentioned >= _REMIND:
            self._mentioned = time.monotonic()
            log.warning("sink %s: %s", self.sink.name, err)
