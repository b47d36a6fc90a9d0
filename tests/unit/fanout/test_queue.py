"""The queue's account: nothing leaves it unbooked, and what does not fit is the right rows."""

from __future__ import annotations

import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from exporter.batch.batch import ROW_COLUMNS, FlowBatch, Totals
from exporter.fanout.config import QueueConfig
from exporter.fanout.queue import BatchQueue
from exporter.fanout.spool.layout import ROW_OCTETS
from exporter.testing import Row, make_batch

#: Two to the number of a row is its packet count, so that a sum says which rows it is of.
WIDEST = 60


def numbered(first: int, count: int) -> FlowBatch:
    """Rows first, first + 1, ..., recognisable in any sum of them."""
    return make_batch(
        *(
            Row(src_port=n, packet_count=1 << n, octet_count_l2=n)
            for n in range(first, first + count)
        )
    )


def totals_of(rows: list[int]) -> Totals:
    return Totals(len(rows), sum(1 << row for row in rows), sum(rows))


class QueueMachine(RuleBasedStateMachine):
    """A queue beside a model that is two lists of row numbers."""

    @initialize(rows=st.integers(1, 8), when_full=st.sampled_from(("drop_oldest", "drop_newest")))
    def make(self, rows: int, when_full: str) -> None:
        config = QueueConfig.model_validate({"rows": rows, "when_full": when_full})
        self.capacity, self.drops_oldest = rows, when_full == "drop_oldest"
        self.queue = BatchQueue(config)
        self.next = 0
        self.waiting: list[list[int]] = []
        self.held: list[int] = []
        self.delivered: list[int] = []
        self.dropped: dict[str, list[int]] = {}

    @precondition(lambda self: self.next < WIDEST - 10)
    @rule(count=st.integers(1, 10))
    def put(self, count: int) -> None:
        self.queue.put(numbered(self.next, count))
        rows = list(range(self.next, self.next + count))
        self.next += count
        excess = sum(map(len, self.waiting)) + len(self.held) + count - self.capacity
        if excess > 0 and not self.drops_oldest:
            keep = max(count - excess, 0)
            self.drop("queue_full", rows[keep:])
            rows = rows[:keep]
        if rows:
            self.waiting.append(rows)
        while excess > 0 and self.drops_oldest and self.waiting:
            gone, rest = self.waiting[0][:excess], self.waiting[0][excess:]
            self.drop("queue_full", gone)
            self.waiting[:1] = [rest] if rest else []
            excess -= len(gone)

    @precondition(lambda self: self.waiting and not self.held)
    @rule()
    def take(self) -> None:
        batch = self.queue.take()
        self.held = self.waiting.pop(0)
        assert batch is not None
        assert batch.src_port.tolist() == self.held

    @precondition(lambda self: self.held)
    @rule(data=st.data(), reason=st.sampled_from(("", "too_large", "failed")))
    def book(self, data: st.DataObject, reason: str) -> None:
        count = data.draw(st.integers(1, len(self.held)))
        rows, self.held = self.held[:count], self.held[count:]
        if reason:
            self.queue.dropped(reason, totals_of(rows))
            self.drop(reason, rows)
        else:
            self.queue.delivered(totals_of(rows))
            self.delivered += rows

    @rule()
    def drop_held(self) -> None:
        self.queue.drop_held("internal")
        self.drop("internal", self.held)
        self.held = []

    def drop(self, reason: str, rows: list[int]) -> None:
        if rows:
            self.dropped.setdefault(reason, []).extend(rows)

    @invariant()
    def balances(self) -> None:
        counts = self.queue.counts()
        assert counts.queued == totals_of(list(range(self.next)))
        assert counts.delivered == totals_of(self.delivered)
        assert counts.pending == totals_of(
            [*self.held, *(r for part in self.waiting for r in part)]
        )
        assert counts.dropped == {why: totals_of(rows) for why, rows in self.dropped.items()}
        assert counts.queued == counts.delivered + counts.dropped_total + counts.pending
        assert self.queue.wait_empty(0) == (not self.held and not self.waiting)


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestQueue = QueueMachine.TestCase


