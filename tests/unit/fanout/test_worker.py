"""A sink's thread: patient, honest about what it gives up, and quick to stop."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exporter.batch.batch import FlowBatch, Totals
from exporter.errors import ConfigError, SinkError
from exporter.fanout.config import QueueConfig, RetryConfig, SpoolConfig
from exporter.fanout.contract import Message, Sink
from exporter.fanout.queue import BatchQueue
from exporter.fanout.spool.spool import Spool
from exporter.fanout.worker import Circuit, SinkWorker
from exporter.ledger import SinkCounts
from exporter.testing import Misbehaviour, RecordingSink, Row, make_batch

QUICK = RetryConfig(first=0.001, longest=0.002, timeout=5)


def some(rows: int, first: int = 0) -> FlowBatch:
    """Rows that differ."""
    return make_batch(*(Row(src_port=first + n, packet_count=1 + n) for n in range(rows)))


@contextmanager
def running(
    sink: Sink, retry: RetryConfig = QUICK, timeout: float = 10
) -> Iterator[tuple[SinkWorker, BatchQueue]]:
    """A worker at work; afterwards it is stopped and its account balances."""
    queue = BatchQueue(QueueConfig())
    worker = SinkWorker(sink, queue, retry)
    worker.start()
    try:
        yield worker, queue
    finally:
        worker.stop(timeout)
    counts = queue.counts()
    assert counts.pending == Totals()
    assert counts.queued == counts.delivered + counts.dropped_total


def ports(sink: RecordingSink) -> list[int]:
    """Which rows were delivered, in order."""
    return [port for message in sink.messages for port in message.rows.src_port.tolist()]


def test_everything_is_delivered_in_order() -> None:
    """Every row of every batch, once, in order; the sink is opened and closed once."""
    sink = RecordingSink(rows_per_message=4)
    with running(sink) as (worker, queue):
        for first in range(0, 30, 10):
            queue.put(some(10, first))
        assert sink.wait_for(30)
        assert worker.healthy
    assert ports(sink) == list(range(30))
    assert sink.totals == queue.counts().delivered
    assert (sink.opened, sink.closed) == (1, 1)


def test_failures_are_retried() -> None:
    """A message is tried until it is taken; retries are counted and lose nothing."""
    sink = RecordingSink(misbehaviour=Misbehaviour(failures=5), rows_per_message=4)
    with running(sink) as (worker, queue):
        queue.put(some(10))
        assert sink.wait_for(10)
        assert worker.retries == 5
    assert ports(sink) == list(range(10))
    assert sink.attempts == 5 + 3
    assert queue.counts().dropped == {}


def test_a_failing_sink_is_not_healthy_until_it_delivers(caplog: pytest.LogCaptureFixture) -> None:
    """Health follows the deliveries; the log says once that it is away and once that it is back."""
    caplog.set_level(logging.INFO, "exporter.fanout.worker")
    sink = RecordingSink("there", Misbehaviour(failures=3))
    seen: list[bool] = []
    deliver = sink.deliver

    def watched(message: Message, timeout: float) -> None:
        seen.append(worker.healthy)
        deliver(message, timeout)

    sink.deliver = watched  # type: ignore[method-assign]
    with running(sink) as (worker, queue):
        queue.put(some(1))
        assert sink.wait_for(1)
        queue.put(some(1))
        assert sink.wait_for(2)
    assert seen == [True, False, False, False, True]
    assert [record.getMessage() for record in caplog.records] == [
        "sink there: unavailable: as told",
        "sink there delivers again",
    ]


def test_retries_are_spaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits double up to the longest, and each is a share, drawn anew, of half of it to all."""
    shares, drawn = iter((0.5, 1.0, 0.75, 0.5, 1.0)), []
    waits: list[float] = []

    def draw(least: float, most: float) -> float:
        drawn.append((least, most))
        return next(shares)

    sink = RecordingSink(misbehaviour=Misbehaviour(failures=5))
    monkeypatch.setattr(random, "uniform", draw)
    with running(sink, RetryConfig(first=2, longest=10, timeout=1)) as (worker, queue):
        monkeypatch.setattr(worker._give_up, "wait", waits.append)
        queue.put(some(1))
        assert sink.wait_for(1)
        assert worker.retries == 5
    assert drawn == [(0.5, 1.0)] * 5
    assert waits == [2 * 0.5, 4 * 1.0, 8 * 0.75, 10 * 0.5, 10 * 1.0]


