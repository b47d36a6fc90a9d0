"""What an agent's records say of Kubernetes, held against the truth."""

from __future__ import annotations

import calendar
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.truth import POD, Thing, Truth, Verdict

#: What else is added to an end: where it stands in the record, and what it must be.
_FIELDS: tuple[tuple[tuple[str, ...], Callable[[Thing], str]], ...] = (
    (("owner", "kind"), lambda one: one.owner[0]),
    (("owner", "name"), lambda one: one.owner[1]),
    (("node", "name"), lambda one: one.node),
    (("zone",), lambda one: one.zone),
    (("pod", "uid"), lambda one: one.uid if one.kind == POD else ""),
)


@dataclass(frozen=True)
class Case:
    """
    One end of a flow, and what was said of it.

    Args:
        address: Of this end.
        start_ns: Of the flow.
        end_ns: Likewise.
        said: The agent's object.
        verdict: The truth.
    """

    address: str
    start_ns: int
    end_ns: int
    said: Mapping[str, Any]
    verdict: Verdict


@dataclass
class Tally:
    """
    Ends of flows.

    Args:
        right: Attributed to who had the address.
        unknown: Attributed to nobody, rightly.
        missed: Attributed to nobody, although it was known who had the address.
        late: Attributed to who had the address last, although nobody has it any more: the agent
            has not heard of the end.
        wrong: Attributed to another, or with something of another.
    """

    right: int = 0
    unknown: int = 0
    missed: list[Case] = field(default_factory=list)
    late: list[Case] = field(default_factory=list)
    wrong: list[Case] = field(default_factory=list)


def judge(
    truth: Truth, records: Iterable[Mapping[str, Any]], lag_ns: int, slack_ns: int, near_ns: int
) -> Tally:
    """
    Judge both ends of all records.

    Args:
        truth: Who had which address when.
        records: Nested, as ``flow-exporter run`` prints them.
        lag_ns: See :meth:`Truth.expect`.
        slack_ns: Likewise.
        near_ns: So near to a change one need not know: the API tells times in whole seconds.
    """
    tally = Tally()
    for record in records:
        start, end = (unix_ns(record["time"][which]) for which in ("start", "end"))
        for side in ("source", "destination"):
            said = record[side].get("k8s", {})
            words = (said.get("kind", ""), said.get("namespace", {}).get("name", ""),
                     said.get("name", ""))  # fmt: skip
            address = record[side]["address"]
            verdict = truth.expect(address, start, end, lag_ns, slack_ns)
            case = Case(address, start, end, said, verdict)
            if not any(words):
                if truth.expect(address, start, end, lag_ns, slack_ns + near_ns).unknown:
                    tally.unknown += 1
                else:
                    tally.missed.append(case)
            elif any(_is(said, thing) for thing in verdict.those(*words)):
                tally.right += 1
            elif not verdict.right and any(
                _is(said, one) for one in truth.last(address, start).those(*words)
            ):
                tally.late.append(case)
            else:
                tally.wrong.append(case)
    return tally


def _is(said: Mapping[str, Any], thing: Thing) -> bool:
    """Whether all else that is said is the thing's too; what is not said is not wrong."""
    for path, of in _FIELDS:
        found: Any = said
        for name in path:
            found = found.get(name, {})
        if found not in ({}, of(thing)):
            return False
    return True


def unix_ns(text: str) -> int:
    """Of a time in a record: UTC with nanoseconds."""
    seconds = calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))
    return seconds * 1_000_000_000 + int(text[20:29])
