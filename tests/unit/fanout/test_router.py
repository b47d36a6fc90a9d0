"""One batch to every sink, booked in the ledger; none waits for another."""

from __future__ import annotations

import threading
import time

import pytest

from exporter.batch.batch import FlowBatch, Totals
from exporter.errors import ConfigError
from exporter.fanout.config import QueueConfig, RetryConfig
from exporter.fanout.queue import BatchQueue
from exporter.fanout.router import Router
from exporter.fanout.worker import SinkWorker
from exporter.ledger import KernelCounts, Ledger, Tally
from exporter.testing import Misbehaviour, RecordingSink, Row, make_batch


def router_of(*sinks: RecordingSink, rows: int = 500_000) -> tuple[Router, Ledger]:
    """A router with a kernel that has counted nothing."""
    ledger = Ledger(KernelCounts)
    retry = RetryConfig(first=0.001, longest=0.01, timeout=30)
    workers = [SinkWorker(sink, BatchQueue(QueueConfig(rows=rows)), retry) for sink in sinks]
    return Router(workers, ledger), ledger


def some(rows: int) -> FlowBatch:
    return make_batch(*(Row(src_port=n) for n in range(rows)))


def test_every_sink_gets_every_batch() -> None:
    """All rows at all sinks, and the ledger has all of them."""
    sinks = [RecordingSink(name) for name in ("one", "two", "three")]
    router, ledger = router_of(*sinks)
    router.start()
    for rows in (3, 0, 5):
        router.publish(some(rows), some(rows).totals)
    router.stop(10)
    for sink in sinks:
        assert sink.totals == some(8).totals
    balance = ledger.balance()
    assert balance.published == balance.drained == some(8).totals
    assert {name: counts.delivered for name, counts in balance.sinks.items()} == {
        sink.name: some(8).totals for sink in sinks
    }


def test_what_was_deduplicated_is_booked() -> None:
    """The difference between what was drained and what is published."""
    router, ledger = router_of(RecordingSink())
    drained = Totals(flows=9, packets=90, octets=20_000)
    router.publish(some(4), drained)
    router.publish(some(0), Totals(2, 20, 3000))
    balance = ledger.balance()
    assert balance.published == some(4).totals
    assert balance.deduplicated == drained + Totals(2, 20, 3000) - some(4).totals


def test_a_slow_sink_delays_no_other() -> None:
    """While one sink hangs, publishing takes no time and the other sink has all of it."""
    slow = RecordingSink("slow", Misbehaviour(delay=25))
    fast = RecordingSink("fast")
    router, ledger = router_of(slow, fast, rows=50)
    router.start()
    began = time.monotonic()
    for published in range(10, 210, 10):
        router.publish(some(10), some(10).totals)
        assert fast.wait_for(published)
    assert time.monotonic() - began < 10
    assert slow.totals == Totals()
    counts = ledger.balance().sinks["slow"]
    assert counts.pending.flows == 50
    assert counts.dropped["queue_full"].flows == 150
    router.stop(0.1)
    assert ledger.balance().sinks["fast"].delivered.flows == 200
    assert ledger.balance().sinks["slow"].dropped["shutdown"].flows == 50


def test_all_sinks_share_the_time_to_stop() -> None:
    """Three dead sinks take no longer to give up than one."""
    dead = [RecordingSink(str(n), Misbehaviour(failures=10**9)) for n in range(3)]
    router, ledger = router_of(*dead)
    router.start()
    router.publish(some(10), some(10).totals)
    began = time.monotonic()
    router.stop(0.4)
    assert 0.35 < time.monotonic() - began < 2
    for counts in ledger.balance().sinks.values():
        assert counts.dropped["shutdown"].flows == 10


def test_start_all_or_none() -> None:
    """If one sink can never work, those that were started are stopped."""

    class Wrong(RecordingSink):
        def open(self) -> None:
            raise ConfigError("no such file")

    first, third = RecordingSink("first"), RecordingSink("third")
    router, _ = router_of(first, Wrong("second"), third)
    with pytest.raises(ConfigError):
        router.start()
    assert (first.opened, first.closed) == (1, 1)
    assert third.opened == 0


