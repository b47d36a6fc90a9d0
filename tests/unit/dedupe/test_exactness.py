"""
Every packet is counted once: packets that travel at random, drained at random times.

A path is a sequence of points; a packet passes them within a millisecond. A flow keeps to one path
for a while (a leg) and then takes another one. What counts at points can tell is limited, and the
properties say where:

* Points saw disjoint legs, with a pause in between: exact, whenever is drained.
* A point sees two legs in a row, and others only one of them: exact if no packet is under way at
  the cuts; else what is under way, and what follows a change at once, may be counted twice.
* Legs without a pause: the same, if no drain falls on the change.

In all of them at most one change falls into a drain, because a point that stops and begins again
within one drain cannot be told from one that saw all.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from exporter.batch.batch import Point
from exporter.dedupe.policy import TRANSIT_NS
from tests.unit.dedupe.simulation import FRAME, MS, PACKET, Hop, Packet, dedupe, drains

POINTS = tuple(Point(netns, ifindex, 0) for netns, ifindex in ((0, 2), (1, 2), (0, 3), (0, 4)))
#: The longest that a packet is under way.
TRANSIT = MS
#: Drains are at least so far apart: the smallest interval that can be configured.
SHORTEST = 10 * MS
PAUSE = 200 * MS


@dataclass(frozen=True)
class Journey:
    """Packets of one flow, and when its path changed: the first packet of every further leg."""

    packets: tuple[Packet, ...]
    changes: tuple[int, ...]
    end: int


@st.composite
def paths(draw: st.DrawFn, without: frozenset[Point]) -> tuple[Hop, ...]:
    """One to three points, passed one after the other within a millisecond."""
    choice = [point for point in POINTS if point not in without]
    points = draw(st.permutations(choice))[: draw(st.integers(1, 3))]
    delays = sorted(
        draw(st.lists(st.integers(0, TRANSIT), min_size=len(points), max_size=len(points)))
    )
    return tuple(Hop(point, delay) for point, delay in zip(points, delays, strict=True))


@st.composite
def journeys(draw: st.DrawFn, *, disjoint: bool, pause: int, gaps: Sequence[int]) -> Journey:
    """
    A few legs.

    Args:
        draw: Hypothesis's.
        disjoint: Whether successive legs share no point.
        pause: Silence between the legs, ns; 0 for none, and then each leg is long enough for a cut.
        gaps: From packet to packet, ns.
    """
    packets: list[Packet] = []
    changes = []
    time = draw(st.integers(0, 100 * MS))
    before: frozenset[Point] = frozenset()
    for leg in range(draw(st.integers(1, 4))):
        path = draw(paths(without=before if disjoint else frozenset()))
        before = frozenset(hop.point for hop in path)
        if leg:
            changes.append(time)
        began, steps = time, draw(st.lists(st.sampled_from(gaps), min_size=1, max_size=15))
        while steps or (not pause and time - began <= 2 * PAUSE):
            packets.append(Packet(time, path))
            time += steps.pop() if steps else 11 * MS
        time += pause
    return Journey(tuple(packets), tuple(changes), time)


@st.composite
def cuts(draw: st.DrawFn, journey: Journey, *, clean: bool, clearance: int = 0) -> list[int]:
    """
    When is drained: one cut at least between two changes, one after the end.

    Args:
        draw: Hypothesis's.
        journey: What is drained.
        clean: Whether no packet may be under way at a cut.
        clearance: No cut so close to a change, ns.
    """
    near_packets = st.builds(
        lambda packet, delay: packet.time_ns + delay,
        st.sampled_from(journey.packets),
        st.integers(0, TRANSIT),
    )
    wanted = draw(st.lists(near_packets | st.integers(0, journey.end), max_size=25))
    for change, following in zip(journey.changes, journey.changes[1:], strict=False):
        wanted.append(
            draw(st.integers(change + clearance, following - max(clearance, 2 * SHORTEST)))
        )
    chosen: list[int] = []
    for cut in sorted(wanted):
        moved = _cleaned(cut, journey.packets) if clean else cut
        if any(abs(moved - change) < clearance for change in journey.changes):
            continue
        if not chosen or moved - chosen[-1] >= SHORTEST:
            chosen.append(moved)
    return [*chosen, max([journey.end, *chosen]) + 1000 * MS]


def _cleaned(cut: int, packets: Sequence[Packet]) -> int:
    """The next moment at which no packet is under way."""
    for packet in packets:
        if packet.time_ns <= cut <= packet.time_ns + TRANSIT:
            cut = packet.time_ns + TRANSIT + 1
    return cut


def one_change_at_most(journey: Journey, times: Sequence[int]) -> bool:
    """Whether no drain has two changes."""
    drain_of = [bisect_left(times, change) for change in journey.changes]
    return len(set(drain_of)) == len(drain_of)


def ambiguous(journey: Journey, times: Sequence[int]) -> int:
    """How many packets were under way at the cuts, or followed a change within 50 ms."""
    sent = [packet.time_ns for packet in journey.packets]

    def between(start: int, end: int) -> int:
        return bisect_right(sent, end) - bisect_left(sent, start)

    under_way = sum(between(cut - TRANSIT, cut) for cut in times)
    return under_way + sum(between(change, change + TRANSIT_NS) for change in journey.changes)


def assert_exact(journey: Journey, times: Sequence[int]) -> None:
    """As many packets and octets come out as were sent."""
    outcome = dedupe(drains(journey.packets, times))
    sent = len(journey.packets)
    assert outcome.totals.packets == sent
    assert outcome.octets_l3 == PACKET * sent
    assert outcome.totals.octets == FRAME * sent


#: Bursts, streams, and flows that send now and then.
ANY_GAP = (1000, 100_000, MS, 9 * MS, 40 * MS, 300 * MS, 2000 * MS)
STEADY_GAP = (1000, MS // 2, 2 * MS, 17 * MS, 40 * MS)


@given(st.data())
@settings(max_examples=500)
def test_a_flow_that_moves_wholly_is_counted_exactly(data: st.DataObject) -> None:
    """Legs without a common point, a pause between them, drained at any time: exact."""
    journey = data.draw(journeys(disjoint=True, pause=PAUSE, gaps=ANY_GAP))
    times = data.draw(cuts(journey, clean=False))
    # A cut just before the one between two changes can have taken its place.
    assume(one_change_at_most(journey, times))
    assert_exact(journey, times)


@given(st.data())
@settings(max_examples=300)
def test_a_flow_whose_path_changes_in_part_is_counted_exactly(data: st.DataObject) -> None:
    """Legs that may share points, a pause between them, no packet under way at a cut: exact."""
    journey = data.draw(journeys(disjoint=False, pause=PAUSE, gaps=ANY_GAP))
    times = data.draw(cuts(journey, clean=True))
    if one_change_at_most(journey, times):
        assert_exact(journey, times)


@given(st.data())
@settings(max_examples=300)
def test_nothing_is_lost_and_little_is_counted_twice(data: st.DataObject) -> None:
    """The same drained at any time: nothing is lost, and only what is ambiguous comes twice."""
    journey = data.draw(journeys(disjoint=False, pause=PAUSE, gaps=ANY_GAP))
    times = data.draw(cuts(journey, clean=False))
    excess = dedupe(drains(journey.packets, times)).totals.packets - len(journey.packets)
    if one_change_at_most(journey, times):
        assert 0 <= excess <= ambiguous(journey, times)


@given(st.data())
@settings(max_examples=200)
def test_a_steady_flow_that_moves_without_a_pause_is_counted_exactly(data: st.DataObject) -> None:
    """A stream whose path changes between two packets, drained at least 200 ms away: exact."""
    journey = data.draw(journeys(disjoint=True, pause=0, gaps=STEADY_GAP))
    times = data.draw(cuts(journey, clean=False, clearance=PAUSE))
    if one_change_at_most(journey, times):
        assert_exact(journey, times)


@given(st.data())
@settings(max_examples=100)
def test_nothing_is_invented(data: st.DataObject) -> None:
    """Whatever happens, no drain publishes more rows, packets or octets than it brought."""
    journey = data.draw(journeys(disjoint=False, pause=0, gaps=ANY_GAP))
    times = data.draw(cuts(journey, clean=False))
    batches = list(drains(journey.packets, times))
    for before, after in zip(batches, dedupe(batches).published, strict=True):
        gone = before.totals - after.totals
        assert min(gone.flows, gone.packets, gone.octets) >= 0
        assert (after.packet_count > 0).all()
