"""
Remember flows from drain to drain: who led, who still owes packets.

Bounded: flows of the drain just passed, and quiet ones until they expire or the limit is reached;
evictions are counted. A forgotten flow starts anew: nothing is lost, and a packet that was between
two points at that very cut would be counted at both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.batch.group import OTHER_SEED, hash_words
from exporter.dedupe.policy import I8, TRANSIT_NS, U8, Cells, Debts, Election

#: A debt of so many packets may always be under way, however few the flow has in a second. More is
#: believed only at the flow's own rate: what accumulates where packets are dropped between two
#: points, or counted differently at them, is not under way.
_BURST = 32


@dataclass
class _Flows:
    """What is remembered of flows, sorted by hash. All of shape (flows,)."""

    hash: U8
    check: U8
    leader: U8  # point
    packets: I8  # that the leader counted in the last drain that had the flow
    octets_l3: I8
    young: NDArray[np.bool_]  # the leader's first packet was at that drain's very end
    quiet_ns: I8  # from the flow's last packet to the end of that drain
    seen_ns: I8  # end of that drain
    fresh: NDArray[np.bool_]  # that drain was the last one


@dataclass(frozen=True)
class _Followers:
    """What points that do not lead owe, sorted by hash. All of shape (followers,)."""

    hash: U8
    check: U8
    packets: I8
    octets_l3: I8
    sure: NDArray[np.bool_]  # not too much to be under way


def _find(haystack: U8, checks: U8, needles: U8, needle_checks: U8) -> tuple[I8, NDArray[np.bool_]]:
    """Where each needle is, and whether it is there at all. Both hashes must agree."""
    if not len(haystack):
        return np.zeros(len(needles), np.int64), np.zeros(len(needles), np.bool_)
    place = np.minimum(np.searchsorted(haystack, needles), len(haystack) - 1)
    return place, (haystack[place] == needles) & (checks[place] == needle_checks)


def _no_flows() -> _Flows:
    wide, signed, flags = np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.bool_)
    return _Flows(wide, wide, wide, signed, signed, flags, signed, signed, flags)


def _no_followers() -> _Followers:
    wide, signed = np.empty(0, np.uint64), np.empty(0, np.int64)
    return _Followers(wide, wide, signed, signed, np.empty(0, np.bool_))


class DedupeWindow:
    """
    The state between drains.

    Args:
        expiry_ns: How long a quiet flow keeps its leader.
        max_flows: How many flows are remembered.
    """

    def __init__(self, expiry_ns: int, max_flows: int) -> None:
        self._expiry_ns = expiry_ns
        self._max_flows = max_flows
        self._flows = _no_flows()
        self._followers = _no_followers()
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._flows.hash)

    def recall(self, table: Cells, start_ns: int) -> tuple[Debts, NDArray[np.bool_]]:
        """
        What each cell owes, and whether it led before.

        Owed is only what can be under way: the flow was seen just before the cut, and the point
        sees it just after. A point that goes on when the leader has stopped may be the flow's new
        path: what it brings is taken for late packets only as far as that is certain.

        Args:
            table: The cells of a drain.
            start_ns: When the drain's window began.

        Returns:
            The debts, and led before: bool, shape (cells,).
        """
        packets, octets_l3 = np.zeros((2, len(table.point)), np.int64)
        possible = np.zeros(len(table.point), np.bool_)
        debts = Debts(packets, octets_l3, possible)
        known = self._flows
        place, there = _find(known.hash, known.check, table.flow_hash, table.flow_check)
        if not there.any():
            return debts, np.zeros(len(table.point), np.bool_)
        flow = table.flow
        led = there[flow] & (known.leader[place][flow] == table.point)
        fresh = there & known.fresh[place]
        since_ns = known.quiet_ns[place][flow] + (table.first_ns.astype(np.int64) - start_ns)
        late = np.flatnonzero(fresh[flow] & ~led & (since_ns <= TRANSIT_NS))
        if not len(late):
            return debts, led
        outlasts = _outlasts_leader(table, flow, led, late, start_ns)
        owed, owed_l3, follows = self._owed_by_followers(table, flow, late, outlasts)
        newcomers = np.flatnonzero(~follows)
        owed[newcomers], owed_l3[newcomers] = self._owed_by_newcomers(
            table, led, late[newcomers], place[flow[late[newcomers]]], outlasts[newcomers]
        )
        packets[late], octets_l3[late], possible[late] = owed, owed_l3, ~follows
        return debts, led

    def remember(self, table: Cells, election: Election, end_ns: int) -> None:
        """
        Keep what the next drain needs to know.

        Args:
            table: The cells of a drain.
            election: Its outcome.
            end_ns: When the drain's window ended.
        """
        known = self._flows
        place, there = _find(known.hash, known.check, table.flow_hash, table.flow_check)
        now = self._as_of_now(table, election, end_ns, _pick(known.leader, place), there)
        self._keep_followers(table, election, now["leader"])
        self._keep(now, place[there], end_ns)

    def nothing_seen(self) -> None:
        """A drain brought nothing at all: nothing is under way any more."""
        self._flows.fresh[:] = False

    def _owed_by_followers(
        self, table: Cells, flow: I8, late: I8, outlasts: NDArray[np.bool_]
    ) -> tuple[I8, I8, NDArray[np.bool_]]:
        """What each late cell owed at the cut; which of them did not lead then."""
        known = self._followers
        hashes, checks = _cell_hashes(table, flow, late)
        place, follows = _find(known.hash, known.check, hashes, checks)
        if not follows.any():
            return (*np.zeros((2, len(late)), np.int64), follows)
        believed = follows & (known.sure[place] | ~outlasts)
        owed = np.where(believed, known.packets[place], 0)
        return owed, np.where(believed, known.octets_l3[place], 0), follows

    def _owed_by_newcomers(
        self,
        table: Cells,
        led: NDArray[np.bool_],
        cell: I8,
        place: I8,
        outlasts: NDArray[np.bool_],
    ) -> tuple[I8, I8]:
        """
        What cells may owe that are new to their flow.

        Everything, if the flow began just before the cut. Else no more than they have more than the
        leader, and nothing if the flow goes on at the newcomer alone.
        """
        known = self._flows
        flow = table.flow[cell]

        def owed(before: I8, now: I8) -> I8:
            leaders = np.add.reduceat(np.where(led, now, 0), table.flow_starts)[flow]
            excess = np.clip(now[cell] - leaders, 0, before)
            return np.where(known.young[place], before, np.where(outlasts, 0, excess))

        return (
            owed(known.packets[place], table.packets),
            owed(known.octets_l3[place], table.octets_l3),
        )

    @staticmethod
    def _as_of_now(
        table: Cells, election: Election, end_ns: int, led: U8, there: NDArray[np.bool_]
    ) -> dict[str, NDArray[Any]]:
        """Columns of _Flows of this drain's flows; ``led`` before, if they were ``there``."""
        cell = election.leader
        # A flow of which only late packets came keeps its leader.
        idle = there & (election.flow_packets(table) == 0)
        last = np.maximum.reduceat(table.last_ns, table.flow_starts).astype(np.int64)
        return {
            "hash": table.flow_hash,
            "check": table.flow_check,
            "leader": np.where(idle, led, table.point[cell]),
            "packets": election.packets[cell],
            "octets_l3": election.octets_l3[cell],
            "young": table.first_ns[cell].astype(np.int64) >= end_ns - TRANSIT_NS,
            "quiet_ns": end_ns - last,
        }

    def _keep(self, now: dict[str, NDArray[Any]], replaced: I8, end_ns: int) -> None:
        """What this drain had, and of the rest what is neither replaced, expired nor too much."""
        old = self._flows
        stays = old.seen_ns >= end_ns - self._expiry_ns
        stays[replaced] = False
        count, rest = len(now["hash"]), int(stays.sum())
        hashes = np.concatenate((now["hash"], old.hash[stays]))
        seen_ns = np.concatenate((np.full(count, end_ns), old.seen_ns[stays]))
        excess = count + rest - self._max_flows
        if excess > 0:
            self.evictions += excess
            kept = np.argpartition(-seen_ns, self._max_flows - 1)[: self._max_flows]
            order = kept[np.argsort(hashes[kept])]
        else:
            order = np.argsort(hashes)
        old.seen_ns = seen_ns[order]
        old.fresh = order < count
        # Column by column, each gone before the next: there are never two copies of all of them.
        for name in tuple(now):
            column = np.concatenate((now.pop(name), getattr(old, name)[stays]))
            setattr(old, name, column[order])

    def _keep_followers(self, table: Cells, election: Election, leader: U8) -> None:
        flow = table.flow
        follows = np.flatnonzero(table.point != leader[flow])
        hashes, checks = _cell_hashes(table, flow, follows)
        order = np.argsort(hashes)
        follows = follows[order]
        owed, owed_l3 = election.owed[0][follows], election.owed[1][follows]
        believable = _believable(table, election.leader[flow[follows]], election)
        self._followers = _Followers(
            hashes[order], checks[order], owed, owed_l3, owed <= believable
        )


