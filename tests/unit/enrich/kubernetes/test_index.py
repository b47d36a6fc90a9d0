"""Any order of adds, moves and deletes: never wrong, and not unknown without need."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.batch.batch import Window
from exporter.enrich.base import Addresses
from exporter.enrich.kubernetes import index as index_module
from exporter.enrich.kubernetes.index import Index, Moment
from exporter.enrich.kubernetes.objects import Entity, Link
from exporter.testing.batch import pack_address

ADDRESSES = [pack_address(text) for text in ("10.0.0.1", "10.0.0.2", "2001:db8::1")]
PODS = ("a", "b", "c", "d")
#: News are late by so much at most, while they come at all.
LAG = 3
FOREVER = 1 << 40
#: Times of the API are cut off to multiples of this.
RESOLUTION = 3


def pod(uid: str, *addresses: bytes, since: int = 0) -> Entity:
    return Entity("Pod", uid, "ns", uid, addresses, since_ns=since)


def at(now: int, caught_up: int | None = None) -> Moment:
    return Moment(now, now - LAG if caught_up is None else caught_up)


@dataclass
class World:
    """
    What really happens, and when the index hears of it.

    Args:
        held: By address, (pod, from, to): the truth.
        index: What is tested.
    """

    held: dict[bytes, list[tuple[str, int, int]]] = field(default_factory=lambda: defaultdict(list))
    index: Index = field(default_factory=lambda: Index(RESOLUTION))
    now: int = 10
    heard: int = 10
    pods: dict[str, Entity] = field(default_factory=dict)
    count: int = 0
    #: Since when nothing is heard; and what is not heard yet.
    away: int | None = None
    unheard: list[tuple[str, Entity]] = field(default_factory=list)

    def tell(self, what: str, one: Entity, delay: int) -> None:
        self.unheard.append((what, one))
        if self.away is None:
            self.heard = max(self.heard, self.now + min(delay, LAG))
            self.hear(at(self.heard))

    def hear(self, moment: Moment) -> None:
        for what, one in self.unheard:
            if what == "gone":
                self.index.remove("Pod", one.uid, moment)
            else:
                self.index.put(one, moment)
        self.unheard.clear()

    def leave(self, address: bytes) -> None:
        who, begun, end = self.held[address][-1]
        assert end == FOREVER
        self.held[address][-1] = (who, begun, self.now)

    def free(self, address: bytes) -> bool:
        return not self.held[address] or self.held[address][-1][2] < self.now

    def step(self, act: str, name: str, address: bytes, delay: int) -> None:
        """Something happens, if it can."""
        known = self.pods.get(name)
        if act == "out" and self.away is None:
            self.away = self.heard
        elif act == "in" and self.away is not None:
            self.heard = max(self.heard, self.now)
            self.hear(Moment(self.heard, self.away - LAG))
            self.away = None
        elif act == "delete" and known is not None:
            for held in known.addresses:
                self.leave(held)
            del self.pods[name]
            self.tell("gone", known, delay)
        elif act == "make" and known is None and self.free(address):
            self.count += 1
            since = self.now - self.now % RESOLUTION
            self.begin(pod(f"{name}{self.count}", address, since=since), name, address, delay)
        elif act == "move" and known is not None and self.free(address):
            for held in known.addresses:
                self.leave(held)
            self.begin(pod(known.uid, address, since=known.since_ns), name, address, delay)

    def begin(self, one: Entity, name: str, address: bytes, delay: int) -> None:
        self.pods[name] = one
        self.held[address].append((one.uid, self.now, FOREVER))
        self.tell("is", one, delay)

    def who(self, address: bytes, start: int, end: int) -> str:
        """As the index says."""
        answer = self.index.look_up(asked(address), start)
        slot = int(answer.slots[0])
        if answer.timed[0]:
            times = np.array([[start], [end]], np.uint64)
            chosen, _ = answer.holds.decide(np.zeros(1, np.int64), times[0], times[1])
            slot = int(chosen[0])
        return self.name(slot)

    def name(self, slot: int) -> str:
        one = self.index.object(slot)
        assert (one is None) == (slot == 0)
        return one.uid if one else ""


acts = st.tuples(
    st.sampled_from(("make", "make", "move", "delete", "out", "in")),
    st.sampled_from(PODS),
    st.sampled_from(ADDRESSES),
    st.integers(0, LAG),
    st.integers(1, 6),
)


def asked(address: bytes) -> Addresses:
    """One address of a batch, whose time is said in other ways."""
    return Addresses(np.frombuffer(address, np.uint8).reshape(1, 16), Window(0, 0))


def every_flow(world: World, address: bytes) -> list[tuple[int, int, str]]:
    """Start, end and whose it is said to be, of all flows that there can have been."""
    spans = [(begun, begun + took) for begun in range(world.now + 8) for took in (0, 1, 4, 30)]
    start, end = np.array(spans, np.uint64).T
    answer = world.index.look_up(asked(address), 0)
    slots = np.full(len(spans), answer.slots[0], np.int64)
    if answer.timed[0]:
        slots, _ = answer.holds.decide(np.zeros(len(spans), np.int64), start, end)
    names = [world.name(slot) for slot in slots.tolist()]
    return [(*span, name) for span, name in zip(spans, names, strict=True)]


@settings(max_examples=300)
@given(st.lists(acts, max_size=25))
def test_never_wrong(steps: list[tuple[str, str, bytes, int, int]]) -> None:
    """
    Whoever is named had the address at some time of the flow.

    Or nobody had, and it was the last to have it.
    """
    world = World()
    for act, name, address, delay, pause in steps:
        world.step(act, name, address, delay)
        world.now += pause
    world.step("in", "a", ADDRESSES[0], 0)
    for address in ADDRESSES:
        held = world.held[address]
        for start, end, said in every_flow(world, address):
            had = {who for who, begun, ended in held if begun <= end and start <= ended}
            if not had:
                had = set([who for who, _, ended in held if ended < start][-1:])
            assert not said or said in had, (said, start, end, held)


@settings(max_examples=200)
@given(st.lists(acts, max_size=25))
def test_not_unknown_without_need(steps: list[tuple[str, str, bytes, int, int]]) -> None:
    """Who alone ever had an address has all flows of the time that it did."""
    world = World()
    for act, name, address, delay, pause in steps:
        # One that had another address before is told of late, and begins in doubt.
        if act in ("make", "delete"):
            world.step(act, name, address, delay)
        world.now += pause
    for address, held in world.held.items():
        if len(held) == 1:
            who, begun, ended = held[0]
            for start, end, said in every_flow(world, address):
                assert said == who or start < begun + RESOLUTION or end > ended


def test_turnover() -> None:
    """A new pod has the flows since it was made, the old one those before, and none is shared."""
    world = World()
    one = ADDRESSES[0]
    world.index.put(pod("old", one), at(100))
    world.index.remove("Pod", "old", at(201))
    world.index.put(pod("new", one, since=204), at(209))
    said = [world.who(one, start, start + 1) for start in (50, 150, 197, 202, 205, 207, 300)]
    assert said == ["old", "old", "old", "", "", "new", "new"]
    assert world.who(one, 200, 206) == ""


def test_two_at_once() -> None:
    """An address that two have at once is nobody's while they do."""
    world = World()
    one = ADDRESSES[0]
    world.index.put(pod("a", one, since=10), at(11))
    world.index.put(pod("b", one, since=20), at(21))
    assert [world.who(one, start, start) for start in (15, 40)] == ["a", ""]
    world.index.remove("Pod", "a", at(50))
    assert world.who(one, 60, 61) == "b"


