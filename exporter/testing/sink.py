"""A destination in memory that misbehaves on request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from exporter.batch.batch import FlowBatch, Totals
from exporter.errors import SinkError
from exporter.fanout.contract import Message


@dataclass(frozen=True)
class Misbehaviour:
    """
    What a destination does wrong.

    Args:
        failures: So many deliveries fail before one succeeds.
        reason: Of those failures.
        retryable: Of those failures.
        delay: Seconds that every delivery takes.
        largest: Rows in a message that is not refused as ``too_large``; 0 for any number.
    """

    failures: int = 0
    reason: str = "unavailable"
    retryable: bool = True
    delay: float = 0.0
    largest: int = 0


class RecordingSink:
    """
    Implements ``exporter.fanout.contract.Sink``: keeps what it is given.

    Safe to look at from any thread.

    Args:
        name: For counters.
        misbehaviour: None by default.
        rows_per_message: How many rows :meth:`encode` puts into one message at most.
    """

    def __init__(
        self,
        name: str = "recording",
        misbehaviour: Misbehaviour | None = None,
        rows_per_message: int = 1000,
    ) -> None:
        self.name = name
        self.opened = 0
        self.closed = 0
        self.attempts = 0
        self._wrong = misbehaviour or Misbehaviour()
        self._rows_per_message = rows_per_message
        self._failures_left = self._wrong.failures
        self._messages: list[Message] = []
        self._changed = threading.Condition()

    @property
    def messages(self) -> list[Message]:
        """What was delivered, in order."""
        with self._changed:
            return list(self._messages)

    @property
    def totals(self) -> Totals:
        """Sums over all that was delivered."""
        return sum((message.rows.totals for message in self.messages), Totals())

    def wait_for(self, flows: int, timeout: float = 10.0) -> bool:
        """Wait until so many flows are delivered, for ``timeout`` seconds. Returns whether."""
        with self._changed:
            return self._changed.wait_for(
                lambda: sum(len(message.rows) for message in self._messages) >= flows, timeout
            )

    def open(self) -> None:
        """Counts."""
        self.opened += 1

    def encode(self, batch: FlowBatch) -> Iterator[Message]:
        """Messages without octets."""
        return self._messages_of(batch, self._rows_per_message)

    def deliver(self, message: Message, timeout: float) -> None:
        """
        Misbehave as told, else keep the message.

        Raises:
            SinkError: As told; ``deadline`` if the delay is longer than ``timeout`` seconds, and
                ``cancelled`` if it was closed, both retryable.
        """
        with self._changed:
            self.attempts += 1
            # What closing must interrupt is waited for here, so that no test waits in vain.
            if self._changed.wait_for(lambda: self.closed > 0, min(self._wrong.delay, timeout)):
                raise SinkError("cancelled", "closed", retryable=True)
            if self._wrong.delay > timeout:
                raise SinkError("deadline", "too slow", retryable=True)
            if self._failures_left:
                self._failures_left -= 1
                raise SinkError(self._wrong.reason, "as told", retryable=self._wrong.retryable)
            if 0 < self._wrong.largest < len(message.rows):
                raise SinkError("too_large", f"{len(message.rows)} rows", retryable=False)
            self._messages.append(message)
            self._changed.notify_all()

    def split(self, message: Message) -> Iterator[Message]:
        """Halves; none of a single row."""
        if len(message.rows) < 2:
            return iter(())
        return self._messages_of(message.rows, (len(message.rows) + 1) // 2)

    def close(self) -> None:
        """Makes a delivery that waits fail."""
        with self._changed:
            self.closed += 1
            self._changed.notify_all()

    def _messages_of(self, batch: FlowBatch, rows: int) -> Iterator[Message]:
        for start in range(0, len(batch), rows):
            part = batch.take(slice(start, start + rows))
            yield Message(b"", part)
