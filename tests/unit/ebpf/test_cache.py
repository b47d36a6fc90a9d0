"""A map with a memory of how it should be, on a table that refuses what the test wants."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ebpf.cache import CachedMap, Entry
from exporter.ebpf.errors import BpfError, KeyExists, KeyNotFound, MapFull
from exporter.ebpf.events import Action, Desired, EventRing
from exporter.ebpf.maps import BPF_EXIST, BPF_NOEXIST
from exporter.ebpf.pressure import Pressure
from exporter.ebpf.retry import RetryPolicy, Round
from tests.unit.ebpf.tables import HandClock, MemoryTable, eventually

A, B, C = b"a", b"b", b"c"


class Rig:
    """A cached map whose time stands still."""

    def __init__(self, max_entries: int = 4, **retry: float) -> None:
        self.table, self.clock = MemoryTable(max_entries), HandClock()
        self.events = EventRing(100)
        self.pressure = Pressure(self.table.spec)
        self.map = CachedMap(
            self.table,
            events=self.events,
            pressure=self.pressure,
            retry=RetryPolicy(max_errors=int(retry.get("max_errors", 512))),
            clock=self.clock,
        )

    def states(self) -> list[tuple[bytes, bytes, Desired]]:
        return [(e.key, e.value, e.desired) for e in self.map.entries()]

    def told(self) -> list[tuple[Action, bytes | None, Desired, int]]:
        return [
            (e.action, e.key, e.desired, e.error.errno if e.error else 0)
            for e in self.events.dump()
        ]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    with made.map:
        yield made


@pytest.fixture
def small() -> Iterator[Rig]:
    """There is room for one element."""
    made = Rig(max_entries=1)
    with made.map:
        yield made


def test_update_and_delete(rig: Rig) -> None:
    """What the kernel took is in sync; what it removed is forgotten."""
    rig.map.update(A, b"1")
    rig.map.update(A, b"2")
    rig.map.update(B, b"3")
    assert rig.states() == [(A, b"2", Desired.OK), (B, b"3", Desired.OK)]
    rig.map.delete(A)
    assert rig.states() == [(B, b"3", Desired.OK)]
    assert rig.table.content == {B: b"3"}
    assert rig.map.lookup(B) == b"3"
    assert rig.map.next_key() == B
    assert rig.map.controller.due is None


def test_what_did_not_fit_appears_by_itself(small: Rig) -> None:
    """With room for one, the second insert fails; 200 ms after the first is deleted it is there."""
    small.map.update(A, b"1")
    with pytest.raises(MapFull):
        small.map.update(B, b"2")
    entry = small.map.entry(B)
    assert entry is not None
    assert (entry.desired, type(entry.error)) == (Desired.INSERT, MapFull)
    small.clock.advance(0.201)
    eventually(lambda: small.map.controller.rounds == 1)
    assert small.table.content == {A: b"1"}
    small.map.delete(A)
    small.clock.advance(0.201)
    eventually(lambda: small.table.content == {B: b"2"})
    eventually(lambda: small.map.controller.rounds == 2)
    assert small.states() == [(B, b"2", Desired.OK)]
    assert small.map.controller.due is None


def test_what_did_not_fit_is_deleted(small: Rig) -> None:
    """Deleting the one that waits is no error, and leaves the first one alone."""
    small.map.update(A, b"1")
    with pytest.raises(MapFull):
        small.map.update(B, b"2")
    small.map.delete(B)
    assert small.states() == [(A, b"1", Desired.OK)]
    small.clock.advance(0.201)
    eventually(lambda: small.map.controller.rounds == 1)
    assert small.table.content == {A: b"1"}
    assert small.map.controller.due is None


def test_the_value_wanted_last_is_the_one_that_appears(small: Rig) -> None:
    """An update of one that waits replaces what it waits with."""
    small.map.update(A, b"1")
    for value in (b"2", b"3"):
        with pytest.raises(MapFull):
            small.map.update(B, value)
    small.map.delete(A)
    assert small.map.resolve() == Round(1, 0, 0)
    assert small.table.content == {B: b"3"}


def test_delete_of_a_missing_key(rig: Rig) -> None:
    """It is an error, told to the events, and leaves nothing to be done: the key is not there."""
    with pytest.raises(KeyNotFound):
        rig.map.delete(A)
    assert rig.states() == []
    assert rig.map.controller.due is None
    assert rig.told() == [(Action.DELETE, A, Desired.OK, errno.ENOENT)]


def test_silent_delete(rig: Rig) -> None:
    """It says whether there was something, and fails only where the kernel refuses."""
    rig.map.update(A, b"1")
    assert rig.map.silent_delete(A) is True
    assert rig.map.silent_delete(A) is False
    rig.table.refused[A] = errno.EBUSY
    with pytest.raises(BpfError, match="EBUSY"):
        rig.map.silent_delete(A)


def test_failed_delete_is_done_later(rig: Rig) -> None:
    """An element that the kernel would not remove waits with the reason, and is removed later."""
    rig.map.update(A, b"1")
    rig.table.refused[A] = errno.EBUSY
    with pytest.raises(BpfError, match="EBUSY"):
        rig.map.delete(A)
    (entry,) = rig.map.entries()
    assert (entry.key, entry.value, entry.desired) == (A, b"1", Desired.DELETE)
    assert entry.error is not None
    assert entry.error.errno == errno.EBUSY
    assert entry.error.__traceback__ is None
    rig.table.refused.clear()
    rig.clock.advance(0.201)
    eventually(lambda: rig.map.entries() == [])
    assert rig.table.content == {}


def test_deletion_that_others_did(rig: Rig) -> None:
    """An element that waits to be deleted and is gone meanwhile is done with."""
    rig.map.update(A, b"1")
    rig.table.refused[A] = errno.EBUSY
    with pytest.raises(BpfError):
        rig.map.delete(A)
    rig.table.refused.clear()
    del rig.table.content[A]
    assert rig.map.resolve() == Round(1, 0, 0)
    assert rig.states() == []


def test_deletions_make_room_for_insertions(small: Rig) -> None:
    """One round suffices for an insertion that waits for a deletion, whichever failed first."""
    small.map.update(A, b"1")
    with pytest.raises(MapFull):
        small.map.update(B, b"2")
    small.table.refused[A] = errno.EBUSY
    with pytest.raises(BpfError):
        small.map.delete(A)
    small.table.refused.clear()
    assert small.map.resolve() == Round(2, 0, 0)
    assert small.table.content == {B: b"2"}


def test_invalid_requests_are_not_tried_again(rig: Rig) -> None:
    """What the kernel calls invalid is raised, told, and changes nothing that is wanted."""
    rig.map.update(A, b"1")
    rig.table.refused[A] = errno.EINVAL
    with pytest.raises(BpfError, match="EINVAL"):
        rig.map.update(A, b"2")
    with pytest.raises(BpfError, match="EINVAL"):
        rig.map.delete(A)
    assert rig.states() == [(A, b"1", Desired.OK)]
    assert rig.map.controller.due is None
    assert rig.told()[1:] == [
        (Action.UPDATE, A, Desired.OK, errno.EINVAL),
        (Action.DELETE, A, Desired.OK, errno.EINVAL),
    ]


def test_conditions_that_do_not_hold_are_answers(rig: Rig) -> None:
    """BPF_NOEXIST and BPF_EXIST that fail as they say leave nothing to be done."""
    rig.map.update(A, b"1", BPF_NOEXIST)
    with pytest.raises(KeyExists):
        rig.map.update(A, b"2", BPF_NOEXIST)
    with pytest.raises(KeyNotFound):
        rig.map.update(B, b"2", BPF_EXIST)
    assert rig.states() == [(A, b"1", Desired.OK)]
    assert rig.map.controller.due is None


def test_a_round_ends_after_512_errors() -> None:
    """Of 600 elements that fail, 512 are tried in a round; the next begins with the others."""
    rig = Rig(max_entries=0)
    with rig.map:
        keys = [number.to_bytes(2, "big") for number in range(600)]
        for key in keys:
            with pytest.raises(MapFull):
                rig.map.update(key, b"v")
        rig.table.calls.clear()
        assert rig.map.resolve() == Round(0, 512, 600)
        assert rig.table.calls == [("update", key) for key in keys[:512]]
        rig.table.calls.clear()
        assert rig.map.resolve() == Round(0, 512, 600)
        assert rig.table.calls[:88] == [("update", key) for key in keys[512:]]


def test_delete_all(rig: Rig) -> None:
    """Everything goes, also what others wrote and what waits to be inserted; one event tells it."""
    rig.table.content[C] = b"theirs"
    rig.map.update(A, b"1")
    rig.table.refused[B] = errno.ENOMEM
    with pytest.raises(BpfError):
        rig.map.update(B, b"2")
    rig.table.refused.clear()
    rig.map.delete_all()
    assert rig.table.content == {}
    assert rig.states() == []
    assert rig.told()[2:] == [(Action.DELETE_ALL, None, Desired.OK, 0)]
    assert rig.map.resolve() == Round(0, 0, 0)


def test_delete_all_goes_on_after_an_error(rig: Rig) -> None:
    """What could not be removed is marked with the reason, the rest is gone, and it heals."""
    for key in (A, B, C):
        rig.map.update(key, b"1")
    rig.table.refused[A] = errno.EBUSY
    with pytest.raises(ExceptionGroup) as caught:
        rig.map.delete_all()
    assert [type(err) for err in caught.value.exceptions] == [BpfError]
    assert rig.table.content == {A: b"1"}
    assert rig.states() == [(A, b"1", Desired.DELETE)]
    assert rig.told()[3:] == [(Action.DELETE_ALL, None, Desired.DELETE, errno.EBUSY)]
    rig.table.refused.clear()
    rig.clock.advance(0.201)
    eventually(lambda: rig.table.content == {})


class ChurningTable(MemoryTable):
    """Its walk comes to no end."""

    def next_key(self, key: bytes | None = None, /) -> bytes | None:
        return super().next_key(key) or super().next_key()


def test_delete_all_of_a_map_that_changes_too_fast() -> None:
    """A walk without end is bounded and told, and what it found is removed."""
    table = ChurningTable()
    with CachedMap(table) as cached:
        cached.update(A, b"1")
        with pytest.raises(ExceptionGroup) as caught:
            cached.delete_all()
        (error,) = caught.value.exceptions
        assert "EAGAIN" in str(error)
        assert table.content == {}


def test_ensure(rig: Rig) -> None:
    """It writes what is missing or different, and takes what is there as wanted."""
    rig.table.content[A] = b"1"
    assert rig.map.ensure(A, b"1") is False
    assert rig.map.ensure(A, b"2") is True
    assert rig.map.ensure(B, b"3") is True
    assert rig.states() == [(A, b"2", Desired.OK), (B, b"3", Desired.OK)]


def test_ensure_calls_off_a_deletion(rig: Rig) -> None:
    """What is wanted again is not removed by a deletion that waits."""
    rig.map.update(A, b"1")
    rig.table.refused[A] = errno.EBUSY
    with pytest.raises(BpfError):
        rig.map.delete(A)
    rig.table.refused.clear()
    assert rig.map.ensure(A, b"1") is False
    assert rig.map.resolve() == Round(0, 0, 0)
    assert rig.table.content == {A: b"1"}


def test_adopt(rig: Rig) -> None:
    """What a map has already becomes what is wanted, and its pressure."""
    rig.table.content |= {A: b"1", B: b"2"}
    assert rig.map.adopt() == 2
    assert rig.map.entries() == [Entry(A, b"1"), Entry(B, b"2")]
    assert rig.pressure.ratio == 0.5
    assert rig.told() == []


def test_pressure(small: Rig) -> None:
    """It counts what is wanted, is above 1 while something waits, and falls with a deletion."""
    small.map.update(A, b"1")
    assert small.pressure.reading() == 1.0
    with pytest.raises(MapFull):
        small.map.update(B, b"2")
    assert small.pressure.reading() == 2.0
    small.map.delete(A)
    assert small.pressure.reading() == 1.0
    small.map.delete_all()
    assert small.pressure.reading() is None


def test_retries_are_events(small: Rig) -> None:
    """Each retry is told, also one that fails again."""
    small.map.update(A, b"1")
    with pytest.raises(MapFull):
        small.map.update(B, b"2")
    small.map.resolve()
    small.map.delete(A)
    small.map.resolve()
    assert small.told() == [
        (Action.UPDATE, A, Desired.OK, 0),
        (Action.UPDATE, B, Desired.INSERT, errno.E2BIG),
        (Action.UPDATE, B, Desired.INSERT, errno.E2BIG),
        (Action.DELETE, A, Desired.OK, 0),
        (Action.UPDATE, B, Desired.OK, 0),
    ]


def test_close(small: Rig) -> None:
    """After close nothing is retried; what is wanted stays known; again is fine."""
    small.map.update(A, b"1")
    with pytest.raises(MapFull):
        small.map.update(B, b"2")
    small.map.close()
    small.map.close()
    del small.table.content[A]
    small.clock.advance(100)
    assert small.table.content == {}
    assert small.map.waiting() == 1
    assert not any(thread.name == "retry numbers" for thread in threading.enumerate())


KEYS = st.sampled_from([A, B, C, b"d"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("update"), KEYS, st.sampled_from([b"1", b"2"])),
        st.tuples(st.just("ensure"), KEYS, st.sampled_from([b"1", b"2"])),
        st.tuples(st.sampled_from(["delete", "silent_delete", "refuse", "allow"]), KEYS),
        st.tuples(st.sampled_from(["delete_all", "resolve"])),
    ),
    max_size=40,
)


@given(max_entries=st.integers(0, 3), steps=STEPS)
def test_cache_against_a_model(max_entries: int, steps: list[tuple[object, ...]]) -> None:
    """
    Whatever is refused on the way: entries in sync are as the kernel has them, the others say why
    not, and once nothing is refused any more the kernel has what a dictionary has, if it fits.
    """
    table, wanted, events = MemoryTable(max_entries), dict[bytes, bytes](), EventRing(1000)
    cached = CachedMap(table, events=events, retry=RetryPolicy(first=1e6, cap=1e6))
    writes = 0
    with cached:
        for name, *arguments in steps:
            if name in ("refuse", "allow"):
                table.refused.pop(arguments[0], None)  # type: ignore[call-overload]
                if name == "refuse":
                    table.refused[arguments[0]] = errno.EBUSY  # type: ignore[index]
                continue
            _apply(wanted, str(name), arguments)
            writes += name in ("update", "delete", "silent_delete", "delete_all")
            with contextlib.suppress(BpfError, ExceptionGroup):
                getattr(cached, str(name))(*arguments)
            for entry in cached.entries():
                if entry.desired is Desired.OK:
                    assert table.content[entry.key] == entry.value
                    assert entry.error is None
                else:
                    assert entry.error is not None
            assert _desired(cached) == wanted
        assert len(events) >= writes
        table.refused.clear()
        outcome = cached.resolve()
        assert cached.waiting() == outcome.left == max(len(wanted) - max_entries, 0)
        assert set(table.content.items()) <= set(wanted.items())
        assert len(table.content) == min(len(wanted), max_entries)


def _desired(cached: CachedMap) -> dict[bytes, bytes]:
    return {e.key: e.value for e in cached.entries() if e.desired is not Desired.DELETE}


def _apply(wanted: dict[bytes, bytes], name: str, arguments: list[object]) -> None:
    key = arguments[0] if arguments else b""
    assert isinstance(key, bytes)
    if name in ("update", "ensure"):
        assert isinstance(arguments[1], bytes)
        wanted[key] = arguments[1]
    elif name in ("delete", "silent_delete"):
        wanted.pop(key, None)
    elif name == "delete_all":
        wanted.clear()
