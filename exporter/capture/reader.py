"""Read what the kernel program counted: flow maps, ring buffers and counters of any set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.abi.layout import FLOW_KEY, FLOW_STATS, FlowDirection
from exporter.batch.batch import FlowBatch, concatenate
from exporter.batch.build import accumulate, allocate, empty_batch, fold_per_cpu
from exporter.capture.layouts import OURS, Layout, convert
from exporter.ebpf.cpus import possible_cpus
from exporter.ebpf.maps import BatchCursor, Map
from exporter.ledger import KernelCounts, Tally

#: The two that the program writes to in turns, in the order of ``Kept.slot``.
FLOW_MAPS = ("flow_stats_a", "flow_stats_b")
#: Octets of the buffer that a batch of per-CPU values is copied into. More rows a call gain
#: nothing.
_BATCH_OCTETS = 1 << 20
_DIRECTIONS = (FlowDirection.FLOW_INGRESS, FlowDirection.FLOW_EGRESS)


class FlowReader:
    """
    Empties flow maps into batches. Owns the buffers between.

    Args:
        capacity: Flows of the largest map that will be read.
        layout: Of the maps.
    """

    def __init__(self, capacity: int, layout: Layout = OURS) -> None:
        cpus = possible_cpus()
        rows = max(min(_BATCH_OCTETS // (cpus * FLOW_STATS.itemsize), capacity), 1024)
        self._keys = np.empty(rows, layout.key)
        self._values = np.empty((rows, cpus), layout.stats)

    def empty(self, retired: Map, expected: int, offset_ns: int) -> FlowBatch:
        """
        Take everything out of a map that no program writes to any more.

        Args:
            retired: A flow map.
            expected: About how many flows it has; a wrong guess costs copies.
            offset_ns: Added to the kernel's times; see ``batch.clock``.

        Returns:
            One row per flow and observation point; of another layout, whose keys may say more than
            ours, several.

        Raises:
            BpfError: If the kernel refuses. What was not read stays in the map.
        """
        return self._read(retired.take_batch, expected, offset_ns)

    def copy(
        self, retired: Map, expected: int, offset_ns: int, keys: list[NDArray[Any]] | None = None
    ) -> FlowBatch:
        """
        As :meth:`empty`, but everything stays in the map.

        Args:
            retired: A flow map.
            expected: About how many flows it has.
            offset_ns: Added to the kernel's times.
            keys: Gets what ``delete_batch`` needs to empty it: arrays of shape (n,), its own keys.
        """
        return self._read(retired.lookup_batch, expected, offset_ns, keys)

    def _read(
        self,
        read: Callable[[NDArray[Any], NDArray[Any], BatchCursor], int],
        expected: int,
        offset_ns: int,
        kept: list[NDArray[Any]] | None = None,
    ) -> FlowBatch:
        cursor = BatchCursor()
        # One allocation for all: batches of a batch would be copied together at the end.
        batch, filled = allocate(expected), 0
        while not cursor.done:
            rows = read(self._keys, self._values, cursor)
            if kept is not None:
                kept.append(self._keys[:rows].copy())
            if filled + rows > len(batch):
                batch = concatenate([batch.take(slice(filled)), allocate(2 * filled + rows)])
            place = batch.take(slice(filled, filled + rows))
            keys = convert(self._keys[:rows], FLOW_KEY)
            fold_per_cpu(keys, convert(self._values[:rows], FLOW_STATS), offset_ns, place)
            filled += rows
        return batch.take(slice(filled))


def flows_of(records: NDArray[Any], offset_ns: int) -> FlowBatch:
    """
    The packets that the flow map could not take, merged into flows.

    Args:
        records: From the ring buffer: shape (n,), the record of any layout.
        offset_ns: Added to the kernel's times; see ``batch.clock``.

    Returns:
        One row per flow and observation point.
    """
    if not len(records):
        return empty_batch()
    keys = convert(records["key"], FLOW_KEY)
    stats = convert(np.ascontiguousarray(records["stats"]), FLOW_STATS).reshape(-1, 1)
    return accumulate(fold_per_cpu(keys, stats, offset_ns))


def counters_of(counters: Map, direction: FlowDirection, layout: Layout = OURS) -> Any:
    """The counters of a direction: COUNTERS, shape (possible CPUs,)."""
    return counters.per_cpu(direction.to_bytes(4, "little"), layout.counters)


def kernel_counts(counters: Map, layout: Layout = OURS) -> KernelCounts:
    """
    The kernel's half of the ledger: the sum over both directions and all CPUs.

    Args:
        counters: The map.
        layout: Of it. Outcomes that only another version has keep their names.
    """
    values = np.concatenate([counters_of(counters, way, layout) for way in _DIRECTIONS])
    outcomes = {name: _sum(values["outcome"][:, i]) for i, name in enumerate(layout.outcomes)}
    there = values.dtype.names or ()
    others = [name for name in ("flows_created", "fragments_unmatched") if name in there]
    sums = {name: int(values[name].sum()) for name in others}
    return KernelCounts(seen=_sum(values["seen"]), outcomes=outcomes, **sums)


def _sum(tallies: Any) -> Tally:
    return Tally(int(tallies["packets"].sum()), int(tallies["octets"].sum()))
