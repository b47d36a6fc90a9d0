"""
One packet seen at several observation points becomes one flow.

Contract: rows are removed, marked or made smaller, never reordered, never invented; the packets and
octets of what is passed on, plus those deduplicated away, are those that came in.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

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
        if self._mode == "none":
            return _with_own_point(batch)
        if not len(batch):
            self.window.nothing_seen()
            return _with_own_point(batch)
        table = cells(batch, OTHER_SEED)
        debts, led_before = self.window.recall(table, batch.window.start_ns)
        sampled = bool(batch.sampling_interval.max() > 1)
        election = elect(table, debts, led_before, moves=not sampled)
        self.window.remember(table, election, batch.window.end_ns)
        if self._mode == "mark":
            return _marked(_with_own_point(batch), table, election)
        kept, cell = _counted(batch, table, election)
        if self._mode == "drop":
            return _with_own_point(kept)
        return _with_flow_points(kept, cell, table)


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


def _marked(batch: FlowBatch, table: Cells, election: Election) -> FlowBatch:
    duplicate = np.empty(len(batch), np.bool_)
    duplicate[table.order] = (election.packets == 0)[table.cell_of_row]
    return replace(batch, duplicate=duplicate)


def _counted(batch: FlowBatch, table: Cells, election: Election) -> tuple[FlowBatch, I8]:
    """The rows of the cells that count, in the batch's order, and the cell of each."""
    cell = np.empty(len(batch), np.int64)
    cell[table.order] = table.cell_of_row
    counts = election.packets > 0
    kept = counts[cell]
    late = np.where(counts, table.packets - election.packets, 0)
    if late.any():
        late_l3 = np.where(counts, table.octets_l3 - election.octets_l3, 0)
        batch = _without_late(batch, table, late, late_l3)
        kept &= batch.packet_count > 0
    if kept.all():
        return batch, cell
    return batch.take(kept), cell[kept]


def _without_late(batch: FlowBatch, table: Cells, late: I8, late_l3: I8) -> FlowBatch:
    """The batch without what an earlier leader counted: so much of each cell."""
    cell = table.cell_of_row
    less = _subtract(batch.take(table.order), cell, late[cell], late_l3[cell])
    back = np.empty(len(batch), np.int64)
    back[table.order] = np.arange(len(batch))
    return less.take(back)


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


def _with_flow_points(batch: FlowBatch, cell: I8, table: Cells) -> FlowBatch:
    """Each row lists all points that saw its flow, its own first."""
    marks = hash_words(table.point.reshape(-1, 1))
    sets = np.add.reduceat(marks, table.flow_starts)[table.flow[cell]]
    sets ^= marks[cell] << np.uint64(1)
    distinct, example, numbers = np.unique(sets, return_index=True, return_inverse=True)
    lists = tuple(_points_of(int(cell[row]), table) for row in example[: len(distinct)])
    return replace(batch, points=numbers.astype(np.uint32), point_lists=lists)


def _points_of(cell: int, table: Cells) -> tuple[Point, ...]:
    flow = int(np.searchsorted(table.flow_starts, cell, "right")) - 1
    start = int(table.flow_starts[flow])
    end = int(np.append(table.flow_starts[1:], len(table.point))[flow])
    others = [other for other in range(start, end) if other != cell]
    return tuple(_point(int(table.point[one])) for one in (cell, *others))
