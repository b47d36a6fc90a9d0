"""What the log says while the spool of an earlier agent is replayed."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from exporter.batch.batch import Totals
from exporter.fanout import catching_up
from exporter.fanout.catching_up import CatchingUp
from exporter.fanout.config import QueueConfig, SpoolConfig
from exporter.fanout.queue import BatchQueue
from exporter.fanout.spool.spool import Spool
from exporter.fanout.worker import SinkWorker
from exporter.ledger import SinkCounts
from exporter.testing import Misbehaviour, RecordingSink
from tests.unit.fanout.test_worker import QUICK, some


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Without how long it took."""
    lines = [record.getMessage() for record in caplog.records if "earlier agent" in record.message]
    return [re.sub(r"in [\d.]+ s, \d+ flows/s", "in T", line) for line in lines]


def test_a_spool_is_replayed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """How much waits, and that it is delivered; nothing of a spool in which nothing waits."""
    caplog.set_level(logging.INFO)
    sink = RecordingSink(misbehaviour=Misbehaviour(failures=10**9))
    for sender, patience in ((sink, 0.05), (RecordingSink(), 10), (RecordingSink(), 10)):
        queue = BatchQueue(QueueConfig(rows=10), Spool(SpoolConfig(directory=tmp_path), "s"))
        worker = SinkWorker(sender, queue, QUICK)
        worker.start()
        if sender is sink:
            for start in range(0, 40, 8):
                queue.put(some(8, start), queue.store(some(8, start)))
            assert said(caplog) == []
        worker.stop(patience)
    name = sink.name
    assert said(caplog) == [
        f"sink {name}: 40 flows of an earlier agent wait in its spool",
        f"sink {name}: replayed the spool of an earlier agent: 40 flows in T",
    ]


def test_how_far_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A line now and then with the part that was delivered or given up; none afterwards."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(catching_up, "EVERY", 0.0)
    delivered = [Totals()]
    dropped = {"spool_expired": Totals(20, 20, 20)}
    counts = lambda: SinkCounts(  # noqa: E731
        recovered=Totals(200, 200, 200), delivered=delivered[0], dropped=dropped
    )
    one = CatchingUp("s", counts)
    one.begin()
    for flows in (30, 130, 180, 190):
        delivered[0] = Totals(flows, flows, flows)
        one.look()
    lines = [re.sub(r", \d+ flows/s", "", line) for line in said(caplog)]
    assert lines == [
        "sink s: 200 flows of an earlier agent wait in its spool",
        "sink s: 25 % of 200 flows of an earlier agent are replayed",
        "sink s: 75 % of 200 flows of an earlier agent are replayed",
        "sink s: replayed the spool of an earlier agent: 200 flows in T",
    ]
