"""A spooling queue beside a model, through kills, restarts, cut files and flipped bits."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from exporter.batch.batch import FlowBatch, Totals
from exporter.fanout.config import QueueConfig, SpoolConfig
from exporter.fanout.queue import BatchQueue
from exporter.fanout.spool.age import AgeClock
from exporter.fanout.spool.spool import Spool
from exporter.testing import Row, make_batch

#: Two to the number of a row is its packet count, so that a sum says which rows it is of.
WIDEST = 60
_SECOND = 10**9


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


class SpoolMachine(RuleBasedStateMachine):
    """
    The model: lists of row numbers. A kill forgets what is in memory and nothing else, and brings
    back the whole batch that was being delivered.
    """

    @initialize(rows=st.integers(1, 12))
    def make(self, rows: int) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.capacity = rows
        self.boot, self.uptime = b"a" * 16, 1000 * _SECOND
        self.next = 0
        self.stored: list[list[int]] = []
        self.ages: list[int] = []
        #: Seconds that the host was up, and the latest of them that was written to the disk.
        self.age = self.known = 0
        self.held: list[int] = []
        self.whole: list[int] = []
        self.start()

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.queue.shut()
            shutil.rmtree(self.directory)

    def start(self) -> None:
        config = SpoolConfig(directory=self.directory, age=100)
        clock = AgeClock(lambda: self.uptime, lambda: self.boot)
        # Small enough to roll files, large enough for everything.
        self.spool = Spool(config, "a sink/..", clock)
        self.spool._segment_octets = lambda: 3000  # type: ignore[method-assign]
        self.queue = BatchQueue(QueueConfig(rows=self.capacity), self.spool)
        self.queue.open()
        self.queued: list[int] = []
        self.recovered = [row for batch in self.stored for row in batch]
        self.delivered: list[int] = []
        self.dropped: dict[str, list[int]] = {}

    @precondition(lambda self: self.next < WIDEST - 6)
    @rule(count=st.integers(1, 6))
    def put(self, count: int) -> None:
        self.expire()
        batch = numbered(self.next, count)
        number = self.queue.store(batch)
        assert number
        self.queue.put(batch, number)
        rows = list(range(self.next, self.next + count))
        self.next += count
        self.queued += rows
        self.stored.append(rows)
        self.ages.append(self.age)
        self.known = self.age

    @precondition(lambda self: self.stored and not self.held)
    @rule()
    def take(self) -> None:
        self.expire()
        if not self.stored:
            assert self.take_now() is None
            return
        batch = self.take_now()
        assert batch is not None
        self.held = self.stored.pop(0)
        self.whole, self.whole_age = self.held, self.ages.pop(0)
        assert batch.src_port.tolist() == self.held
        assert batch.packet_count.tolist() == [1 << row for row in self.held]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), reason=st.sampled_from(("", "failed")))
    def book(self, data: st.DataObject, reason: str) -> None:
        count = data.draw(st.integers(1, len(self.held)))
        rows, self.held = self.held[:count], self.held[count:]
        if reason:
            self.queue.dropped(reason, totals_of(rows))
            self.dropped.setdefault(reason, []).extend(rows)
        else:
            self.queue.delivered(totals_of(rows))
            self.delivered += rows
        if not self.held:
            self.known = self.age

    @precondition(lambda self: self.held and self.age - self.whole_age <= 100)
    @rule()
    def put_back(self) -> None:
        """In two parts, as a retargeted sink does; the rest of a batch is taken at once again."""
        first, second = self.held[: len(self.held) // 2], self.held[len(self.held) // 2 :]
        parts = [numbered(part[0], len(part)) for part in (first, second) if part]
        self.queue.put_back(parts)
        for part in parts:
            batch = self.take_now()
            assert batch is not None
            assert batch.src_port.tolist() == part.src_port.tolist()
            if part is not parts[-1]:
                self.queue.delivered(batch.totals)
                self.delivered += first
                self.held = second

    @rule(seconds=st.integers(1, 60))
    def time_passes(self, seconds: int) -> None:
        self.uptime += seconds * _SECOND
        self.age += seconds

    @rule(reboot=st.booleans(), torn=st.integers(0, 40))
    def kill(self, reboot: bool, torn: int) -> None:
        """kill -9, perhaps of the host too, perhaps within a write."""
        self.queue.shut()
        if self.held:
            self.stored.insert(0, self.whole)
            self.ages.insert(0, self.whole_age)
            self.held = []
        segments = sorted(self.spool.path.glob("*.segment"))
        if torn and segments:
            with segments[-1].open("ab") as file:
                file.write(b"\xf5FEspool not a header at all, but it is torn"[:torn])
        if reboot:
            # How long it was up after that nobody knows, nor how long it was off.
            self.boot, self.uptime = bytes([self.boot[0] + 1]) * 16, 0
            self.age = self.known
        self.start()

    @rule()
    def stop(self) -> None:
        """An orderly end: nothing is dropped."""
        self.queue.abandon("shutdown")
        counts = self.queue.counts()
        assert "shutdown" not in counts.dropped
        assert counts.pending == Totals()
        self.kill(reboot=False, torn=0)

    def take_now(self) -> FlowBatch | None:
        """Without waiting for what does not come."""
        self.queue._closed = True
        try:
            return self.queue.take()
        finally:
            self.queue._closed = False

    def expire(self) -> None:
        while self.ages and self.age - self.ages[0] > 100:
            self.dropped.setdefault("spool_expired", []).extend(self.stored.pop(0))
            self.ages.pop(0)
            self.known = self.age

    @invariant()
    def balances(self) -> None:
        if not hasattr(self, "queue"):
            return
        counts = self.queue.counts()
        waiting = [row for batch in self.stored for row in batch]
        assert counts.queued == totals_of(self.queued)
        assert counts.recovered == totals_of(self.recovered)
        assert counts.delivered == totals_of(self.delivered)
        assert counts.pending + counts.spooled == totals_of([*self.held, *waiting])
        assert counts.safe == counts.pending
        assert counts.dropped == {why: totals_of(rows) for why, rows in self.dropped.items()}
        given = counts.queued + counts.recovered
        assert given == (counts.delivered + counts.dropped_total + counts.pending + counts.spooled)
        assert counts.pending.flows <= self.capacity + len(self.held)


SpoolMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestSpool = SpoolMachine.TestCase
