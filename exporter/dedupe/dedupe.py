"""
One packet seen at several observation points becomes one flow.

Contract: rows are removed, marked or merged, never reordered within a flow's VLANs, never invented;
the packets and octets of what is passed on, plus those deduplicated away, are those that came in.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import FlowBatch, Point
from exporter.batch.group import OTHER_SEED, hash_words, labels
from exporter.dedupe.config import DedupeConfig
from exporter.dedupe.policy import I8, Cells, Election, cells, elect, points
from exporter.dedupe.window import DedupeWindow

_LOW = 0xFFFFFFFF


class Deduper:
    """
    Applies one mode to batch after batch.

    Args:
        config: Mode and bounds.
    """

    def __init__(self, config: DedupeConfig) -> None:
        self._mode = config.mode
        self.window = DedupeWindow(int(config.expiry * 1e9), config.max_flows)

    def apply(self, batch: FlowBatch) -> FlowBatch:
        """
        Deduplicate one drain.

        Args:
            batch: Every point's rows of one drain, with its window.

        Returns:
            A batch whose rows list their observation points.
        """
        if self._mode == "none" or not len(batch):
            return _with_own_point(batch)
        table = cells(batch, OTHER_SEED)
        lag, lag_l3, led_before = self.window.recall(table, batch.window.start_ns)
        election = elect(table, lag, lag_l3, led_before)
        self.window.remember(table, election, batch.window.end_ns)
        if self._mode == "mark":
            return _marked(_with_own_point(batch), table, election)
        kept, flow = _leading(batch, table, election)
        if self._mode == "drop":
            return _with_own_point(kept)
        return _with_flow_points(kept, flow, table, election)


def _point(number: int) -> Point:
    return Point(number >> 32 & 0xFFFF, number & _LOW, number >> 48)


def _with_own_point(batch: FlowBatch) -> FlowBatch:
    """Each row lists the point that it was seen at."""
    where = points(batch.key_words())
    distinct = np.unique(where)
    return replace(
        batch,
        points=np.searchsorted(distinct, where).astype(np.uint32),
        point_lists=tuple((_point(int(number)),) for number in distinct),
    )


def _leaders(table: Cells, election: Election) -> NDArray[np.bool_]:
    """bool, shape (cells,): this cell's rows are the flow's record."""
    leads = np.zeros(len(table.point), np.bool_)
    leads[election.leader[election.packets > 0]] = True
    return leads


def _marked(batch: FlowBatch, table: Cells, election: Election) -> FlowBatch:
    duplicate = np.empty(len(batch), np.bool_)
    duplicate[table.order] = ~_leaders(table, election)[table.cell_of_row]
    return replace(batch, duplicate=duplicate)


def _leading(batch: FlowBatch, table: Cells, election: Election) -> tuple[FlowBatch, I8]:
    """The leaders' rows, in the batch's order, and the flow number of each."""
    cell = np.empty(len(batch), np.int64)
    cell[table.order] = table.cell_of_row
    kept = _leaders(table, election)[cell]
    flow = table.flow[cell]
    late = table.packets[election.leader] - election.packets
    if np.any(late[election.packets > 0]):
        batch, left = _without_late(batch, table, election, late)
        kept &= left
    if kept.all():
        return batch, flow
    return batch.take(kept), flow[kept]


def _without_late(
    batch: FlowBatch, table: Cells, election: Election, late: I8
) -> tuple[FlowBatch, NDArray[np.bool_]]:
    """Leaders' rows without what an earlier leader counted; which rows have packets left."""
    flow = table.flow[table.cell_of_row]
    leads = election.leader[flow] == table.cell_of_row
    late_l3 = table.octets_l3[election.leader] - election.octets_l3
    less = _subtract(
        batch.take(table.order),
        table.cell_of_row,
        np.where(leads, late[flow], 0),
        np.where(leads, late_l3[flow], 0),
    )
    back = np.empty(len(batch), np.int64)
    back[table.order] = np.arange(len(batch))
    batch = less.take(back)
    return batch, batch.packet_count > 0


def _subtract(batch: FlowBatch, cell: I8, late: I8, late_l3: I8) -> FlowBatch:
    """
    Take out what an earlier leader counted already.

    Late packets are not known one by one, so their link-layer octets are taken at the row's mean.
    Where a cell has several rows (VLANs), the earlier rows give first.

    Args:
        batch: Rows by cell.
        cell: int64, shape (n,): ascending.
        late: int64, shape (n,): packets to take from the row's cell.
        late_l3: int64, shape (n,): IP octets likewise.

    Returns:
        The batch with smaller counts.
    """
    packets = batch.packet_count.astype(np.int64)
    l2, l3 = batch.octet_count_l2.astype(np.int64), batch.octet_count_l3.astype(np.int64)
    starts = np.flatnonzero(np.diff(cell, prepend=-1))
    run = labels(starts, len(cell))

    def taken(amount: I8, values: I8) -> I8:
        before = np.cumsum(values) - values
        return np.clip(amount - (before - before[starts][run]), 0, values)

    fewer, fewer_l3 = taken(late, packets), taken(late_l3, l3)
    share = np.rint(fewer * ((l2 - l3) / np.maximum(packets, 1))).astype(np.int64)
    fewer_l2 = np.where(fewer == packets, l2, np.clip(fewer_l3 + share, 0, l2))
    return replace(
        batch,
        packet_count=(packets - fewer).astype(np.uint64),
        octet_count_l2=(l2 - fewer_l2).astype(np.uint64),
        octet_count_l3=(l3 - fewer_l3).astype(np.uint64),
    )


def _with_flow_points(batch: FlowBatch, flow: I8, table: Cells, election: Election) -> FlowBatch:
    """Each row lists all points that saw its flow, the counted one first."""
    marks = hash_words(table.point.reshape(-1, 1))
    leading = marks[election.leader]
    sets = np.add.reduceat(marks, table.flow_starts) ^ (leading << np.uint64(1))
    distinct = np.unique(sets[flow])
    numbers = np.searchsorted(distinct, sets[flow])
    example = np.zeros(len(distinct), np.int64)
    example[numbers] = flow
    lists = tuple(_points_of(int(number), table, election) for number in example)
    return replace(batch, points=numbers.astype(np.uint32), point_lists=lists)


def _points_of(flow: int, table: Cells, election: Election) -> tuple[Point, ...]:
    ends = np.append(table.flow_starts[1:], len(table.point))
    start, end = int(table.flow_starts[flow]), int(ends[flow])
    leader = int(election.leader[flow])
    others = [cell for cell in range(start, end) if cell != leader]
    return tuple(_point(int(table.point[cell])) for cell in (leader, *others))
