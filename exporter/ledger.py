"""
The counters that must balance: what every packet became, from the hook to the destination.

::

    seen     = aggregated + ring + filtered + sampled out + not IP + malformed + lost     kernel
    drained  = aggregated + ring - still in the kernel's maps - earlier agents'           capture
    drained  = deduplicated away + excluded + published                          dedupe, exclude
    queued + recovered = delivered + dropped + pending + spooled    for each sink         fan-out

Packets and octets, exactly. Octets are L2. With ``capture.pin`` the kernel's counts go on where an
earlier agent ended; what that one delivered, and what ended with it, are accounts of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from exporter.batch.batch import Totals


@dataclass(frozen=True)
class Tally:
    """Packets and their L2 octets."""

    packets: int = 0
    octets: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.packets + other.packets, self.octets + other.octets)

    def __sub__(self, other: Tally) -> Tally:
        return Tally(self.packets - other.packets, self.octets - other.octets)


@dataclass(frozen=True)
class KernelCounts:
    """
    What the kernel program counted since it was loaded, over all CPUs and both directions.

    ``outcomes`` by name: aggregated, ring, filtered, sampled_out, not_ip, malformed, lost_map_full,
    lost_map_busy.
    """

    seen: Tally = Tally()
    outcomes: Mapping[str, Tally] = field(default_factory=dict)
    flows_created: int = 0
    fragments_unmatched: int = 0

    def __add__(self, other: KernelCounts) -> KernelCounts:
        names = [*self.outcomes, *(name for name in other.outcomes if name not in self.outcomes)]
        return KernelCounts(
            self.seen + other.seen,
            {name: self.outcome(name) + other.outcome(name) for name in names},
            self.flows_created + other.flows_created,
            self.fragments_unmatched + other.fragments_unmatched,
        )

    def outcome(self, name: str) -> Tally:
        """One outcome; zero if the kernel has not been asked."""
        return self.outcomes.get(name, Tally())

    @property
    def accounted(self) -> Tally:
        """Sum of the outcomes: must be ``seen``."""
        return sum(self.outcomes.values(), Tally())

    @property
    def recorded(self) -> Tally:
        """Packets that are or will be in a record: aggregated and ring."""
        return self.outcome("aggregated") + self.outcome("ring")

    @property
    def lost(self) -> Tally:
        """Packets that no record has."""
        return sum(
            (tally for name, tally in self.outcomes.items() if name.startswith("lost")), Tally()
        )


@dataclass(frozen=True)
class SinkCounts:
    """
    What became of a sink's rows. ``pending`` is counted in the queue itself.

    Args:
        queued: Given to it.
        delivered: The destination has them.
        pending: In memory.
        dropped: Given up, by reason.
        recovered: Found in its spool when it started: an earlier agent's.
        spooled: On disk only.
        safe: Of those pending, on disk as well.
    """

    queued: Totals = field(default_factory=Totals)
    delivered: Totals = field(default_factory=Totals)
    pending: Totals = field(default_factory=Totals)
    dropped: Mapping[str, Totals] = field(default_factory=dict)
    recovered: Totals = field(default_factory=Totals)
    spooled: Totals = field(default_factory=Totals)
    safe: Totals = field(default_factory=Totals)

    @property
    def dropped_total(self) -> Totals:
        """All reasons together."""
        return sum(self.dropped.values(), Totals())


@dataclass(frozen=True)
class Removed:
    """What a drain lost on its way to the sinks; ``excluded`` by name of the exclusion."""

    deduplicated: Totals = field(default_factory=Totals)
    excluded: Mapping[str, Totals] = field(default_factory=dict)


@dataclass(frozen=True)
class Carried:
    """
    What earlier agents did with packets that the kernel's counts include.

    Args:
        settled: Drained and delivered, or dropped and counted.
        lost: Drained, and ended with the agent.
    """

    settled: Tally = Tally()
    lost: Tally = Tally()


@dataclass(frozen=True)
class Kept:
    """
    What the kernel still has of a drain that was read.

    Args:
        slot: The flow map: 0 none, 1 the first, 2 the second.
        ring: Position in the ring buffer behind the last record that was read.
    """

    slot: int = 0
    ring: int = 0


@dataclass(frozen=True)
class Balance:
    """
    The ledger at one moment. ``absent`` is what was published while there was no such sink;
    ``excluded`` what was dropped, by name of the exclusion.
    """

    kernel: KernelCounts
    drained: Totals
    deduplicated: Totals
    published: Totals
    sinks: Mapping[str, SinkCounts]
    final: bool
    carried: Carried = Carried()
    absent: Mapping[str, Totals] = field(default_factory=dict)
    excluded: Mapping[str, Totals] = field(default_factory=dict)

    @property
    def excluded_total(self) -> Totals:
        """All exclusions together."""
        return sum(self.excluded.values(), Totals())

    @property
    def held(self) -> Tally:
        """Recorded by the kernel and not drained yet."""
        earlier = self.carried.settled + self.carried.lost
        return self.kernel.recorded - earlier - _tally(self.drained)

    def problems(self) -> list[str]:
        """One line for each account that does not balance; empty when the ledger closes."""
        found = []
        if self.kernel.seen != self.kernel.accounted:
            found.append(_unequal("seen", self.kernel.seen, "outcomes", self.kernel.accounted))
        held, drained = self.held, _tally(self.drained)
        if held.packets < 0 or held.octets < 0 or (self.final and held != Tally()):
            recorded = held + drained
            found.append(_unequal("aggregated + ring", recorded, "drained", drained))
        became = self.deduplicated + self.excluded_total + self.published
        if self.drained != became:
            stages = "deduplicated + excluded + published"
            flows = f" ({self.drained.flows} and {became.flows} flows)"
            found.append(_unequal("drained", drained, stages, _tally(became)) + flows)
        for name, sink in self.sinks.items():
            found += _sink_problems(name, sink, self.published - self.absent.get(name, Totals()))
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the shape that ``flow-exporter ledger --json`` prints."""
        outcomes = {
            name: _pair(tally)
            for name, tally in self.kernel.outcomes.items()
            if not name.startswith("lost")
        }
        lost = {
            name.removeprefix("lost_"): _pair(tally)
            for name, tally in self.kernel.outcomes.items()
            if name.startswith("lost")
        }
        problems = self.problems()
        return {
            "closes": not problems,
            "problems": problems,
            "final": self.final,
            "kernel": {"seen": _pair(self.kernel.seen), **outcomes, "lost": lost},
            "earlier_agents": {
                "settled": _pair(self.carried.settled),
                "lost": _pair(self.carried.lost),
            },
            "held_in_kernel": _pair(self.held),
            "flows_created": self.kernel.flows_created,
            "fragments_unmatched": self.kernel.fragments_unmatched,
            "drained": _triple(self.drained),
            "deduplicated": _triple(self.deduplicated),
            "excluded": {name: _triple(what) for name, what in self.excluded.items()},
            "published": _triple(self.published),
            "sinks": {
                name: {
                    "queued": _triple(sink.queued),
                    "recovered": _triple(sink.recovered),
                    "delivered": _triple(sink.delivered),
                    "pending": _triple(sink.pending),
                    "spooled": _triple(sink.spooled),
                    "dropped": {why: _triple(what) for why, what in sink.dropped.items()},
                }
                for name, sink in self.sinks.items()
            },
        }


