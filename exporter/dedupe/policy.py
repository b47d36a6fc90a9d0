"""
Which of several observation points counts a flow: pure functions over columns.

The rule. A flow's points see the same packets, so the flow has as many as the point that saw most.
That point *leads*: its record is the flow's record; the others are duplicates. The leader stays the
leader while no other point has seen more, and on a tie the first to see the flow leads (first
come).

Drains cut time for all points at one moment, but a packet may be between two points then: counted
at one before the cut, at the other after it. What a point still owes, because the leader counted it
already, is its *lag*, and is subtracted from what it brings next. So nothing is counted twice when
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

_LOW = np.uint64(0xFFFFFFFF)
#: Second word of an IPv4 address that is 0.0.0.0.
_MAPPED = np.uint64(0xFFFF0000)
_32, _48, _56 = np.uint64(32), np.uint64(48), np.uint64(56)


def identities(words: U8, src_mac: NDArray[np.uint8]) -> U8:
    """
    What makes packets at different points the same flow: addresses, ports, protocol.

    Not the VLAN: one point sees a frame's tag, the next has it removed. The source MAC only where the
    source address is unspecified: every host asks for its address (DHCP) and announces its groups
    (MLD) from there, and they are different packets.

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
    nobody = np.flatnonzero((words[:, 0] == 0) & (words[:, 1] & ~_MAPPED == 0))
    if len(nobody):
        result[nobody, 5] = mac_numbers(src_mac[nobody])
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
    words = batch.key_words()
    identity = identities(words, batch.src_mac)
    hashes = hash_words(identity, SEED)
    groups = group_rows(identity, hashes)
    where = points(words)
    order, row_starts, flow_of_cell = _by_point(groups, where)
    heads = order[row_starts]
    flow_starts = np.flatnonzero(np.diff(flow_of_cell, prepend=-1))
    flow_heads = heads[flow_starts]
    return Cells(
        order=order,
        row_starts=row_starts,
        flow_starts=flow_starts,
        flow_hash=hashes[flow_heads],
        flow_check=hash_words(identity[flow_heads], other_seed),
        point=where[heads],
        packets=_sum(batch.packet_count, order, row_starts),
        octets_l3=_sum(batch.octet_count_l3, order, row_starts),
        first_ns=np.minimum.reduceat(batch.flow_start_ns[order], row_starts),
        last_ns=np.maximum.reduceat(batch.flow_end_ns[order], row_starts),
    )


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
class Election:
    """
    Who leads each flow, and how much the flow has.

    Args:
        leader: int64, shape (flows,): the leading cell.
        packets, octets_l3: int64, shape (flows,): what is new, from the leader, never negative.
        lag, lag_l3: int64, shape (cells,): what each cell owes after this drain.
    """

    leader: I8
    packets: I8
    octets_l3: I8
    lag: I8
    lag_l3: I8


def elect(table: Cells, lag: I8, lag_l3: I8, led_before: NDArray[np.bool_]) -> Election:
    """
    Choose the leaders.

    Args:
        table: The cells of a drain.
        lag: int64, shape (cells,): packets that each owes from before.
        lag_l3: int64, shape (cells,): IP octets likewise.
        led_before: bool, shape (cells,): it led its flow in the drain before.
    """
    available = table.packets - lag
    available_l3 = table.octets_l3 - lag_l3
    flow = table.flow
    leader = table.flow_starts.copy()
    shared = np.flatnonzero(np.diff(table.flow_starts, append=len(flow)) > 1)
    if len(shared):
        leader[shared] = _first_ranked(table, available, led_before, flow, shared)
    packets = np.maximum(available[leader], 0)
    octets_l3 = np.where(packets > 0, np.maximum(available_l3[leader], 0), 0)
    return Election(
        leader=leader,
        packets=packets,
        octets_l3=octets_l3,
        lag=np.maximum(packets[flow] - available, 0),
        lag_l3=np.maximum(octets_l3[flow] - available_l3, 0),
    )


def _first_ranked(
    table: Cells, available: I8, led_before: NDArray[np.bool_], flow: I8, shared: I8
) -> I8:
    """
    Of flows with several cells, the one with most packets, then the old leader, then first come.
    """
    contested = np.zeros(len(table.flow_starts), np.bool_)
    contested[shared] = True
    some = np.flatnonzero(contested[flow])
    order = np.lexsort((table.first_ns[some], ~led_before[some], -available[some], flow[some]))
    ranked = some[order]
    return ranked[np.flatnonzero(np.diff(flow[ranked], prepend=-1))]