def test_what_ended_is_forgotten() -> None:
    """After a while, and its place is used again; the table is as small as before."""
    world = World()
    for number in range(5):
        world.index.put(pod(f"p{number}", ADDRESSES[0], since=number * 10), at(number * 10 + 1))
        world.index.remove("Pod", f"p{number}", at(number * 10 + 6))
    assert world.who(ADDRESSES[0], 1, 2) == "p0"
    world.index.forget(1000)
    assert world.who(ADDRESSES[0], 1, 2) == ""
    assert len(world.index) == 0
    world.index.put(pod("p9", ADDRESSES[0], since=2000), at(2001))
    assert world.who(ADDRESSES[0], 2001, 2002) == "p9"
    assert len(world.index._objects) == 6
    assert world.index.evictions == 0


def test_too_much_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten, and counted, if there is more than memory is for."""
    world = World()
    monkeypatch.setattr(index_module, "KEEP", 2)
    for number in range(4):
        world.index.put(pod(f"p{number}", ADDRESSES[0], since=number * 10), at(number * 10 + 1))
        world.index.remove("Pod", f"p{number}", at(number * 10 + 6))
    world.index.forget(0)
    assert world.index.evictions == 2
    assert [world.who(ADDRESSES[0], n * 10 + 1, n * 10 + 2) for n in range(4)] == [
        "", "", "p2", "p3",
    ]  # fmt: skip


def test_owners() -> None:
    """A Job's CronJob is found whichever of them is heard of first, and after the Job is gone."""
    index = Index()
    one = Entity("Pod", "u", "ns", "backup-1-x", (ADDRESSES[0],), owner=("Job", "backup-1"))
    assert index.owner(one) == ("Job", "backup-1")
    job = Link("Job", "j", "ns", "backup-1", ("CronJob", "backup"))
    index.put(job, at(10))
    assert index.owner(one) == ("CronJob", "backup")
    index.remove("Job", "j", at(20))
    assert index.owner(one) == ("CronJob", "backup")
    index.forget(21)
    assert index.owner(one) == ("Job", "backup-1")
    assert index.owner(pod("a")) == ("Pod", "a")


def test_a_pod_without_addresses_takes_no_room() -> None:
    """Pending pods, those of the host's network, and those that have ended."""
    index = Index()
    index.put(pod("a"), at(10))
    assert (len(index), index.uids("Pod"), len(index._objects)) == (0, set(), 1)
    index.put(pod("a", ADDRESSES[0]), at(11))
    assert (len(index), index.uids("Pod")) == (1, {"a"})
    index.put(pod("a"), at(12))
    index.forget(100)
    assert (len(index), index.uids("Pod")) == (0, set())
