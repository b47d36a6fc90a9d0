"""
What happened to a map: a bounded ring of events, and subscribers who follow it.

The writer never blocks, whatever subscribers do: one that does not read is closed as soon as an
event finds no room in its queue, and learns of it by an error after the events that it still got.
Bounded by the ring's size, by 32 subscribers and by 32 unread events of each.
"""

from __future__ import annotations

import copy
import enum
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from exporter.ebpf.errors import BpfError, SubscribersFull, SubscriberSlow

#: Who follows one ring at a time. The ancestor's number; there, a thirty-third gets through.
MAX_SUBSCRIBERS = 32
#: Events that may wait for a subscriber to read them. The ancestor's number.
MAX_UNREAD = 32


class Action(enum.Enum):
    """What was done to a map."""

    UPDATE = "update"
    DELETE = "delete"
    DELETE_ALL = "delete-all"


class Desired(enum.Enum):
    """What is still to be done about an entry so that the map is as it should be."""

    OK = "sync"
    INSERT = "to-be-inserted"
    DELETE = "to-be-deleted"


@dataclass(frozen=True, slots=True)
class Event:
    """
    One write to a map, successful or not.

    Args:
        action: What was done.
        key: Octets of the key; ``None`` for all keys.
        value: Octets of the value of an update, else ``None``.
        desired: What is still to be done; ``Desired.OK`` if it succeeded.
        error: Why it failed, without traceback; ``None`` if it succeeded.
        mono_ns: When, CLOCK_MONOTONIC: it never runs backwards, so that events are ordered by it.
        unix_ns: When, Unix time, for people.
    """

    action: Action
    key: bytes | None
    value: bytes | None
    desired: Desired
    error: BpfError | None
    mono_ns: int
    unix_ns: int


def bare(error: BpfError | None) -> BpfError | None:
    """
    The same error to be kept: without the traceback, whose frames would keep their values alive.
    """
    return None if error is None else copy.copy(error)


class Subscription:
    """
    One follower of a ring: what the ring had, and everything after that, no event twice.

    Iterate over it, or ask with :meth:`get`. Made by :meth:`EventRing.subscribe`; ``close`` it, or
    use it in a ``with`` block. Any thread may close it.

    Args:
        past: Events that the ring had when the subscription began, oldest first.
        leave: Takes this subscription off its ring.
    """

    def __init__(self, past: tuple[Event, ...], leave: Callable[[Subscription], None]) -> None:
        self.past = past
        self._leave = leave
        self._changed = threading.Condition()
        self._unread: deque[Event] = deque()
        self._closed = False
        self._slow = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        while (event := self.get()) is not None:
            yield event

    @property
    def closed(self) -> bool:
        """Whether no more events come. Those unread can still be read."""
        return self._closed

    def get(self, timeout: float | None = None) -> Event | None:
        """
        The next event.

        Args:
            timeout: Seconds to wait for one; ``None`` waits until there is one or it is closed.

        Returns:
            ``None`` if there was none in time, or the subscription was closed by ``close``.

        Raises:
            SubscriberSlow: If the ring closed it, after its last unread event was read.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._unread or self._closed, timeout)
            if self._unread:
                return self._unread.popleft()
            if self._slow:
                raise SubscriberSlow(
                    "follow map events", 0, f"closed: {MAX_UNREAD} events were not read in time"
                )
            return None

    def close(self) -> None:
        """No more events. Again is fine, and so is an event that is on its way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._leave(self)

    def offer(self, event: Event) -> bool:
        """
        The ring's side: put an event in the queue. Never waits for the reader.

        Returns:
            False if the subscription is closed, or is closed by this for want of room.
        """
        with self._changed:
            if not self._closed and len(self._unread) >= MAX_UNREAD:
                self._closed = self._slow = True
            if not self._closed:
                self._unread.append(event)
            self._changed.notify_all()
            return not self._closed


class EventRing:
    """
    The last events of a map. Safe to use from any thread.

    Expired events are dropped when the next one comes or someone looks, not by a timer: the ring's
    size bounds what waits for that.

    Args:
        size: Events that are kept; a further one replaces the oldest. 0 keeps none, and subscribers
            are still told.
        ttl: Seconds after which an event is forgotten; ``None`` for never.
        clock: CLOCK_MONOTONIC in nanoseconds.
    """

    def __init__(
        self, size: int, ttl: float | None = None, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        if size < 0 or (ttl is not None and ttl <= 0):
            raise ValueError(f"a ring of {size} events with a TTL of {ttl} s")
        self.size = size
        self._ttl_ns = None if ttl is None else int(ttl * 1e9)
        self._clock = clock
        self._lock = threading.Lock()
        self._slots: list[Event | None] = []
        self._oldest = 0
        self._count = 0
        self._subscriptions: list[Subscription] = []

    def __len__(self) -> int:
        with self._lock:
            self._expire()
            return self._count

    def record(
        self,
        action: Action,
        key: bytes | None = None,
        value: bytes | None = None,
        desired: Desired = Desired.OK,
        error: BpfError | None = None,
    ) -> None:
        """Keep an event of now, and tell the subscribers. Never blocks on a subscriber."""
        with self._lock:
            event = Event(action, key, value, desired, bare(error), self._clock(), time.time_ns())
            self._expire()
            self._keep(event)
            self._subscriptions = [s for s in self._subscriptions if s.offer(event)]

    def dump(self) -> list[Event]:
        """What the ring has, oldest first."""
        with self._lock:
            return self._events()

    def subscribe(self) -> Subscription:
        """
        Follow the ring. Its ``past`` and what it is told later have no gap and no duplicate.

        Raises:
            SubscribersFull: If there are 32 already.
        """
        with self._lock:
            if len(self._subscriptions) >= MAX_SUBSCRIBERS:
                raise SubscribersFull(
                    "follow map events", 0, f"{MAX_SUBSCRIBERS} subscribers follow them already"
                )
            subscription = Subscription(tuple(self._events()), self._leave)
            self._subscriptions.append(subscription)
            return subscription

    def subscribers(self) -> int:
        """How many follow the ring."""
        with self._lock:
            return len(self._subscriptions)

    def close(self) -> None:
        """End all subscriptions: their readers get what is unread, then nothing. Again is fine."""
        with self._lock:
            leaving, self._subscriptions = self._subscriptions, []
        for subscription in leaving:
            subscription.close()

    def _leave(self, subscription: Subscription) -> None:
        with self._lock:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)

    def _keep(self, event: Event) -> None:
        if not self.size:
            return
        if self._count == self.size:
            self._slots[self._oldest] = event
            self._oldest = (self._oldest + 1) % self.size
            return
        place = (self._oldest + self._count) % self.size
        if place == len(self._slots):
            self._slots.append(event)
        else:
            self._slots[place] = event
        self._count += 1

    def _at(self, index: int) -> Event:
        event = self._slots[(self._oldest + index) % self.size]
        assert event is not None, "slots within the count are filled"
        return event

    def _events(self) -> list[Event]:
        self._expire()
        return [self._at(index) for index in range(self._count)]

    def _expire(self) -> None:
        """Drop events older than the TTL: they are the first ones, found by halving."""
        if self._ttl_ns is None or not self._count:
            return
        deadline = self._clock() - self._ttl_ns
        expired = bisect_left(
            range(self._count), deadline, key=lambda index: self._at(index).mono_ns
        )
        for index in range(expired):
            self._slots[(self._oldest + index) % self.size] = None
        self._oldest = (self._oldest + expired) % self.size
        self._count -= expired
