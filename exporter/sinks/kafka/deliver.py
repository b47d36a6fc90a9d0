"""
Messages to the brokers, and which of their values are there.

What is under way when the time is up stays under way: the same message again goes on waiting, and
sends only what has failed. So a broker that is away for a while brings no duplicates; a lost
connection that is given up (new credentials, two minutes) repeats at most one message's values.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from exporter.credentials import Watched
from exporter.errors import ConfigError, SinkError
from exporter.sinks.kafka.client import STALE, Client
from exporter.sinks.kafka.config import KafkaConfig
from exporter.sinks.kafka.encode import KafkaMessage, divide, partitions

#: How soon a delivery that waits notices that it is to stop, in seconds.
_LOOK = 0.1


class KafkaDelivery:
    """
    One message at a time to one topic.

    Args:
        config: Where to.
        connect: Makes a client. Raises ConfigError.
    """

    def __init__(self, config: KafkaConfig, connect: Callable[[KafkaConfig], Client]) -> None:
        self._config = config
        self._connect = connect
        self._watched = Watched(config.files())
        self._client: Client | None = None
        self._message: KafkaMessage | None = None
        self._left: list[int] = []
        self._under_way: list[int] = []
        self._too_large: set[int] = set()
        self._next = 0
        self._closing = threading.Event()
        self._busy = threading.Lock()

    def open(self) -> None:
        """Begin to connect. Raises ConfigError."""
        self._client = self._connect(self._config)

    def deliver(self, message: KafkaMessage, timeout: float) -> None:
        """
        Send what of a message is not on the brokers, and wait for it.

        Raises:
            SinkError: As the contract has it. ``too_large`` only when all else is settled: then
                :meth:`split` says what is left.
        """
        with self._busy:
            deadline = time.monotonic() + timeout
            self._take_up(message)
            client = self._ready()
            try:
                self._wait(deadline, client, client.connected)
                if self._left:
                    count = self._wait(deadline, client, client.partitions)
                    self._send(client, message, count)
                self._wait(deadline, client, client.settled)
            except SinkError as err:
                if err.reason in STALE or client.broken:
                    self._give_up()
                raise
            self._judge(client.failures())
            client.complaints.clear()

    def split(self, message: KafkaMessage) -> Iterator[KafkaMessage]:
        """
        What was delivered, as a message with nothing to send; what was not, in smaller messages.
        None for a single record that is too large.
        """
        left = sorted(self._too_large | set(self._left)) if message is self._message else None
        if left is None:
            left = list(range(len(message.values)))
        if len(left) == 1 and message.counts == [1]:
            return
        done = sorted(set(range(len(message.values))) - set(left))
        if done:
            yield _part(message, done, values=False)
        if len(left) > 1:
            yield _part(message, left[: len(left) // 2])
            yield _part(message, left[len(left) // 2 :])
        elif message.counts[left[0]] == 1:
            yield _part(message, left)
        else:
            rows = _rows(message, left)
            half = (len(rows) + 1) // 2
            for some in (rows[:half], rows[half:]):
                yield from divide(message, some, self._config)

    def close(self) -> None:
        """Make a delivery that waits fail, and close the connections. Again is fine."""
        self._closing.set()
        with self._busy:
            if self._client is not None:
                self._client.abandon()
                self._client = None

    def _take_up(self, message: KafkaMessage) -> None:
        if message is self._message:
            return
        if self._under_way:
            # Of a message that the fan-out has given up.
            self._give_up()
        self._message = message
        self._left = list(range(len(message.values)))
        self._too_large = set()

    def _ready(self) -> Client:
        """A client with the credentials of now."""
        if self._closing.is_set():
            raise SinkError("cancelled", "closed", retryable=True)
        if self._watched.changed() or (self._client is not None and self._client.broken):
            self._give_up()
        if self._client is None:
            try:
                self._client = self._connect(self._config)
            except ConfigError as err:
                # It could be used before: somebody is about to replace it.
                raise SinkError("credentials", str(err), retryable=True) from err
        self._client.complaints.begin()
        return self._client

    def _give_up(self) -> None:
        """The client. What was under way has to be sent again, if it did not arrive."""
        if self._client is None:
            return
        self._client.abandon()
        failed = self._client.failures()
        self._left = sorted({*self._left, *(failed.keys() & set(self._under_way))})
        self._under_way = []
        self._client = None

    def _wait(self, deadline: float, client: Client, ask: Callable[[float], int]) -> int:
        while True:
            if self._closing.is_set():
                raise SinkError("cancelled", "closed", retryable=True)
            left = deadline - time.monotonic()
            answer = ask(min(max(left, 0.0), _LOOK))
            if answer:
                return answer
            if left <= 0:
                raise client.complaints.error("deadline", "no answer in time")

    def _send(self, client: Client, message: KafkaMessage, count: int) -> None:
        left = self._left
        if message.hashes is None:
            # Without keys: to one partition after the other.
            where = (self._next + np.arange(len(left))) % count
            self._next += len(left)
        else:
            where = partitions(message.hashes[left], count)
        order = np.argsort(where, kind="stable")
        ends = np.searchsorted(where[order], np.arange(count), side="right")
        indices = np.asarray(left)[order]
        starts = [0, *ends.tolist()]
        places = {
            partition: indices[start:end].tolist()
            for partition, (start, end) in enumerate(itertools.pairwise(starts))
            if end > start
        }
        self._left, self._under_way = [], left
        client.send(message, places)

    def _judge(self, failures: dict[int, SinkError]) -> None:
        """Everything is settled: keep what has to be sent again."""
        self._under_way = []
        large = {index for index, err in failures.items() if err.reason == "too_large"}
        self._too_large |= large
        others = {index: err for index, err in failures.items() if index not in large}
        for err in others.values():
            if not err.retryable:
                raise err
        self._left = sorted(others)
        for err in others.values():
            raise err
        if self._too_large:
            size = (
                max(len(self._message.values[i]) for i in self._too_large) if self._message else 0
            )
            raise SinkError(
                "too_large",
                f"{len(self._too_large)} messages of up to {size} octets",
                retryable=False,
            )


def _part(message: KafkaMessage, which: list[int], *, values: bool = True) -> KafkaMessage:
    """Some values of a message, with their rows; or the rows alone."""
    rows = message.rows.take(_rows(message, which))
    if not values:
        which = []
    return replace(
        message,
        rows=rows,
        values=[message.values[i] for i in which],
        counts=[message.counts[i] for i in which],
        keys=None if message.keys is None else [message.keys[i] for i in which],
        hashes=None if message.hashes is None else message.hashes[which],
    )


def _rows(message: KafkaMessage, which: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Numbers of the rows of some values."""
    ends = np.cumsum(message.counts)
    return np.concatenate([np.arange(ends[i] - message.counts[i], ends[i]) for i in which])