@pytest.mark.parametrize(
    ("when_full", "kept"), [("drop_oldest", [3, 4, 5, 6, 7]), ("drop_newest", [0, 1, 2, 3, 4])]
)
def test_exactly_the_excess_is_dropped(when_full: str, kept: list[int]) -> None:
    """Four and four rows into five places: three go, the oldest or the newest ones."""
    queue = BatchQueue(QueueConfig.model_validate({"rows": 5, "when_full": when_full}))
    queue.put(numbered(0, 4))
    queue.put(numbered(4, 4))
    queue.close()
    rows = []
    while (batch := queue.take()) is not None:
        rows += batch.src_port.tolist()
        queue.delivered(batch.totals)
    assert rows == kept
    gone = [row for row in range(8) if row not in kept]
    assert queue.counts().dropped == {"queue_full": totals_of(gone)}


def test_held_rows_count_against_the_bound() -> None:
    """A batch that is being sent is memory too, but it is never dropped."""
    queue = BatchQueue(QueueConfig(rows=5))
    queue.put(numbered(0, 5))
    held = queue.take()
    queue.put(numbered(5, 3))
    assert held is not None
    assert queue.counts().pending == held.totals
    assert queue.counts().dropped == {"queue_full": totals_of([5, 6, 7])}


def test_take_waits_until_there_is_something() -> None:
    """The consumer sleeps until the producer comes, and learns of the end."""
    queue = BatchQueue(QueueConfig())
    taken: list[FlowBatch | None] = []

    def consume() -> None:
        taken.extend(queue.take() for _ in range(2))

    consumer = threading.Thread(target=consume)
    consumer.start()
    queue.put(numbered(0, 1))
    queue.close()
    consumer.join(10)
    assert [len(batch) if batch is not None else None for batch in taken] == [1, None]


def test_wait_empty_waits_for_what_is_held() -> None:
    """A queue is empty when the last batch is booked, not when it is taken."""
    queue = BatchQueue(QueueConfig())
    queue.put(numbered(0, 2))
    batch = queue.take()
    assert batch is not None
    assert not queue.wait_empty(0.01)
    threading.Timer(0.05, queue.delivered, (batch.totals,)).start()
    assert queue.wait_empty(10)


def test_accounts_of_two_threads() -> None:
    """Whatever the interleaving, every look at the account balances."""
    queue = BatchQueue(QueueConfig(rows=7))

    def consume() -> None:
        while (batch := queue.take()) is not None:
            queue.delivered(batch.totals)

    consumer = threading.Thread(target=consume)
    consumer.start()
    for n in range(500):
        queue.put(numbered(n % 50, 1 + n % 9))
        counts = queue.counts()
        assert counts.queued == counts.delivered + counts.dropped_total + counts.pending
        # One batch may be held while as many rows as fit wait.
        assert counts.pending.flows <= 7
    queue.close()
    consumer.join(10)
    counts = queue.counts()
    assert counts.pending == Totals()
    assert counts.queued == counts.delivered + counts.dropped_total


def test_octets_bound_memory_too() -> None:
    """The smaller of both bounds counts; a row's octets are those of its columns."""
    queue = BatchQueue(QueueConfig(rows=1000, octets=10 * ROW_OCTETS + 5))
    queue.put(numbered(0, 30))
    assert queue.counts().pending == totals_of(list(range(20, 30)))
    batch = numbered(0, 7)
    assert sum(getattr(batch, name).nbytes for name in ROW_COLUMNS) == 7 * ROW_OCTETS


def test_other_bounds_while_it_runs() -> None:
    """Smaller ones drop at once what does not fit any more; larger ones take more."""
    queue = BatchQueue(QueueConfig(rows=20))
    queue.put(numbered(0, 20))
    queue.configure(QueueConfig(rows=5))
    assert queue.counts().dropped == {"queue_full": totals_of(list(range(15)))}
    queue.configure(QueueConfig(rows=9, when_full="drop_newest"))
    queue.put(numbered(20, 8))
    assert queue.counts().pending == totals_of(list(range(15, 24)))
