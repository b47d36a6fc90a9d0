"""Whose a flow is, from what is known of when an address was whose."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from exporter.enrich.kubernetes.history import FOREVER, Hold, holds_of

Times = tuple[int, int, int, int, int]


@st.composite
def times(draw: st.DrawFn) -> Times:
    """Bounds in the order of ``Holds``; nothing may be sure."""
    possible_from, there_from, sure_from = sorted(draw(st.integers(0, 12)) for _ in range(3))
    sure_to, possible_to = draw(st.integers(0, 12)), draw(st.integers(0, 12))
    lasts = draw(st.booleans())
    return (
        possible_from,
        there_from,
        sure_from,
        FOREVER if lasts else sure_to,
        FOREVER if lasts else max(possible_to, possible_from),
    )


def hold(slot: int, bounds: Times) -> Hold:
    made = Hold(slot, *bounds[:3])
    if bounds[4] != FOREVER:
        made.end(*bounds[3:])
    return made


def owner(all_times: list[Times], start: int, end: int) -> int:
    """By the rule's words: the one that surely had it, else the only one that can have had it."""
    numbered = list(enumerate(all_times, 1))
    sure = [
        n for n, (_, _, sure_from, sure_to, _) in numbered if sure_from <= start and end <= sure_to
    ]
    if sure:
        return sure[0] if len(sure) == 1 else 0
    maybe = [(n, one) for n, one in numbered if one[0] <= end and start <= one[4]]
    return maybe[0][0] if len(maybe) == 1 and maybe[0][1][1] <= start else 0


@given(
    st.lists(st.lists(times(), min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 13), st.integers(0, 6)), max_size=12),
)
def test_decide(addresses: list[list[Times]], flows: list[tuple[int, int, int]]) -> None:
    """Whole columns are decided as one flow at a time is by the words of the rule."""
    holds = holds_of([[hold(n, one) for n, one in enumerate(some, 1)] for some in addresses])
    which = np.array([n % len(addresses) for n, _, _ in flows], np.int64)
    start = np.array([at for _, at, _ in flows], np.uint64)
    end = start + np.array([took for _, _, took in flows], np.uint64)
    chosen, _ = holds.decide(which, start, end)
    assert chosen.tolist() == [
        owner(addresses[n % len(addresses)], at, at + took) for n, at, took in flows
    ]


def test_doubts_are_counted() -> None:
    """A flow that two can have had is nobody's, and counted; one that none had is not in doubt."""
    holds = holds_of([[hold(1, (0, 0, 1, 4, 6)), hold(2, (5, 6, 7, FOREVER, FOREVER))]])
    zero, many = np.zeros(5, np.int64), np.array([1, 4, 5, 8, 9], np.uint64)
    chosen, doubts = holds.decide(zero, many, many + np.uint64(1))
    assert chosen.tolist() == [1, 0, 0, 2, 2]
    assert doubts == 2


def test_times_out_of_range() -> None:
    """Times of a damaged record do not wrap around: it ended before it began, or never."""
    holds = holds_of([[hold(1, (5, 5, 5, FOREVER, FOREVER))]])
    most = (1 << 64) - 1
    start, end = np.array([most, 7, 3], np.uint64), np.array([0, most, 4], np.uint64)
    chosen, _ = holds.decide(np.zeros(3, np.int64), start, end)
    assert chosen.tolist() == [1, 1, 0]
