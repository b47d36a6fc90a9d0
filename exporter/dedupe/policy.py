"""
Which of several observation points counts a flow: pure functions over columns.

The rule. A flow's points see the same packets, so the flow has as many as the point that saw most.
That point *leads*: its record is the flow's record; the others are duplicates. The leader stays the
leader while no other point has seen more, and on a tie the first to see the flow leads (first
come).

A flow may move within a drain: one point stops seeing it, and later another begins to. They saw
different packets, so they are counted one after the other, each with its own record, if that makes
more than any single point saw. Of a point that stopped and began again in one drain, what others
saw meanwhile cannot be told from what it saw itself: the point that saw most counts.

Drains cut time for all points at one moment, but a packet may be between two points then: counted
at one before the cut, at the other after it. What a point still owes, because the leader counted it
already, is its *debt*, and is subtracted from what it brings next. So nothing is counted twice when
the leader falls silent, and nothing is lost when the flow moves to another path.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import FlowBatch, mac_numbers
from exporter.batch.group import SEED, Groups, group_rows, hash_words, labels

I8 = NDArray[np.int64]
U8 = NDArray[np.uint64]

#: How long a packet may take from one point of this host to the next. Longer, and it is taken for
#: another packet on a new path. Softirqs and container networks need well under a millisecond; this
#: leaves room for a busy CPU and a shaping qdisc.
TRANSIT_NS = 50_000_000

_LOW = np.uint64(0xFFFFFFFF)
#: Second word of an IPv4 address that is 0.0.0.0.
_MAPPED = np.uint64(0xFFFF0000)
#: Likewise, of 127.0.0.0/8, and of ::1.
_LOOPBACK, _LOOPBACK_MASK = np.uint64(0x7F_FFFF0000), np.uint64(0xFF_FFFFFFFF)
_LOOPBACK_V6 = np.uint64(1 << 56)
_32, _48, _56 = np.uint64(32), np.uint64(48), np.uint64(56)


def identities(words: U8, src_mac: NDArray[np.uint8]) -> U8:
    """
    What makes packets at different points the same flow: addresses, ports, protocol.

    Not the VLAN: one point sees a frame's tag, the next has it removed. The source MAC only where
    the source address is unspecified: every host asks for its address (DHCP) and announces its
    groups (MLD) from there, and they are different packets. The namespace only where the source is
    a loopback address: those packets never leave it.

    Args:
        words: ``FlowBatch.key_words()``, shape (n, 6).
        src_mac: Shape (n, 6).

    Returns:
        uint64, shape (n, 6).
    """
    result = np.empty((len(words), 6), np.uint64)
    result[:, :4] = words[:, :4]
    result[:, 4] = words[:, 4] >> _32 | (words[:, 5] >> _48 & np.uint64(0xFF)) << _32
    result[:, 5] = 0
    # Of the addresses of one host or nobody, all begin with eight octets of zero.
    some = np.flatnonzero(words[:, 0] == 0)
    source = words[some, 1]
    nobody = some[source & ~_MAPPED == 0]
    result[nobody, 5] = mac_numbers(src_mac[nobody])
    own = some[(source & _LOOPBACK_MASK == _LOOPBACK) | (source == _LOOPBACK_V6)]
    result[own, 5] = words[own, 5] & np.uint64(0xFFFF)
    return result


def points(words: U8) -> U8:
    """
    The observation points, each as one number: ifindex, netns at bit 32, direction at bit 48.

    Args:
        words: ``FlowBatch.key_words()``, shape (n, 6).

    Returns:
        uint64, shape (n,).
    """
    netns, direction = words[:, 5] & np.uint64(0xFFFF), words[:, 5] >> _56
    return np.asarray(words[:, 4] & _LOW | netns << _32 | direction << _48)


@dataclass(frozen=True)
class Cells:
    """
    A batch by flow and point. A flow is a run of cells, a cell is a run of rows: usually one row,
    several where one point saw the flow in several VLANs.

    Args:
        order: int64, shape (rows,): row numbers, by flow and within it by point.
        row_starts: int64, shape (cells,): where in ``order`` each cell begins.
        flow_starts: int64, shape (flows,): where in the cells each flow begins.
        flow_hash: uint64, shape (flows,): of the identity.
        flow_check: uint64, shape (flows,): another one.
        point, packets, octets_l3, first_ns, last_ns: shape (cells,).
    """

    order: I8
    row_starts: I8
    flow_starts: I8
    flow_hash: U8
    flow_check: U8
    point: U8
    packets: I8
    octets_l3: I8
    first_ns: U8
    last_ns: U8

    @property
    def flow(self) -> I8:
        """Flow number of each cell, int64, shape (cells,)."""
        return labels(self.flow_starts, len(self.point))

    @property
    def cell_of_row(self) -> I8:
        """Cell number of each place in ``order``, int64, shape (rows,)."""
        return labels(self.row_starts, len(self.order))


def cells(batch: FlowBatch, other_seed: np.uint64) -> Cells:
    """Sort a batch, not empty, by flow and point."""
    where = points(batch.key_words())
    order, row_starts, flow_starts, flow_hash, flow_check = _sorted(batch, where, other_seed)
    return Cells(
        order=order,
        row_starts=row_starts,
        flow_starts=flow_starts,
        flow_hash=flow_hash,
        flow_check=flow_check,
        point=where[order[row_starts]],
        packets=_sum(batch.packet_count, order, row_starts),
        octets_l3=_sum(batch.octet_count_l3, order, row_starts),
        first_ns=np.minimum.reduceat(batch.flow_start_ns[order], row_starts),
        last_ns=np.maximum.reduceat(batch.flow_end_ns[order], row_starts),
    )


def _sorted(batch: FlowBatch, where: U8, other_seed: np.uint64) -> tuple[I8, I8, I8, U8, U8]:
    """The first five columns of Cells. The identities, larger than all of them, end here."""
    identity = identities(batch.key_words(), batch.src_mac)
    hashes = hash_words(identity, SEED)
    groups = group_rows(identity, hashes)
    order, row_starts, flow_of_cell = _by_point(groups, where)
    flow_starts = np.flatnonzero(np.diff(flow_of_cell, prepend=-1))
    heads = order[row_starts[flow_starts]]
    # Of all rows, in their order: to fetch every flow's identity from its place costs more.
    checks = hash_words(identity, other_seed)
    return order, row_starts, flow_starts, hashes[heads], checks[heads]


def _sum(values: U8, order: I8, starts: I8) -> I8:
    return np.add.reduceat(values[order], starts).astype(np.int64)


def _by_point(groups: Groups, where: U8) -> tuple[I8, I8, I8]:
    """Rows by flow and point; where each (flow, point) begins; the flow of each such cell."""
    order, flow = groups.order, groups.labels()
    if len(groups.starts) == len(order):
        return order, groups.starts, flow
    sizes = np.diff(groups.starts, append=len(order))
    shared = np.flatnonzero((sizes > 1)[flow])
    order = order.copy()
    order[shared] = order[shared[np.lexsort((where[order[shared]], flow[shared]))]]
    changes = np.diff(flow, prepend=-1) != 0
    ordered = where[order]
    changes[1:] |= ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(changes)
    return order, starts, flow[starts]


@dataclass(frozen=True)
class Debts:
    """
    What points owe: packets that the leader counted already and that they may still bring.

    Args:
        packets, octets_l3: int64, shape (cells,), never negative.
        possible: bool, shape (cells,): more may be owed than is known; the first packets may be
            late ones.
    """

    packets: I8
    octets_l3: I8
    possible: NDArray[np.bool_]


@dataclass(frozen=True)
class Election:
    """
    Who counts each flow, and how much.

    Args:
        leader: int64, shape (flows,): the cell that leads from now on, the last one that counts.
        packets, octets_l3: int64, shape (cells,): what is new in the cells that count, 0 in others.
        owed: Packets and IP octets that each cell owes after this drain, int64, shape (cells,).
    """

    leader: I8
    packets: I8
    octets_l3: I8
    owed: tuple[I8, I8]

    def flow_packets(self, table: Cells) -> I8:
        """What is new of each flow, int64, shape (flows,)."""
        return np.add.reduceat(self.packets, table.flow_starts)


@dataclass(frozen=True)
class _Reach:
    """
    How much of its flow each cell has seen, together with those that it took over from.

    Args:
        packets, octets_l3: int64, shape (cells,): sums along the chain that ends in the cell.
        begin_ns: uint64, shape (cells,): first packet of the chain.
        before: int64, shape (cells,): the cell that it took over from, -1 for none; ``None`` if no
            flow moved.
    """

    packets: I8
    octets_l3: I8
    begin_ns: U8
    before: I8 | None


def elect(table: Cells, debts: Debts, led_before: NDArray[np.bool_], *, moves: bool) -> Election:
    """
    Choose the leaders.

    Args:
        table: The cells of a drain.
        debts: What each cell owes from before.
        led_before: bool, shape (cells,): it led its flow in the drain before.
        moves: Whether a flow may have moved within the drain. Not if packets were sampled: points
            then see different packets of the same flow.
    """
    new = np.maximum(table.packets - debts.packets, 0)
    new_l3 = np.where(new > 0, np.maximum(table.octets_l3 - debts.octets_l3, 0), 0)
    flow = table.flow
    leader = table.flow_starts.copy()
    alone = reach = _Reach(new, new_l3, table.first_ns, None)
    sizes = np.diff(table.flow_starts, append=len(flow))
    shared = np.flatnonzero(sizes > 1)
    if len(shared):
        if moves:
            reach = _with_moves(table, reach, flow, debts.possible | (debts.packets > 0))
        leader[shared] = _first_ranked(table, reach, led_before, flow, shared)
    counts = np.zeros(len(flow), np.bool_)
    last = leader
    while len(last):
        counts[last] = True
        last = last[:0] if reach.before is None else reach.before[last]
        last = last[last >= 0]
    return Election(
        leader=leader,
        packets=np.where(counts, new, 0),
        octets_l3=np.where(counts, new_l3, 0),
        owed=_owed(table, alone, reach, leader[flow]) if len(shared) else _nothing_owed(table),
    )


def _nothing_owed(table: Cells) -> tuple[I8, I8]:
    """Of flows that one point each has seen."""
    nothing = np.zeros(len(table.point), np.int64)
    return nothing, nothing


def _first_ranked(
    table: Cells, reach: _Reach, led_before: NDArray[np.bool_], flow: I8, shared: I8
) -> I8:
    """
    Of flows with several cells, the one that reaches most packets, then alone rather than with
    others, then the old leader, then first come.
    """
    contested = np.zeros(len(table.flow_starts), np.bool_)
    contested[shared] = True
    some = np.flatnonzero(contested[flow])
    keys = [table.first_ns[some], ~led_before[some], -reach.packets[some], flow[some]]
    if reach.before is not None:
        keys.insert(2, reach.before[some] >= 0)
    ranked = some[np.lexsort(keys)]
    return ranked[np.flatnonzero(np.diff(flow[ranked], prepend=-1))]


def _owed(table: Cells, alone: _Reach, reach: _Reach, leader: I8) -> tuple[I8, I8]:
    """
    Packets and IP octets that each cell has not seen yet of what its flow's leader has.

    Measured from where both have seen the flow: from the beginning of the leader's chain, or else
    of the leader itself. A cell that came later cannot owe what was before: how much of the rest is
    under way to it is not known, and taken for nothing.

    Args:
        table: The cells of a drain.
        alone: Of each cell without those that it took over from.
        reach: Of each cell.
        leader: int64, shape (cells,): the leading cell of each cell's flow.
    """
    transit = np.uint64(TRANSIT_NS)
    from_chain = reach.begin_ns <= reach.begin_ns[leader] + transit
    from_leader = reach.begin_ns <= table.first_ns[leader] + transit

    def behind(all_new: I8, own_new: I8) -> I8:
        ahead = np.where(from_chain, all_new[leader], np.where(from_leader, own_new[leader], 0))
        return np.maximum(ahead - all_new, 0)

    packets = behind(reach.packets, alone.packets)
    octets_l3 = behind(reach.octets_l3, alone.octets_l3)
    return packets, np.where(packets > 0, octets_l3, 0)


def _with_moves(table: Cells, reach: _Reach, flow: I8, late: NDArray[np.bool_]) -> _Reach:
    """
    Add to each cell's reach the best of those that had stopped when it began.

    Cells of one path begin and end within ``TRANSIT_NS`` of each other, so a move needs more than
    that at both ends, and they overlap no longer than that. When the first new packet of a cell
    with late ones came is not known: as late as can be.
    """
    transit = np.int64(TRANSIT_NS)
    first, last = table.first_ns.astype(np.int64), table.last_ns.astype(np.int64)
    stopped = np.maximum(last - transit, np.where(late, last, first) + transit)
    began = np.minimum(first, last - 2 * transit)
    moved = np.minimum.reduceat(stopped, table.flow_starts) <= np.maximum.reduceat(
        began, table.flow_starts
    )
    some = np.flatnonzero(moved[flow])
    if not len(some):
        return reach
    packets, octets_l3 = reach.packets.copy(), reach.octets_l3.copy()
    begin_ns, before = reach.begin_ns.copy(), np.full(len(flow), -1, np.int64)
    order, runs, earlier = _by_stop(flow[some], stopped[some], began[some])
    order = some[order]
    # The best chain among a flow's first cells; whoever takes over at a cell stopped before it.
    best = np.empty(len(order), np.int64)
    sizes = np.diff(runs, append=len(order))
    for rank in range(int(sizes.max())):
        runs, sizes = runs[sizes > rank], sizes[sizes > rank]
        place = runs + rank
        cell = order[place]
        takes_over = earlier[place] > runs
        heir, heritage = cell[takes_over], best[earlier[place[takes_over]] - 1]
        packets[heir] += packets[heritage]
        octets_l3[heir] += octets_l3[heritage]
        begin_ns[heir] = begin_ns[heritage]
        before[heir] = heritage
        best[place] = cell
        if rank:
            rival = best[place - 1]
            best[place] = np.where(packets[cell] > packets[rival], cell, rival)
    return _Reach(packets, octets_l3, begin_ns, before)


def _by_stop(flow: I8, stopped: I8, began: I8) -> tuple[I8, I8, I8]:
    """
    Cells in the order that they stopped, flow by flow.

    Returns:
        That order; where in it each flow begins; and for each place in it, the place after the last
        cell of the flow that had stopped when this one began.
    """
    order = np.lexsort((stopped, flow))
    flows = flow[order]
    runs = np.flatnonzero(np.diff(flows, prepend=-1))
    count = len(order)
    # Stops and beginnings in one sequence: the stops before a beginning are those it follows.
    sequence = np.lexsort(
        (
            np.repeat((0, 1), count),
            np.concatenate((stopped[order], began[order])),
            np.concatenate((flows, flows)),
        )
    )
    stops_until = np.cumsum(sequence < count)
    earlier = np.empty(count, np.int64)
    is_beginning = sequence >= count
    earlier[sequence[is_beginning] - count] = stops_until[is_beginning]
    return order, runs, earlier
