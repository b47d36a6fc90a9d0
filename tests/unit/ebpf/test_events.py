"""The ring of events and its subscribers."""

from __future__ import annotations

import errno
import gc
import threading
import weakref
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ebpf.errors import BpfError, MapFull, SubscribersFull, SubscriberSlow
from exporter.ebpf.events import (
    MAX_SUBSCRIBERS,
    MAX_UNREAD,
    Action,
    Desired,
    Event,
    EventRing,
)


def put(ring: EventRing, *numbers: int) -> None:
    for number in numbers:
        ring.record(Action.UPDATE, number.to_bytes(4, "big"))


def numbers(events: list[Event] | tuple[Event, ...]) -> list[int]:
    return [int.from_bytes(event.key or b"", "big") for event in events]


def test_ring_overwrites_the_oldest() -> None:
    """Of thirteen events a ring of ten has the last ten, oldest first."""
    ring = EventRing(10)
    put(ring, *range(13))
    assert numbers(ring.dump()) == list(range(3, 13))


def test_ring_of_none_keeps_nothing() -> None:
    """A ring of size 0 keeps nothing; subscribers are told all the same."""
    ring = EventRing(0)
    with ring.subscribe() as following:
        put(ring, 7)
        event = following.get(0)
    assert ring.dump() == []
    assert event is not None
    assert numbers([event]) == [7]


@pytest.mark.parametrize(("size", "ttl"), [(-1, None), (1, 0.0), (1, -1.0)])
def test_impossible_rings(size: int, ttl: float | None) -> None:
    """A negative size or a TTL that has always passed is refused."""
    with pytest.raises(ValueError, match="a ring of"):
        EventRing(size, ttl)


def test_event_keeps_no_traceback() -> None:
    """An event has its error by type and errno, and keeps nothing of the frames it passed."""

    class Heavy:
        pass

    ring, gone = EventRing(1), []

    def fail() -> None:
        heavy = Heavy()
        gone.append(weakref.ref(heavy))
        raise MapFull("update map m", errno.E2BIG)

    try:
        fail()
    except MapFull as err:
        ring.record(Action.UPDATE, b"k", b"v", Desired.INSERT, err)
    gc.collect()
    (event,) = ring.dump()
    assert type(event.error) is MapFull
    assert (event.error.phase, event.error.errno) == ("update map m", errno.E2BIG)
    assert event.error.__traceback__ is None
    assert gone[0]() is None


def test_ttl() -> None:
    """An event that is older than the TTL is in no dump; one that is just as old is."""
    now = [0]
    ring = EventRing(10, ttl=2.0, clock=lambda: now[0])
    for second in range(5):
        now[0] = second * 10**9
        put(ring, second)
    assert numbers(ring.dump()) == [2, 3, 4]
    now[0] += 1
    assert numbers(ring.dump()) == [3, 4]
    now[0] += 10**10
    assert len(ring) == 0
    put(ring, 9)
    assert numbers(ring.dump()) == [9]


class Model:
    """The ring as a list."""

    def __init__(self, size: int, ttl_ns: int | None) -> None:
        self.size, self.ttl_ns = size, ttl_ns
        self.events: list[tuple[int, int]] = []

    def put(self, now: int, number: int) -> None:
        self.events = [*self.alive(now), (now, number)][-self.size :] if self.size else []

    def alive(self, now: int) -> list[tuple[int, int]]:
        return [e for e in self.events if self.ttl_ns is None or e[0] >= now - self.ttl_ns]


@given(
    size=st.integers(0, 6),
    ttl=st.none() | st.integers(1, 5),
    steps=st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=60),
)
def test_ring_is_a_list_that_forgets(
    size: int, ttl: int | None, steps: list[tuple[int, bool]]
) -> None:
    """At every moment a ring has what a list cut to size and age has, ordered by time."""
    now = [0]
    ring = EventRing(size, None if ttl is None else ttl / 1e9, clock=lambda: now[0])
    model = Model(size, ttl)
    for number, (pause, write) in enumerate(steps):
        now[0] += pause
        if write:
            put(ring, number)
            model.put(now[0], number)
        found = ring.dump()
        assert numbers(found) == [n for _, n in model.alive(now[0])]
        assert len(ring) == len(found) <= size
        assert all(one.mono_ns <= other.mono_ns for one, other in pairwise(found))