def test_the_ledger_closes_at_any_moment() -> None:
    """A balance that is taken while batches are published and delivered has no problems."""
    drained = Tally()

    def kernel() -> KernelCounts:
        return KernelCounts(seen=drained, outcomes={"aggregated": drained})

    ledger = Ledger(kernel)
    sink = RecordingSink()
    router = Router(
        [SinkWorker(sink, BatchQueue(QueueConfig(rows=40)), RetryConfig(first=0.001))], ledger
    )
    router.start()
    batch = some(7)
    for _ in range(200):
        drained += Tally(batch.totals.packets, batch.totals.octets)
        router.publish(batch, batch.totals)
        assert ledger.balance().problems() == []
    router.stop(10)
    ledger.close_kernel()
    balance = ledger.balance()
    assert balance.problems() == []
    counts = balance.sinks["recording"]
    assert counts.delivered == sink.totals
    assert counts.delivered.flows + counts.dropped_total.flows == 1400


def test_sinks_are_changed_under_way() -> None:
    """
    One is added, one pointed elsewhere, one removed while batches are published: each has what was
    published while it was there, no row is dropped, and the ledger closes throughout.
    """
    stays, moves, goes = (RecordingSink(name) for name in ("stays", "moves", "goes"))
    router, ledger = router_of(stays, moves, goes)
    router.start()
    router.publish(some(5), some(5).totals)
    moved, new = RecordingSink("moves"), RecordingSink("new")
    queue = router.workers[1].queue
    retry = RetryConfig(first=0.001)
    router.change(
        add=[SinkWorker(new, BatchQueue(QueueConfig()), retry)],
        retarget=[SinkWorker(moved, queue, retry)],
        remove=["goes"],
        timeout=10,
    )
    assert [worker.sink.name for worker in router.workers] == ["stays", "moves", "new"]
    assert problems_but_kernel(ledger) == []
    router.publish(some(7), some(7).totals)
    router.stop(10)
    assert problems_but_kernel(ledger) == []
    assert goes.totals == some(5).totals
    assert (new.totals, stays.totals.flows) == (some(7).totals, 12)
    assert moves.totals + moved.totals == stays.totals
    assert (goes.closed, moves.closed) == (1, 1)


def problems_but_kernel(ledger: Ledger) -> list[str]:
    return [text for text in ledger.balance().problems() if not text.startswith("aggregated")]


def test_a_change_that_cannot_work_changes_nothing() -> None:
    """One new sink can never work: the others that were opened are closed, the old ones stay."""

    class Wrong(RecordingSink):
        def open(self) -> None:
            raise ConfigError("no such file")

    old, fine = RecordingSink("old"), RecordingSink("fine")
    router, ledger = router_of(old)
    router.start()
    retry = RetryConfig()
    add = [SinkWorker(sink, BatchQueue(QueueConfig()), retry) for sink in (fine, Wrong("wrong"))]
    with pytest.raises(ConfigError):
        router.change(add=add, retarget=[], remove=["old"], timeout=1)
    assert (fine.opened, fine.closed) == (1, 1)
    router.publish(some(3), some(3).totals)
    router.stop(10)
    assert old.totals == some(3).totals
    assert list(ledger.balance().sinks) == ["old"]


def test_a_removed_sink_drains_in_its_time() -> None:
    """A dead one gives up after the timeout, and counts; publishing goes on meanwhile."""
    dead = RecordingSink("dead", Misbehaviour(failures=10**9))
    router, ledger = router_of(dead)
    router.start()
    router.publish(some(4), some(4).totals)
    changing = threading.Thread(target=router.change, args=([], [], ["dead"], 0.3))
    changing.start()
    while router.workers:
        time.sleep(0.001)
    router.publish(some(2), some(2).totals)
    assert changing.is_alive()
    changing.join(10)
    assert ledger.balance().sinks["dead"].dropped == {"shutdown": some(4).totals}
    assert problems_but_kernel(ledger) == []
    router.stop(0)


def test_ten_rows_a_second_beside_a_fast_sink() -> None:
    """The slow one's backlog grows, the fast one has each batch before the next is published."""
    slow = RecordingSink("slow", Misbehaviour(delay=0.1), rows_per_message=1)
    fast = RecordingSink("fast")
    router, ledger = router_of(slow, fast)
    router.start()
    for n in range(1, 51):
        router.publish(some(20), some(20).totals)
        assert fast.wait_for(20 * n)
    counts = ledger.balance().sinks
    assert counts["fast"].delivered.flows == 1000
    assert counts["slow"].delivered.flows < 500
    assert counts["slow"].dropped == counts["fast"].dropped == {}
    router.stop(0)
