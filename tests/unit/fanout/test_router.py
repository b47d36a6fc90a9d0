"""One batch to every sink, booked in the ledger; none waits for another."""

from __future__ import annotations

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