def test_what_can_never_work_is_dropped_by_reason() -> None:
    """A message that is refused for good is given up at once; the next one is tried."""
    wrong = Misbehaviour(failures=1, reason="invalid_argument", retryable=False)
    sink = RecordingSink(misbehaviour=wrong, rows_per_message=4)
    with running(sink) as (worker, queue):
        queue.put(some(10))
        assert sink.wait_for(6)
        assert worker.retries == 0
    assert ports(sink) == list(range(4, 10))
    assert queue.counts().dropped == {"invalid_argument": some(4).totals}


def test_too_large_is_split() -> None:
    """Halves of halves, until they are taken; no row is lost and none comes twice."""
    sink = RecordingSink(misbehaviour=Misbehaviour(largest=3), rows_per_message=100)
    with running(sink) as (_, queue):
        queue.put(some(50))
        assert sink.wait_for(50)
    assert ports(sink) == list(range(50))
    assert max(len(message.rows) for message in sink.messages) <= 3
    assert queue.counts().dropped == {}


class Refusing(RecordingSink):
    """Finds one row too large, even alone."""

    def deliver(self, message: Message, timeout: float) -> None:
        if 7 in message.rows.src_port:
            self._wrong = Misbehaviour(largest=1)
            if len(message.rows) == 1:
                from exporter.errors import SinkError

                raise SinkError("too_large", "this one", retryable=False)
        super().deliver(message, timeout)


def test_a_row_that_is_too_large_alone_is_dropped() -> None:
    """What cannot be split any further is given up as too large; its neighbours are delivered."""
    sink = Refusing(rows_per_message=100)
    with running(sink) as (_, queue):
        queue.put(some(20))
        assert sink.wait_for(19)
    assert ports(sink) == [port for port in range(20) if port != 7]
    assert queue.counts().dropped == {"too_large": Totals(1, 8, 1540)}


def test_a_closed_destination_ends_the_sink() -> None:
    """Reason closed: the whole backlog is dropped as closed, and who asked is told once."""
    told = threading.Event()
    calls: list[None] = []

    def on_closed() -> None:
        calls.append(None)
        told.set()

    wrong = Misbehaviour(failures=1000, reason="closed", retryable=False, delay=0.05)
    sink = RecordingSink(misbehaviour=wrong, rows_per_message=2)
    queue = BatchQueue(QueueConfig())
    worker = SinkWorker(sink, queue, QUICK, on_closed)
    for _ in range(3):
        queue.put(some(10))
    worker.start()
    assert told.wait(10)
    queue.put(some(10))
    worker.stop(10)
    assert len(calls) == 1
    assert sink.attempts == 1
    assert queue.counts().dropped == {
        "closed": some(10).totals + some(10).totals + Totals(20, 110, 30800)
    }


def test_stopping_delivers_what_waits() -> None:
    """A sink that works gets everything that waits when it is told to stop."""
    sink = RecordingSink(misbehaviour=Misbehaviour(delay=0.01), rows_per_message=1)
    with running(sink) as (_, queue):
        queue.put(some(20))
    assert ports(sink) == list(range(20))
    assert queue.counts().dropped == {}


def stop_in_time(sink: RecordingSink, batches: int, timeout: float) -> SinkCounts:
    """Stop a worker with a backlog; it takes little longer than it may."""
    queue = BatchQueue(QueueConfig())
    worker = SinkWorker(sink, queue, RetryConfig(first=30, longest=30, timeout=30))
    for _ in range(batches):
        queue.put(some(100))
    worker.start()
    began = time.monotonic()
    worker.stop(timeout)
    took = time.monotonic() - began
    assert timeout - 0.01 <= took < timeout + 2
    counts = queue.counts()
    assert counts.pending == Totals()
    assert counts.queued == counts.delivered + counts.dropped_total
    return counts


