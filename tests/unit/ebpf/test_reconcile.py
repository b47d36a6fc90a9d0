"""Making a map what a desired table says."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ebpf.cache import CachedMap
from exporter.ebpf.errors import BpfError, MapFull
from exporter.ebpf.events import Action, Desired, EventRing
from exporter.ebpf.pressure import Pressure
from exporter.ebpf.reconcile import Changes, Pair, Reconciler, raw
from exporter.ebpf.retry import RetryPolicy
from exporter.ebpf.watched import WatchedMap
from tests.unit.ebpf.tables import MemoryTable

A, B, C = b"a", b"b", b"c"


def same(row: Pair) -> Pair:
    return row


def rig(max_entries: int = 4) -> tuple[MemoryTable, Reconciler[Pair]]:
    table = MemoryTable(max_entries)
    return table, Reconciler(table, same)


def test_update_writes_without_looking() -> None:
    """A change that is known to be one is written, also if the map has it already."""
    table, reconciler = rig()
    reconciler.update((A, b"1"))
    reconciler.update((A, b"1"))
    assert table.calls == [("update", A), ("update", A)]


def test_ensure_says_whether_it_changed_anything() -> None:
    """In a full pass only what is missing or different is written."""
    table, reconciler = rig()
    assert [reconciler.ensure(row) for row in [(A, b"1"), (A, b"1"), (A, b"2")]] == [
        True,
        False,
        True,
    ]
    assert table.calls == [("update", A), ("update", A)]


def test_delete_of_a_missing_row() -> None:
    """A row that is not there is as it should be; another refusal is an error."""
    table, reconciler = rig()
    reconciler.delete((A, b""))
    table.refused[A] = errno.EBUSY
    with pytest.raises(BpfError, match="EBUSY"):
        reconciler.delete((A, b""))


def test_prune() -> None:
    """What is not desired goes; values are not looked at."""
    table, reconciler = rig()
    table.content |= {A: b"1", B: b"2", C: b"3"}
    assert reconciler.prune([(B, b"other")]) == 2
    assert table.content == {B: b"2"}


def test_prune_joins_errors() -> None:
    """One that cannot be removed keeps no other, and all reasons are told."""
    table, reconciler = rig()
    table.content |= {A: b"1", B: b"2", C: b"3"}
    table.refused |= {A: errno.EBUSY, C: errno.EPERM}
    with pytest.raises(ExceptionGroup, match="prune map numbers") as caught:
        reconciler.prune([])
    assert [err.errno for err in caught.value.exceptions if isinstance(err, BpfError)] == [
        errno.EBUSY,
        errno.EPERM,
    ]
    assert table.content == {A: b"1", C: b"3"}


@pytest.mark.parametrize("cached", [False, True])
def test_prune_where_a_walk_skips(cached: bool) -> None:
    """
    A trie of older kernels goes on at a wrong place after a key that is gone: all keys are
    collected before the first is removed, so nothing survives.
    """

    class OldTrie(MemoryTable):
        def next_key(self, key: bytes | None = None, /) -> bytes | None:
            gone = key is not None and key not in self.content
            return None if gone else super().next_key(key)

    table = OldTrie()
    table.content |= {A: b"1", B: b"2", C: b"3"}
    target = CachedMap(table) if cached else table
    assert Reconciler(target, same).prune([]) == 3
    assert table.content == {}
    table.content |= {A: b"1", B: b"2", C: b"3"}
    WatchedMap(table).delete_all()
    assert table.content == {}


def test_prune_is_bounded() -> None:
    """A map that changes faster than it is walked ends the walk, and is told of."""

    class ChurningTable(MemoryTable):
        walked = 0

        def next_key(self, key: bytes | None = None, /) -> bytes | None:
            self.walked += 1
            return super().next_key(key) or super().next_key()

    table = ChurningTable(4)
    table.content |= {A: b"1", B: b"2"}
    with pytest.raises(ExceptionGroup) as caught:
        Reconciler(table, same).prune([(B, b"")])
    (error,) = caught.value.exceptions
    assert str(error) == (
        "walk map numbers: Resource temporarily unavailable (EAGAIN): "
        "it changes faster than it is walked"
    )
    assert table.walked <= 4 * 4 + 1
    assert table.content == {B: b"2"}


def test_reconcile() -> None:
    """A full pass writes, removes, leaves, and counts; a second one has nothing to do."""
    table, reconciler = rig()
    table.content |= {A: b"1", B: b"2", C: b"3"}
    desired = [(A, b"1"), (B, b"5"), (b"d", b"6")]
    assert reconciler.reconcile(desired) == Changes(written=2, removed=1, unchanged=1)
    assert table.content == dict(desired)
    assert reconciler.reconcile(desired) == Changes(written=0, removed=0, unchanged=3)


def test_reconcile_a_full_map() -> None:
    """Rows for which others must go first are written all the same."""
    table, reconciler = rig(max_entries=2)
    table.content |= {A: b"1", B: b"2"}
    assert reconciler.reconcile([(A, b"1"), (C, b"3")]) == Changes(1, 1, 1)
    assert table.content == {A: b"1", C: b"3"}


def test_reconcile_more_than_fits() -> None:
    """What fits is there, and what does not is told."""
    table, reconciler = rig(max_entries=2)
    with pytest.raises(ExceptionGroup, match="reconcile map numbers") as caught:
        reconciler.reconcile([(A, b"1"), (B, b"2"), (C, b"3")])
    assert [type(err) for err in caught.value.exceptions] == [MapFull]
    assert table.content == {A: b"1", B: b"2"}


ROWS = st.dictionaries(st.binary(min_size=1, max_size=1), st.binary(min_size=1, max_size=1))


@given(before=ROWS, desired=ROWS, watched=st.booleans(), spare=st.integers(0, 2))
def test_reconcile_makes_it_so(
    before: dict[bytes, bytes], desired: dict[bytes, bytes], watched: bool, spare: int
) -> None:
    """Whatever the map has before, and however full it is: it has what is desired after."""
    table = MemoryTable(max(len(before), len(desired), 1) + spare)
    table.content |= before
    target = WatchedMap(table) if watched else table
    changes = Reconciler(target, same).reconcile(desired.items())
    assert table.content == desired
    assert changes.written == len(desired.items() - before.items())
    assert changes.removed == len(before.keys() - desired.keys())
    assert changes.written + changes.unchanged == len(desired)


def test_it_goes_through_the_cache() -> None:
    """Of a cached map, what is done is remembered, told, measured, and heals."""
    table, events = MemoryTable(2), EventRing(100)
    pressure = Pressure(table.spec)
    retry = RetryPolicy(first=60)
    with CachedMap(table, events=events, pressure=pressure, retry=retry) as cached:
        reconciler = Reconciler(cached, same)
        table.content |= {A: b"1", C: b"3"}
        reconciler.reconcile([(A, b"1"), (B, b"2")])
        assert [(e.key, e.value, e.desired) for e in cached.entries()] == [
            (A, b"1", Desired.OK),
            (B, b"2", Desired.OK),
        ]
        assert pressure.reading() == 1.0
        assert [(e.action, e.key, e.desired) for e in events.dump()] == [
            (Action.UPDATE, B, Desired.INSERT),
            (Action.DELETE, C, Desired.OK),
            (Action.UPDATE, B, Desired.OK),
        ]
        with pytest.raises(ExceptionGroup):
            reconciler.reconcile([(A, b"1"), (B, b"2"), (C, b"3")])
        assert cached.waiting() == 1
        reconciler.delete((A, b""))
        assert cached.resolve().left == 0
        assert table.content == {B: b"2", C: b"3"}


def test_prune_calls_off_what_waits_to_be_inserted() -> None:
    """A row that did not fit and is desired no more does not appear later."""
    table = MemoryTable(1)
    with CachedMap(table, retry=RetryPolicy(first=60)) as cached:
        cached.update(A, b"1")
        with pytest.raises(MapFull):
            cached.update(B, b"2")
        assert Reconciler(cached, same).prune([]) == 2
        assert cached.resolve().succeeded == 0
        assert table.content == {}


def test_raw_records() -> None:
    """A record of NumPy becomes the octets that it has in memory."""
    key = np.dtype([("prefix", "<u4"), ("address", "u1", (4,))])
    value = np.dtype([("label", "<u2"), ("_pad", "u1", (2,)), ("peer", ">u4")])
    one: Any = np.array([(24, (192, 0, 2, 0))], key)[0]
    other: Any = np.array([(7, (0, 0), 0x0A000001)], value)[0]
    assert raw(one, other) == (bytes.fromhex("18000000c0000200"), bytes.fromhex("070000000a000001"))
