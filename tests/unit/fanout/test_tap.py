"""Watchers see what is published, and never hold it up."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from exporter.batch.batch import FlowBatch
from exporter.fanout import tap as module
from exporter.fanout.tap import HISTORY, Tap
from exporter.testing import Row, make_batch


def numbered(first: int, rows: int) -> FlowBatch:
    """Rows with the source ports first, first + 1, ..."""
    one = make_batch(Row()).take(np.zeros(rows, np.int64))
    one.key["src_port"] = np.arange(first, first + rows)
    return one


def ports(*batches: FlowBatch) -> list[int]:
    return [port for batch in batches for port in batch.src_port.tolist()]


def test_recent_flows_are_kept() -> None:
    """As many of the last ones as are kept at least, in order; not the memory of large batches."""
    tap = Tap()
    tap.publish(numbered(0, 10))
    tap.publish(numbered(10, HISTORY + 90))
    tap.publish(make_batch())
    tap.publish(numbered(20_000, 5))
    with tap.watch() as watcher:
        kept = ports(*watcher.recent)
        assert kept == [*range(100, HISTORY + 100), *range(20_000, 20_005)]
        assert sum(len(batch.key.base if batch.key.base is not None else batch.key)
                   for batch in watcher.recent) <= 2 * HISTORY  # fmt: skip


def test_each_watcher_sees_all() -> None:
    """From when it began to watch until it ends; nothing comes twice."""
    tap = Tap()
    with tap.watch() as first:
        tap.publish(numbered(0, 3))
        with tap.watch() as second:
            tap.publish(numbered(3, 2))
            assert ports(*second.recent) == [0, 1, 2]
            found = second.take(1)
            assert found is not None
            assert ports(found) == [3, 4]
            assert second.take(0) is None
        tap.publish(numbered(5, 1))
        taken = [first.take(0) for _ in range(3)]
        assert ports(*(batch for batch in taken if batch is not None)) == [0, 1, 2, 3, 4, 5]
        assert second.take(0) is None


def test_a_slow_watcher_misses_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told how many flows; a batch that is larger than the bound comes whole."""
    monkeypatch.setattr(module, "WAITING", 10)
    tap = Tap()
    with tap.watch() as watcher:
        for first in (0, 4, 8):
            tap.publish(numbered(first, 4))
        assert watcher.missed() == 4
        assert watcher.missed() == 0
        tap.publish(numbered(12, 100))
        assert watcher.missed() == 8
        assert (tap.missed, tap.watchers) == (12, 1)
        found = watcher.take(0)
        assert found is not None
        assert ports(found) == [*range(12, 112)]
    assert (tap.missed, tap.watchers) == (12, 0)


def test_a_drain_without_flows() -> None:
    """Is told, and not remembered."""
    tap = Tap()
    with tap.watch() as watcher:
        tap.publish(make_batch())
        found = watcher.take(0)
        assert found is not None
        assert len(found) == 0
    with tap.watch() as late:
        assert late.recent == ()


def test_the_end_is_told() -> None:
    """To who waits, and to who comes later; what waits is still given."""
    tap = Tap()
    with tap.watch() as watcher:
        tap.publish(numbered(0, 1))
        ender = threading.Timer(0.05, tap.close)
        ender.start()
        assert not watcher.closed
        assert watcher.take(10) is not None
        assert watcher.take(10) is None
        assert watcher.closed
        ender.join()
    with tap.watch() as late:
        assert late.closed
        assert ports(*late.recent) == [0]