def _believable(table: Cells, leader: I8, election: Election) -> NDArray[np.float64]:
    """Packets that may be under way from each of some leaders, at its rate; shape (n,)."""
    first, last = table.first_ns[leader].astype(np.int64), table.last_ns[leader].astype(np.int64)
    span = np.maximum(last - first, TRANSIT_NS)
    return np.asarray(np.maximum(election.packets[leader] * (TRANSIT_NS / span), _BURST))


def _outlasts_leader(
    table: Cells, flow: I8, led: NDArray[np.bool_], cell: I8, start_ns: int
) -> NDArray[np.bool_]:
    """Whether a cell goes on when its flow's old leader has stopped, or never began."""
    last = np.where(led, table.last_ns.astype(np.int64), start_ns)
    stopped = np.maximum.reduceat(last, table.flow_starts)[flow[cell]]
    return np.asarray(table.last_ns[cell].astype(np.int64) - stopped > TRANSIT_NS)


def _pick(values: U8, place: I8) -> U8:
    return values[place] if len(values) else np.zeros(len(place), np.uint64)


def _cell_hashes(table: Cells, flow: I8, rows: I8) -> tuple[U8, U8]:
    """Two hashes of (flow, point)."""
    flow, point = flow[rows], table.point[rows]
    return (
        hash_words(np.stack((table.flow_hash[flow], point), axis=1)),
        hash_words(np.stack((table.flow_check[flow], point), axis=1), OTHER_SEED),
    )
