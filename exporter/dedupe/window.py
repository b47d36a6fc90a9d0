"""
Remember flows from drain to drain: who led, who still owes packets.

Bounded: flows of the drain just passed, and quiet ones until they expire or the limit is reached;
evictions are counted. A forgotten flow starts anew: nothing is lost, and a packet that was between
two points at that very cut would be counted at both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.batch.group import OTHER_SEED, hash_words
from exporter.dedupe.policy import I8, U8, Cells, Election

#: How long a packet may take from one point of this host to the next. Longer, and it is taken for
#: another packet on a new path. Softirqs and container networks need well under a millisecond; this
#: leaves room for a busy CPU and a shaping qdisc.
TRANSIT_NS = 50_000_000


@dataclass(frozen=True)
class _Flows:
    """What is remembered of flows, sorted by hash. All of shape (flows,)."""

    hash: U8
    check: U8
    leader: U8  # point
    packets: I8  # counted in the last drain that had it
    octets_l3: I8
    quiet_ns: I8  # from its last packet to the end of that drain
    seen_ns: I8  # end of that drain
    fresh: NDArray[np.bool_]  # that drain was the last one

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> _Flows:
        return _Flows(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class _Followers:
    """What points that do not lead owe, sorted by hash. All of shape (followers,)."""

    hash: U8
    check: U8
    lag: I8
    lag_l3: I8


def _find(haystack: U8, checks: U8, needles: U8, needle_checks: U8) -> tuple[I8, NDArray[np.bool_]]:
    """Where each needle is, and whether it is there at all. Both hashes must agree."""
    if not len(haystack):
        return np.zeros(len(needles), np.int64), np.zeros(len(needles), np.bool_)
    place = np.minimum(np.searchsorted(haystack, needles), len(haystack) - 1)
    return place, (haystack[place] == needles) & (checks[place] == needle_checks)


def _empty_flows() -> _Flows:
    wide, signed = np.empty(0, np.uint64), np.empty(0, np.int64)
    return _Flows(wide, wide, wide, signed, signed, signed, signed, np.empty(0, np.bool_))


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
        self._flows = _empty_flows()
        self._followers = _Followers(*(np.empty(0, t) for t in ("u8", "u8", "i8", "i8")))
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._flows.hash)

    def recall(self, table: Cells, start_ns: int) -> tuple[I8, I8, NDArray[np.bool_]]:
        """
        What each cell owes, and whether it led before.

        Args:
            table: The cells of a drain.
            start_ns: When the drain's window began.

        Returns:
            Lag in packets, int64; lag in IP octets, int64; led before, bool; all of shape (cells,).
        """
        known = self._flows
        place, there = _find(known.hash, known.check, table.flow_hash, table.flow_check)
        if not there.any():
            nothing = np.zeros(len(table.point), np.int64)
            return nothing, nothing, np.zeros(len(table.point), np.bool_)
        flow = table.flow
        led = there[flow] & (known.leader[place][flow] == table.point)
        fresh = there & known.fresh[place]
        lag, lag_l3, follows = self._recall_followers(table, flow)
        near = table.first_ns.astype(np.int64) - start_ns <= TRANSIT_NS
        # A point that is new to a flow may bring what its leader counted just before the cut.
        newcomer = fresh[flow] & ~led & ~follows
        in_flight = newcomer & near & (known.quiet_ns[place] <= TRANSIT_NS)[flow]
        lag = np.where(in_flight, known.packets[place][flow], lag)
        lag_l3 = np.where(in_flight, known.octets_l3[place][flow], lag_l3)
        # Where the leader is silent, debts are believed only of packets that were under way; a
        # point that goes on for longer is the flow's new path.
        leader_present = np.logical_or.reduceat(led, table.flow_starts)
        late = table.last_ns.astype(np.int64) - start_ns > TRANSIT_NS
        forgiven = ~fresh[flow] | led | (~leader_present[flow] & late)
        return np.where(forgiven, 0, lag), np.where(forgiven, 0, lag_l3), led

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
        # A flow of which only late packets came keeps its leader.
        idle = there & (election.packets == 0)
        leader = np.where(idle, _pick(known.leader, place), table.point[election.leader])
        last = np.maximum.reduceat(table.last_ns, table.flow_starts).astype(np.int64)
        now = _Flows(
            hash=table.flow_hash,
            check=table.flow_check,
            leader=leader,
            packets=election.packets,
            octets_l3=election.octets_l3,
            quiet_ns=end_ns - last,
            seen_ns=np.full(len(leader), end_ns, np.int64),
            fresh=np.ones(len(leader), np.bool_),
        )
        self._keep(now, place[there], end_ns)
        self._keep_followers(table, election, leader)

    def _recall_followers(self, table: Cells, flow: I8) -> tuple[I8, I8, NDArray[np.bool_]]:
        known = self._followers
        if not len(known.hash):
            nothing = np.zeros(len(flow), np.int64)
            return nothing, nothing, np.zeros(len(flow), np.bool_)
        hashes, checks = _cell_hashes(table, flow)
        place, there = _find(known.hash, known.check, hashes, checks)
        return (
            np.where(there, known.lag[place], 0),
            np.where(there, known.lag_l3[place], 0),
            there,
        )

    def _keep(self, now: _Flows, replaced: I8, end_ns: int) -> None:
        old = self._flows
        stays = old.seen_ns >= end_ns - self._expiry_ns
        stays[replaced] = False
        rest = old.take(stays)
        joined = _Flows(
            *(
                np.concatenate((getattr(now, name), getattr(rest, name)))
                for name in now.__dataclass_fields__
            )
        )
        joined.fresh[len(now.hash) :] = False
        excess = len(joined.hash) - self._max_flows
        if excess > 0:
            self.evictions += excess
            newest = np.argpartition(-joined.seen_ns, self._max_flows - 1)[: self._max_flows]
            joined = joined.take(newest)
        self._flows = joined.take(np.argsort(joined.hash))

    def _keep_followers(self, table: Cells, election: Election, leader: U8) -> None:
        flow = table.flow
        follows = np.flatnonzero(table.point != leader[flow])
        hashes, checks = _cell_hashes(table, flow, follows)
        order = np.argsort(hashes)
        self._followers = _Followers(
            hashes[order],
            checks[order],
            election.lag[follows][order],
            election.lag_l3[follows][order],
        )


def _pick(values: U8, place: I8) -> U8:
    return values[place] if len(values) else np.zeros(len(place), np.uint64)


def _cell_hashes(table: Cells, flow: I8, rows: I8 | slice = slice(None)) -> tuple[U8, U8]:
    """Two hashes of (flow, point)."""
    flow, point = flow[rows], table.point[rows]
    return (
        hash_words(np.stack((table.flow_hash[flow], point), axis=1)),
        hash_words(np.stack((table.flow_check[flow], point), axis=1), OTHER_SEED),
    )
