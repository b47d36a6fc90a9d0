"""Maps of the kernel that are watched: retries, events and pressure."""

from __future__ import annotations

import errno
import threading

import pytest

from exporter.ebpf.cache import CachedMap
from exporter.ebpf.errors import BpfError, KeyNotFound, MapFull
from exporter.ebpf.events import Action, Desired, EventRing
from exporter.ebpf.maps import TYPES
from exporter.ebpf.pressure import Pressure
from exporter.ebpf.retry import RetryPolicy
from exporter.ebpf.watched import WatchedMap
from tests.kernel.watched_maps import NO_PREALLOC, content, kernel_map, number, prefix
from tests.unit.ebpf.tables import HandClock, eventually

SOON = RetryPolicy(first=0.01, interval=0.01)
#: A trie whose inner nodes come and go with its leaves.
SIMILAR = ("192.0.2.0/32", "192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32")


def test_what_did_not_fit_appears_by_itself() -> None:
    """With room for one, the second insert fails; the first is deleted, and the second appears."""
    with kernel_map("hash", 4, 4, 1) as table, CachedMap(table, clock=(clock := HandClock())) as m:
        m.update(number(1), number(10))
        with pytest.raises(MapFull):
            m.update(number(2), number(20))
        clock.advance(0.201)
        eventually(lambda: m.controller.rounds == 1)
        assert content(table) == {number(1): number(10)}
        m.delete(number(1))
        clock.advance(0.201)
        eventually(lambda: content(table) == {number(2): number(20)})
        eventually(lambda: m.controller.rounds == 2)
        assert m.waiting() == 0
        assert m.controller.due is None


def test_what_did_not_fit_is_deleted() -> None:
    """Deleting the one that failed leaves the first, and the controller has nothing to do."""
    with kernel_map("hash", 4, 4, 1) as table, CachedMap(table, clock=(clock := HandClock())) as m:
        m.update(number(1), number(10))
        with pytest.raises(MapFull):
            m.update(number(2), number(20))
        m.delete(number(2))
        clock.advance(0.201)
        eventually(lambda: m.controller.rounds == 1)
        assert content(table) == {number(1): number(10)}
        assert m.controller.due is None


def test_it_heals_by_the_real_clock() -> None:
    """Without anybody moving time: room is made behind the cache's back, and it is used."""
    with kernel_map("hash", 4, 4, 1) as table, CachedMap(table, retry=SOON) as cached:
        table.update(number(1), number(10))
        with pytest.raises(MapFull):
            cached.update(number(2), number(20))
        table.delete(number(1))
        eventually(lambda: content(table) == {number(2): number(20)})
        eventually(lambda: cached.waiting() == 0)


@pytest.mark.parametrize("kind", ["hash", "lpm_trie"])
def test_delete_of_a_missing_key(kind: str) -> None:
    """It raises, and its event has the error; done silently it says that there was nothing."""
    flags = NO_PREALLOC if kind == "lpm_trie" else 0
    events = EventRing(10)
    with (
        kernel_map(kind, 8, 4, 4, flags) as table,
        CachedMap(table, events=events, retry=SOON) as cached,
    ):
        missing = prefix("192.0.2.1/32")
        with pytest.raises(KeyNotFound):
            cached.delete(missing)
        assert cached.silent_delete(missing) is False
        assert [(e.action, e.error and e.error.errno) for e in events.dump()] == [
            (Action.DELETE, errno.ENOENT),
            (Action.DELETE, None),
        ]
        assert cached.entries() == []


def test_delete_all_of_a_trie() -> None:
    """Of similar prefixes none survives: keys are collected before the first is deleted."""
    with (
        kernel_map("lpm_trie", 8, 4, 8, NO_PREALLOC) as table,
        CachedMap(table, retry=SOON) as cached,
    ):
        for text in (*SIMILAR, "192.0.2.0/24", "0.0.0.0/0"):
            cached.update(prefix(text), number(1))
        cached.delete_all()
        assert content(table) == {}
        assert cached.entries() == []