def test_stopping_gives_up_on_a_dead_destination() -> None:
    """Nobody answers: after the timeout all that waits is dropped, as shutdown."""
    counts = stop_in_time(RecordingSink(misbehaviour=Misbehaviour(failures=10**9)), 10, 0.3)
    assert counts.dropped["shutdown"].flows == 1000
    assert counts.delivered == Totals()


def test_stopping_interrupts_a_delivery() -> None:
    """A delivery that hangs is cut off by closing the sink."""
    counts = stop_in_time(RecordingSink(misbehaviour=Misbehaviour(delay=25)), 2, 0.3)
    assert counts.dropped["shutdown"].flows == 200


def test_giving_up_does_not_encode() -> None:
    """What is dropped at shutdown is not encoded first: a long backlog would take its time."""
    encoded: list[int] = []

    class Counting(RecordingSink):
        def encode(self, batch: FlowBatch) -> Iterator[Message]:
            for message in super().encode(batch):
                encoded.append(len(message.rows))
                yield message

    sink = Counting(misbehaviour=Misbehaviour(failures=10**9), rows_per_message=10)
    counts = stop_in_time(sink, 50, 0.2)
    assert counts.dropped["shutdown"].flows == 5000
    assert encoded == [10]


def test_a_mistake_in_a_sink_costs_one_batch(caplog: pytest.LogCaptureFixture) -> None:
    """An exception that no sink should raise is logged and counted; the thread lives on."""

    class Broken(RecordingSink):
        def encode(self, batch: FlowBatch) -> Iterator[Message]:
            for message in super().encode(batch):
                if 5 in message.rows.src_port:
                    raise ZeroDivisionError
                yield message

    sink = Broken(rows_per_message=2)
    with running(sink) as (_, queue):
        queue.put(some(10))
        queue.put(some(10, first=100))
        assert sink.wait_for(14)
    assert ports(sink) == [0, 1, 2, 3, *range(100, 110)]
    assert queue.counts().dropped["internal"].flows == 6
    assert "could not be sent" in caplog.text


def test_stop_again_and_before_start() -> None:
    """Stopping is fine at any time, any number of times."""
    sink = RecordingSink()
    worker = SinkWorker(sink, BatchQueue(QueueConfig()), QUICK)
    worker.stop(0)
    assert (sink.opened, sink.closed) == (0, 0)
    worker = SinkWorker(sink, BatchQueue(QueueConfig()), QUICK)
    worker.start()
    worker.stop(1)
    worker.stop(1)
    assert (sink.opened, sink.closed) == (1, 1)


def test_a_sink_that_cannot_open_starts_no_thread() -> None:
    """What can never work is said at the start."""

    class Wrong(RecordingSink):
        def open(self) -> None:
            raise ConfigError("no such file")

    before = threading.active_count()
    with pytest.raises(ConfigError, match="no such file"):
        SinkWorker(Wrong(), BatchQueue(QueueConfig()), QUICK).start()
    assert threading.active_count() == before


def test_a_message_that_is_taken_in_part() -> None:
    """So many rows as the destination refused are dropped, the others delivered, none again."""

    class Picky(RecordingSink):
        def deliver(self, message: Message, timeout: float) -> None:
            super().deliver(message, timeout)
            raise SinkError("rejected", "3 of 10", retryable=False, rows=3)

    sink = Picky(rows_per_message=10)
    with running(sink) as (worker, queue):
        queue.put(some(20))
        assert queue.wait_empty(10)
        assert not worker.healthy
    counts = queue.counts()
    assert counts.dropped == {"rejected": Totals(6, 1 + 2 + 3 + 11 + 12 + 13, 6 * 1540)}
    assert counts.delivered.flows == 14
    assert sink.attempts == 2


