"""A map whose writes are seen, without a memory of what it should have."""

from __future__ import annotations

import errno

import pytest

from exporter.ebpf.errors import BpfError, KeyExists, KeyNotFound, MapFull
from exporter.ebpf.events import Action, Desired, EventRing
from exporter.ebpf.maps import BPF_NOEXIST
from exporter.ebpf.pressure import Pressure
from exporter.ebpf.watched import WatchedMap
from tests.unit.ebpf.tables import MemoryTable

A, B, C = b"a", b"b", b"c"


def told(events: EventRing) -> list[tuple[Action, bytes | None, bytes | None, Desired, int]]:
    return [
        (e.action, e.key, e.value, e.desired, e.error.errno if e.error else 0)
        for e in events.dump()
    ]


def test_every_write_is_told_and_no_read() -> None:
    """Updates, deletions and a delete-all are events, failed ones too; a lookup is none."""
    table, events = MemoryTable(1), EventRing(100)
    watched = WatchedMap(table, events=events)
    watched.update(A, b"1")
    with pytest.raises(MapFull):
        watched.update(B, b"2")
    with pytest.raises(KeyExists):
        watched.update(A, b"2", BPF_NOEXIST)
    assert watched.lookup(A) == b"1"
    assert watched.next_key() == A
    with pytest.raises(KeyNotFound):
        watched.delete(C)
    assert watched.silent_delete(C) is False
    watched.delete(A)
    watched.delete_all()
    assert told(events) == [
        (Action.UPDATE, A, b"1", Desired.OK, 0),
        (Action.UPDATE, B, b"2", Desired.INSERT, errno.E2BIG),
        (Action.UPDATE, A, b"2", Desired.OK, errno.EEXIST),
        (Action.DELETE, C, None, Desired.OK, errno.ENOENT),
        (Action.DELETE, C, None, Desired.OK, 0),
        (Action.DELETE, A, None, Desired.OK, 0),
        (Action.DELETE_ALL, None, None, Desired.OK, 0),
    ]


def test_a_failed_delete_is_told() -> None:
    """Its event has the reason and says that it is still to be done."""
    table, events = MemoryTable(), EventRing(100)
    watched = WatchedMap(table, events=events)
    watched.update(A, b"1")
    table.refused[A] = errno.EBUSY
    with pytest.raises(BpfError, match="EBUSY"):
        watched.delete(A)
    assert told(events)[1:] == [(Action.DELETE, A, None, Desired.DELETE, errno.EBUSY)]


def test_pressure_by_keys() -> None:
    """It counts the keys written here: an overwritten one once, a deleted one no more."""
    table = MemoryTable(4)
    pressure = Pressure(table.spec)
    watched = WatchedMap(table, pressure=pressure)
    assert pressure.reading() is None
    watched.update(A, b"1")
    watched.update(A, b"2")
    watched.update(B, b"1")
    assert pressure.reading() == 0.5
    watched.delete(A)
    assert pressure.reading() == 0.25
    with pytest.raises(KeyNotFound):
        watched.delete(A)
    assert pressure.reading() == 0.25
    watched.delete_all()
    assert pressure.reading() is None


def test_operations() -> None:
    """Calls are counted by operation and outcome, with the time that they took."""
    watched = WatchedMap(MemoryTable(1))
    watched.update(A, b"1")
    watched.update(A, b"2")
    with pytest.raises(MapFull):
        watched.update(B, b"1")
    with pytest.raises(KeyNotFound):
        watched.lookup(C)
    watched.delete(A)
    found = watched.operations()
    assert {place: one.count for place, one in found.items()} == {
        ("update", "ok"): 2,
        ("update", "E2BIG"): 1,
        ("lookup", "ENOENT"): 1,
        ("delete", "ok"): 1,
    }
    assert all(0 < one.seconds < 10 for one in found.values())


def test_ensure() -> None:
    """It writes only what the map has not, or has otherwise."""
    table = MemoryTable()
    watched = WatchedMap(table)
    assert [watched.ensure(A, b"1"), watched.ensure(A, b"1"), watched.ensure(A, b"2")] == [
        True,
        False,
        True,
    ]
    assert table.calls == [("update", A), ("update", A)]


class VanishingTable(MemoryTable):
    """Others remove an element between the walk and the lookup."""

    def lookup(self, key: bytes, /) -> bytes:
        self.content.pop(A, None)
        return super().lookup(key)


def test_adopt_while_others_delete() -> None:
    """An element that is gone before it is read is not adopted."""
    table = VanishingTable()
    table.content |= {A: b"1", B: b"2"}
    pressure = Pressure(table.spec)
    assert WatchedMap(table, pressure=pressure).adopt() == 1
    assert pressure.ratio == 0.25


def test_adopt_what_changes_too_fast() -> None:
    """A walk without end is an error: half of a map is not what it has."""

    class ChurningTable(MemoryTable):
        def next_key(self, key: bytes | None = None, /) -> bytes | None:
            return super().next_key(key) or super().next_key()

    table = ChurningTable()
    table.content[A] = b"1"
    with pytest.raises(BpfError, match="EAGAIN"):
        WatchedMap(table).adopt()
