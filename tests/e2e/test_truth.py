"""What the truth says of flows before, during and after an address is moved."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.judge import judge, unix_ns
from tests.e2e.truth import NODE, POD, Hold, Thing, Truth, Verdict, packed

_FIRST = Thing(POD, "first", "shop", "1", ("Deployment", "web"), "node-0", "a")
_SECOND = Thing(POD, "second", "shop", "2", ("CronJob", "night"), "node-1", "b")
_NODE = Thing(NODE, "node-0", "", "3", (NODE, "node-0"), "node-0", "a")
_NS = 1_000_000_000
#: Of a moved address: when the first one has it, and when the second.
_MOVED, _KNOWN, _END, _GONE = 10 * _NS, 11 * _NS, 20 * _NS, 21 * _NS
_NEXT, _NEXT_KNOWN = 30 * _NS, 31 * _NS


@pytest.fixture
def truth() -> Truth:
    """An address that two pods have, one after the other, and a node's."""
    made = Truth()
    made.add("10.0.0.1", Hold(_FIRST, _MOVED, _KNOWN, _END, _GONE))
    made.add("10.0.0.1", Hold(_SECOND, _NEXT, _NEXT_KNOWN))
    made.add("172.20.0.1", Hold(_NODE, 0, 0))
    return made


@pytest.mark.parametrize(
    ("start", "end", "lag", "expected"),
    [
        # Nobody had it yet.
        (1, 2, 0, Verdict((), unknown=True)),
        # It was the first one's, but nobody could know; then it was known; then the agent knew.
        (10.5, 12, 0, Verdict((_FIRST,), unknown=True)),
        (11.5, 12, 0, Verdict((_FIRST,), unknown=False)),
        (11.5, 12, 1, Verdict((_FIRST,), unknown=True)),
        (12.5, 13, 1, Verdict((_FIRST,), unknown=False)),
        # It began before the first one had it, or ended later.
        (9, 12, 0, Verdict((_FIRST,), unknown=True)),
        (12, 20.5, 0, Verdict((_FIRST,), unknown=True)),
        # Nobody had it any more; the last packets of the first one.
        (20.5, 20.6, 0, Verdict((), unknown=True, left=(_FIRST,))),
        (21.5, 21.6, 0, Verdict((), unknown=True)),
        (21.5, 21.6, 1, Verdict((), unknown=True, left=(_FIRST,))),
        # It is the second one's, and never the first one's, however late one hears of it.
        (30.1, 30.2, 60, Verdict((_SECOND,), unknown=True)),
        (31.5, 99, 0, Verdict((_SECOND,), unknown=False)),
        # One flow of both.
        (12, 40, 0, Verdict((_FIRST, _SECOND), unknown=True)),
    ],
)
def test_a_moved_address(
    truth: Truth, start: float, end: float, lag: float, expected: Verdict
) -> None:
    """Seconds of a flow, and how late agents hear of things."""
    times = (int(start * _NS), int(end * _NS), int(lag * _NS))
    assert truth.expect("10.0.0.1", *times) == expected
    assert truth.expect(packed("10.0.0.1"), *times) == expected


def test_wrong_clocks(truth: Truth) -> None:
    """Times that may be a second wrong make less of it certain."""
    times = (int(11.5 * _NS), int(12 * _NS), 0)
    assert not truth.expect("10.0.0.1", *times, slack_ns=int(0.4 * _NS)).unknown
    assert truth.expect("10.0.0.1", *times, slack_ns=int(0.6 * _NS)).unknown


def test_the_hosts_network(truth: Truth) -> None:
    """A node's address is the node, or unknown, and never one of its pods."""
    verdict = truth.expect("172.20.0.1", _NS, 2 * _NS)
    assert verdict.accepts(NODE, "", "node-0")
    assert verdict.accepts("", "", "")
    assert not verdict.accepts(POD, "shop", "first")


def test_an_address_that_nobody_had(truth: Truth) -> None:
    """Unknown, and nothing else."""
    assert truth.expect("2001:db8::1", _NS, 2 * _NS) == Verdict((), unknown=True)


def _record(second: str, source: dict[str, Any] | None = None) -> dict[str, Any]:
    time = {"start": f"1970-01-01T00:00:{second}.500000000Z",
            "end": f"1970-01-01T00:00:{second}.600000000Z"}  # fmt: skip
    added = {"k8s": source} if source else {}
    return {"time": time, "source": {"address": "10.0.0.1"} | added,
            "destination": {"address": "192.0.2.1"}}  # fmt: skip


def _said(thing: Thing) -> dict[str, Any]:
    return {
        "kind": thing.kind, "name": thing.name, "namespace": {"name": thing.namespace},
        "owner": {"kind": thing.owner[0], "name": thing.owner[1]}, "node": {"name": thing.node},
        "zone": thing.zone, "pod": {"name": thing.name, "uid": thing.uid},
    }  # fmt: skip


def test_records_are_judged(truth: Truth) -> None:
    """Right, rightly unknown, missed, late, and wrong: in the name, or in what belongs to it."""
    records = [
        _record("12", _said(_FIRST)),
        _record("40", _said(_SECOND)),
        _record("05"),
        _record("40"),
        _record("40", _said(_FIRST)),
        _record("40", _said(_SECOND) | {"owner": {"kind": "Deployment", "name": "web"}}),
        _record("05", _said(_FIRST)),
        _record("25", _said(_FIRST)),
        _record("25", _said(_SECOND)),
    ]
    tally = judge(truth, records, lag_ns=0, slack_ns=0, near_ns=0)
    assert (tally.right, tally.unknown) == (2, 1 + len(records))
    assert (len(tally.missed), len(tally.late), len(tally.wrong)) == (1, 1, 4)


def test_times_of_records() -> None:
    """With all their nanoseconds, whatever the zone of the machine."""
    assert unix_ns("2026-07-01T12:00:00.123456789Z") == 1782907200123456789