def test_delete_all_of_an_array() -> None:
    """An array cannot delete: each element is told, and nothing waits for what cannot be."""
    with kernel_map("array", 4, 4, 3) as table, CachedMap(table, retry=SOON) as cached:
        cached.update(number(0), number(7))
        with pytest.raises(ExceptionGroup) as caught:
            cached.delete_all()
        assert [err.errno for err in caught.value.exceptions if isinstance(err, BpfError)] == [
            errno.EINVAL
        ] * 3
        assert cached.waiting() == 0
        assert [(e.key, e.desired) for e in cached.entries()] == [(number(0), Desired.OK)]


def test_a_closed_map() -> None:
    """Writes to a map that was closed fail with EBADF and wait; closing the cache ends it."""
    with kernel_map("hash", 4, 4, 1) as table, CachedMap(table, retry=SOON) as cached:
        table.close()
        with pytest.raises(BpfError, match="EBADF"):
            cached.update(number(1), number(1))
        (entry,) = cached.entries()
        assert entry.desired is Desired.INSERT
        eventually(lambda: cached.controller.rounds > 1)
    assert cached.controller.due is None


@pytest.mark.parametrize("kind", ["percpu_hash", "hash"])
def test_writers_and_the_controller(kind: str) -> None:
    """Threads that insert and delete more than fits: in the end the kernel has what is wanted."""
    with (
        kernel_map(kind, 4, 8, 32) as table,
        CachedMap(table, events=EventRing(64), retry=SOON) as cached,
    ):
        value = bytes(table.value_octets)

        def work(base: int) -> None:
            for turn in range(400):
                key = number(base + turn % 20)
                try:
                    if turn % 3 == 2:
                        cached.silent_delete(key)
                    else:
                        cached.update(key, value)
                except MapFull:
                    continue

        threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        wanted = sorted(entry.key for entry in cached.entries())
        for key in wanted[32:]:
            cached.delete(key)
        eventually(lambda: cached.waiting() == 0)
        assert sorted(content(table)) == wanted[:32]


def test_pressure_of_a_real_map() -> None:
    """Full, half full, empty: after each write the gauge says so."""
    with kernel_map("hash", 4, 4, 4) as table:
        pressure = Pressure(table.spec, threshold=0.4)
        watched = WatchedMap(table, pressure=pressure)
        readings = []
        for key in range(4):
            watched.update(number(key), number(0))
            readings.append(pressure.reading())
        for key in range(4):
            watched.delete(number(key))
            readings.append(pressure.reading())
        assert readings == [None, 0.5, 0.75, 1.0, 0.75, 0.5, None, None]


@pytest.mark.parametrize("kind", sorted(name for name in TYPES.values() if "lru" in name))
def test_an_lru_map_has_no_pressure(kind: str) -> None:
    """A live LRU map is skipped, however much is written to it."""
    with kernel_map(kind, 4, 8, 8) as table:
        pressure = Pressure(table.spec)
        watched = WatchedMap(table, pressure=pressure)
        for key in range(32):
            watched.update(number(key), bytes(table.value_octets))
        assert pressure.reading() is None


def test_adopt_a_map_that_has_elements() -> None:
    """A cache on a map that was filled before has its elements as wanted."""
    with kernel_map("hash", 4, 4, 4) as table:
        table.update(number(1), number(10))
        table.update(number(2), number(20))
        pressure = Pressure(table.spec)
        with CachedMap(table, pressure=pressure) as cached:
            assert cached.adopt() == 2
            assert {e.key: e.value for e in cached.entries()} == content(table)
            assert pressure.reading() == 0.5


def test_events_of_a_real_map() -> None:
    """The ring of ten has the last ten writes of thirteen; lookups are none of them."""
    events = EventRing(10)
    with kernel_map("hash", 4, 4, 16) as table:
        watched = WatchedMap(table, events=events)
        with events.subscribe() as following:
            for key in range(13):
                watched.update(number(key), number(key))
                watched.lookup(number(key))
            dumped = events.dump()
            assert [event.key for event in dumped] == [number(key) for key in range(3, 13)]
            assert [following.get(0) for _ in range(13)][3:] == dumped
