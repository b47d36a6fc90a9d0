"""Read what the kernel program counted: flow maps, ring buffers and counters of any set."""

from __future__ import annotations

from typing import Any

import numpy as np

from exporter.abi.layout import COUNTERS, FLOW_KEY, FLOW_STATS, FlowDirection, Outcome
from exporter.batch.batch import FlowBatch, concatenate
from exporter.batch.build import accumulate, allocate, empty_batch, fold_per_cpu
from exporter.ebpf.cpus import possible_cpus
from exporter.ebpf.maps import BatchCursor, Map
from exporter.ebpf.ringbuf import RingBuffer
from exporter.ledger import KernelCounts, Tally

#: Octets of the buffer that a batch of per-CPU values is copied into. More rows a call gain
#: nothing.
_BATCH_OCTETS = 1 << 20
_DIRECTIONS = (FlowDirection.FLOW_INGRESS, FlowDirection.FLOW_EGRESS)
_OUTCOMES = tuple(o for o in Outcome if o is not Outcome.OUTCOMES)


class FlowReader:
    """
    Empties flow maps into batches. Owns the buffers between.

    Args:
        capacity: Flows of the largest map that will be read.
    """

    def __init__(self, capacity: int) -> None:
        cpus = possible_cpus()
        rows = max(min(_BATCH_OCTETS // (cpus * FLOW_STATS.itemsize), capacity), 1024)
        self._keys = np.empty(rows, FLOW_KEY)
        self._values = np.empty((rows, cpus), FLOW_STATS)

    def empty(self, retired: Map, expected: int, offset_ns: int) -> FlowBatch:
        """
        Take everything out of a map that no program writes to any more.

        Args:
            retired: A flow map.
            expected: About how many flows it has; a wrong guess costs copies.
            offset_ns: Added to the kernel's times; see ``batch.clock``.

        Returns:
            One row per flow and observation point.

        Raises:
            BpfError: If the kernel refuses. What was not read stays in the map.
        """
        cursor = BatchCursor()
        # One allocation for all: batches of a batch would be copied together at the end.
        batch, filled = allocate(expected), 0
        while not cursor.done:
            rows = retired.take_batch(self._keys, self._values, cursor)
            if filled + rows > len(batch):
                batch = concatenate([batch.take(slice(filled)), allocate(2 * filled + rows)])
            place = batch.take(slice(filled, filled + rows))
            fold_per_cpu(self._keys[:rows], self._values[:rows], offset_ns, place)
            filled += rows
        return batch.take(slice(filled))


def read_ring(ring: RingBuffer, offset_ns: int) -> FlowBatch:
    """
    The packets that the flow map could not take, merged into flows.

    Args:
        ring: Of FLOW_RECORD.
        offset_ns: Added to the kernel's times; see ``batch.clock``.

    Returns:
        One row per flow and observation point.
    """
    records = ring.read()
    if not len(records):
        return empty_batch()
    stats = np.ascontiguousarray(records["stats"]).reshape(-1, 1)
    return accumulate(fold_per_cpu(records["key"], stats, offset_ns))


def counters_of(counters: Map, direction: FlowDirection) -> Any:
    """The counters of a direction: COUNTERS, shape (possible CPUs,)."""
    return counters.per_cpu(direction.to_bytes(4, "little"), COUNTERS)


def all_counters(counters: Map) -> Any:
    """The counters of both directions: COUNTERS, shape (directions x possible CPUs,)."""
    return np.concatenate([counters_of(counters, direction) for direction in _DIRECTIONS])


def kernel_counts(values: Any) -> KernelCounts:
    """The kernel's half of the ledger: the sum of COUNTERS values, shape (n,)."""
    return KernelCounts(
        seen=_sum(values["seen"]),
        outcomes={_outcome_name(o): _sum(values["outcome"][:, o]) for o in _OUTCOMES},
        flows_created=int(values["flows_created"].sum()),
        fragments_unmatched=int(values["fragments_unmatched"].sum()),
    )


def _outcome_name(outcome: Outcome) -> str:
    return outcome.name.removeprefix("OUTCOME_").lower()


def _sum(tallies: Any) -> Tally:
    return Tally(int(tallies["packets"].sum()), int(tallies["octets"].sum()))