def test_subscription_has_no_gap_and_no_duplicate() -> None:
    """While another thread writes, past and following events are all events, once each."""
    ring, begin, read = EventRing(5000), threading.Event(), threading.Semaphore(0)

    def write() -> None:
        for number in range(2000):
            if number == 100:
                begin.set()
            if number >= 100:
                # Never more unread than fit.
                read.acquire(timeout=10)
            put(ring, number)

    writer = threading.Thread(target=write)
    writer.start()
    assert begin.wait(10)
    for _ in range(MAX_UNREAD - 1):
        read.release()
    with ring.subscribe() as following:
        seen = numbers(following.past)
        while len(seen) < 2000:
            event = following.get(10)
            assert event is not None
            seen += numbers([event])
            read.release()
    writer.join()
    assert seen == list(range(2000))


def test_slow_subscriber_is_closed_at_the_33rd_unread_event() -> None:
    """32 unread events are kept; the 33rd closes it, and the 32 can still be read."""
    ring = EventRing(0)
    slow, quick = ring.subscribe(), ring.subscribe()
    put(ring, *range(MAX_UNREAD))
    assert not slow.closed
    assert ring.subscribers() == 2
    assert quick.get(0) is not None
    put(ring, MAX_UNREAD)
    assert slow.closed
    assert not quick.closed
    assert ring.subscribers() == 1
    assert [slow.get(0) for _ in range(MAX_UNREAD)].count(None) == 0
    with pytest.raises(SubscriberSlow, match="32 events were not read in time"):
        slow.get(0)
    assert len(list(zip(range(MAX_UNREAD), quick, strict=False))) == MAX_UNREAD
    slow.close()
    quick.close()


def test_iteration_tells_of_loss() -> None:
    """A loop over a subscription that was too slow ends with the error, not as if all was read."""
    ring = EventRing(0)
    slow = ring.subscribe()
    put(ring, *range(MAX_UNREAD + 5))
    seen: list[Event] = []
    with pytest.raises(SubscriberSlow):
        seen.extend(slow)
    assert numbers(seen) == list(range(MAX_UNREAD))


def test_32_subscribers_and_no_more() -> None:
    """The 33rd subscriber is refused, until another has left."""
    ring = EventRing(1)
    following = [ring.subscribe() for _ in range(MAX_SUBSCRIBERS)]
    with pytest.raises(SubscribersFull, match="32 subscribers"):
        ring.subscribe()
    following[0].close()
    ring.subscribe().close()
    ring.close()
    ring.close()
    assert ring.subscribers() == 0
    assert all(one.closed and one.get() is None for one in following)


def test_close_again() -> None:
    """Closing twice is fine; unread events are still read, then there are none."""
    ring = EventRing(0)
    following = ring.subscribe()
    put(ring, 1)
    following.close()
    following.close()
    put(ring, 2)
    assert numbers(list(following)) == [1]
    assert following.get() is None


def test_close_races_with_a_write() -> None:
    """A reader may leave at any moment of a write: no error on either side, nobody waits."""
    ring, done = EventRing(0), threading.Event()
    failures: list[threading.ExceptHookArgs] = []
    hook, threading.excepthook = threading.excepthook, failures.append
    try:

        def write() -> None:
            while not done.is_set():
                put(ring, 0)

        writers = [threading.Thread(target=write) for _ in range(2)]
        for writer in writers:
            writer.start()
        for _ in range(500):
            following = ring.subscribe()
            following.get(0)
            following.close()
        done.set()
        for writer in writers:
            writer.join(10)
            assert not writer.is_alive()
    finally:
        threading.excepthook = hook
    assert failures == []
    assert ring.subscribers() == 0


def test_close_wakes_a_reader() -> None:
    """A reader that waits without end is woken by another thread's close, and gets nothing."""
    ring, got = EventRing(0), list[Event | None]()
    following = ring.subscribe()
    reader = threading.Thread(target=lambda: got.append(following.get()))
    reader.start()
    following.close()
    reader.join(10)
    assert got == [None]


def test_no_event_in_time() -> None:
    """A timeout that passes gives nothing and closes nothing."""
    with EventRing(0).subscribe() as following:
        assert following.get(0.001) is None
        assert not following.closed


def test_errors_are_of_the_tree() -> None:
    """Whoever catches BpfError catches these."""
    assert issubclass(SubscriberSlow, BpfError)
    assert issubclass(SubscribersFull, BpfError)