@dataclass(frozen=True)
class _Account:
    """A sink's: what was published when it came, and when it left."""

    counts: Callable[[], SinkCounts]
    came: Totals
    left: Totals | None = None

    def absent(self, published: Totals) -> Totals:
        """What was published without it."""
        return self.came if self.left is None else self.came + published - self.left


class Ledger:
    """
    Keeps the accounts of user space and reads those of the kernel.

    Thread-safe: what one drain moves is booked within one :meth:`booking` block, and a balance is
    never taken in between.

    Args:
        kernel: Reads the kernel's counts.
    """

    #: A packet on another CPU may be between `seen` and its outcome: read again.
    _READS = 50

    def __init__(self, kernel: Callable[[], KernelCounts]) -> None:
        self._kernel = kernel
        self._lock = threading.Lock()
        self._drained = Totals()
        self._deduplicated = Totals()
        self._excluded: dict[str, Totals] = {}
        self._published = Totals()
        self._sinks: dict[str, _Account] = {}
        self._last: KernelCounts | None = None
        self._final = False
        self._carried = Carried()
        self._kept: Kept | None = None

    def carry(self, carried: Carried) -> None:
        """Go on where earlier agents ended."""
        self._carried = carried

    def settled(self) -> Tally:
        """
        Packets of this agent's drains that end with it for no sink. Only within a booking.

        A packet that waits for two sinks waits once: queues are in order, so what waits for the
        slowest one includes what waits for the others. What waits in a spool outlives us.
        """
        counts = [account.counts() for account in self._sinks.values()]
        waiting = [one.pending - one.safe for one in counts]
        packets = max((one.packets for one in waiting), default=0)
        octets = max((one.octets for one in waiting), default=0)
        return _tally(self._drained) - Tally(packets, octets)

    def add_sink(self, name: str, counts: Callable[[], SinkCounts]) -> None:
        """Follow a sink's queue under a name, from now on. Only within a booking, or before any."""
        self._sinks[name] = _Account(counts, self._published)

    def remove_sink(self, name: str) -> None:
        """A sink gets no more; its account stays. Only within a booking."""
        account = self._sinks[name]
        self._sinks[name] = replace(account, left=self._published)

    @contextmanager
    def booking(self) -> Iterator[Ledger]:
        """Hold the accounts still while a drain is published; book with :meth:`book` inside."""
        with self._lock:
            yield self

    @property
    def kept(self) -> Kept | None:
        """Of the last drain that was booked with it. Only within a booking."""
        return self._kept

    def book(
        self,
        drained: Totals,
        published: Totals,
        removed: Removed | None = None,
        kept: Kept | None = None,
    ) -> None:
        """
        What a drain brought, what was passed on, and what became of the rest: if nothing is said of
        it, it was deduplicated away.

        Args:
            drained: Before deduplication.
            published: Given to the sinks.
            removed: What became of the rest.
            kept: What the kernel has of all that is booked by now. Without it that is not booked
                to the end: whoever comes after us reads it again.
        """
        self._kept = kept or self._kept
        removed = removed or Removed(drained - published)
        self._drained += drained
        self._published += published
        self._deduplicated += removed.deduplicated
        for name, totals in removed.excluded.items():
            self._excluded[name] = self._excluded.get(name, Totals()) + totals

    def close_kernel(self, *, counts_on: bool = False) -> None:
        """
        From now on the kernel's counts stand still: the hooks are empty and the maps drained.

        Args:
            counts_on: The program counts on, for a successor: what it holds by now is the last we
                know of it.
        """
        counts = self._kernel()
        for _ in range(self._READS):
            if counts.seen == counts.accounted:
                break
            counts = self._kernel()
        self._last, self._final = counts, not counts_on

    def balance(self) -> Balance:
        """All accounts at one moment."""
        with self._lock:
            balance = self._read()
            for _ in range(self._READS):
                if balance.kernel.seen == balance.kernel.accounted:
                    break
                balance = self._read()
            return balance

    def _read(self) -> Balance:
        return Balance(
            kernel=self._last or self._kernel(),
            drained=self._drained,
            deduplicated=self._deduplicated,
            published=self._published,
            sinks={name: account.counts() for name, account in self._sinks.items()},
            final=self._final,
            carried=self._carried,
            absent={name: one.absent(self._published) for name, one in self._sinks.items()},
            excluded=dict(self._excluded),
        )


def _sink_problems(name: str, sink: SinkCounts, published: Totals) -> list[str]:
    found = []
    given = sink.queued + sink.recovered
    accounted = sink.delivered + sink.dropped_total + sink.pending + sink.spooled
    if given != accounted:
        found.append(
            f"sink {name}: queued + recovered {given} is not delivered + dropped + pending + "
            f"spooled {accounted}"
        )
    if _tally(sink.queued) != _tally(published):
        found.append(_unequal("published", _tally(published), name, _tally(sink.queued)))
    return found


def _tally(totals: Totals) -> Tally:
    return Tally(totals.packets, totals.octets)


def _pair(tally: Tally) -> dict[str, int]:
    return {"packets": tally.packets, "octets": tally.octets}


def _triple(totals: Totals) -> dict[str, int]:
    return {"flows": totals.flows, "packets": totals.packets, "octets": totals.octets}


def _unequal(left: str, one: Tally, right: str, other: Tally) -> str:
    return (
        f"{left} is {one.packets} packets, {one.octets} octets; "
        f"{right} is {other.packets} packets, {other.octets} octets"
    )