def test_another_worker_goes_on(tmp_path: Path) -> None:
    """
    A queue that is handed over in the middle of a batch: what the first destination has and what
    the second gets is each row once, in order; also with a spool.
    """
    for spool in (None, Spool(SpoolConfig(directory=tmp_path), "there")):
        first = RecordingSink("there", Misbehaviour(delay=0.02), rows_per_message=3)
        second = RecordingSink("there", rows_per_message=7)
        queue = BatchQueue(QueueConfig(rows=40), spool)
        worker = SinkWorker(first, queue, QUICK)
        worker.start()
        for start in range(0, 100, 20):
            batch = some(20, start)
            queue.put(batch, queue.store(batch))
        assert first.wait_for(3)
        worker.release(10)
        assert first.closed == 1
        taken = len(ports(first))
        assert 0 < taken < 60
        batch = some(20, 100)
        queue.put(batch, queue.store(batch))
        other = SinkWorker(second, queue, QUICK)
        other.sink.open()
        other.begin()
        expected = 120 - taken if spool else queue.counts().pending.flows
        assert second.wait_for(expected)
        other.stop(10)
        counts = queue.counts()
        assert counts.queued == counts.delivered + counts.dropped_total
        if spool:
            assert ports(first) + ports(second) == list(range(120))
            assert counts.dropped == {}


def test_release_interrupts_a_dead_destination(tmp_path: Path) -> None:
    """It does not wait for one that does not answer, and gives up no row."""
    sink = RecordingSink(misbehaviour=Misbehaviour(failures=10**9))
    queue = BatchQueue(QueueConfig(), Spool(SpoolConfig(directory=tmp_path), "there"))
    worker = SinkWorker(sink, queue, RetryConfig(first=30, longest=30, timeout=30))
    worker.start()
    queue.put(some(5), queue.store(some(5)))
    until(lambda: not worker.healthy)
    began = time.monotonic()
    worker.release(20)
    assert time.monotonic() - began < 10
    assert queue.counts().pending == some(5).totals
    again = RecordingSink()
    last = SinkWorker(again, queue, QUICK)
    last.begin()
    assert again.wait_for(5)
    last.stop(10)
    assert queue.counts().dropped == {}


def test_stopping_leaves_the_rest_in_the_spool(tmp_path: Path) -> None:
    """What a dead destination did not get is dropped by nobody, and comes at the next start."""
    config = SpoolConfig(directory=tmp_path)
    queue = BatchQueue(QueueConfig(rows=10), Spool(config, "there"))
    worker = SinkWorker(RecordingSink(misbehaviour=Misbehaviour(failures=10**9)), queue, QUICK)
    worker.start()
    for start in range(0, 40, 8):
        queue.put(some(8, start), queue.store(some(8, start)))
    worker.stop(0.05)
    counts = queue.counts()
    assert (counts.pending, counts.dropped) == (Totals(), {})
    assert counts.spooled == counts.queued
    sink = RecordingSink()
    queue = BatchQueue(QueueConfig(rows=10), Spool(config, "there"))
    worker = SinkWorker(sink, queue, QUICK)
    worker.start()
    assert queue.counts().recovered.flows == 40
    worker.stop(10)
    assert ports(sink) == list(range(40))


def test_the_circuit() -> None:
    """Closed; open while it waits; half-open while one message tries; closed after a success."""
    sink = RecordingSink(misbehaviour=Misbehaviour(failures=1))
    seen: list[str] = []
    deliver = sink.deliver

    def watched(message: Message, timeout: float) -> None:
        seen.append(worker.circuit)
        deliver(message, timeout)

    def waited(timeout: float) -> bool:
        seen.append(worker.circuit)
        return wait(timeout)

    sink.deliver = watched  # type: ignore[method-assign]
    with running(sink) as (worker, queue):
        assert worker.circuit is Circuit.CLOSED
        # In the worker's own thread: from another one a state that is soon over may be missed.
        wait, worker._give_up.wait = worker._give_up.wait, waited  # type: ignore[assignment,method-assign]
        queue.put(some(1))
        assert sink.wait_for(1)
        until(lambda: worker.circuit is Circuit.CLOSED)
        assert worker.last_error == "unavailable: as told"
    assert seen == ["closed", "open", "half-open"]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
