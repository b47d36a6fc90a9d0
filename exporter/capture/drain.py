"""One drain: swap and empty the flow maps, read the ring buffer, and make one batch of both."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from exporter.batch.batch import FlowBatch, FlowEndReason, Window, concatenate
from exporter.batch.build import accumulate, with_end_reason
from exporter.batch.clock import unix_offset_ns
from exporter.capture.fetcher import FlowFetcher


@dataclass
class DrainTimes:
    """How many drains there were and how long they took, in seconds."""

    count: int = 0
    seconds: float = 0.0
    last_seconds: float = 0.0


class Drain:
    """
    Takes from a fetcher what it counted.

    Args:
        fetcher: Open. Stays the caller's.
    """

    def __init__(self, fetcher: FlowFetcher) -> None:
        self._fetcher = fetcher
        self._last_ns = time.monotonic_ns()
        self.times = DrainTimes()

    def take_inherited(self, reason: FlowEndReason) -> list[FlowBatch]:
        """
        What earlier agents' programs counted; see ``FlowFetcher.take_inherited``.

        Args:
            reason: Why records are cut now.

        Returns:
            Batches as of :meth:`take`, in the window of the drain to come.
        """
        offset = unix_offset_ns()
        window = Window(self._last_ns + offset, time.monotonic_ns() + offset)
        return [
            replace(with_end_reason(batch, reason), window=window)
            for batch in self._fetcher.take_inherited()
        ]

    def take(self, reason: FlowEndReason) -> FlowBatch:
        """
        Everything counted since the last drain.

        Args:
            reason: Why records are cut now, for those that no FIN or RST ended.

        Returns:
            One row per flow and observation point, times in Unix ns.

        Raises:
            BpfError: If the kernel refuses. What was not read is in the next drain.
        """
        began = time.monotonic_ns()
        offset = unix_offset_ns()
        batch = self._fetcher.lookup_and_delete_map(offset)
        unaggregated = self._fetcher.read_ring_buffer(offset)
        if len(unaggregated):
            batch = accumulate(concatenate([batch, unaggregated]))
        # The cut was before the retired map was read, and after this function was entered: packets
        # that were under way at the cut are later than this.
        start_ns, self._last_ns = self._last_ns, began
        self._note((time.monotonic_ns() - began) / 1e9)
        window = Window(start_ns + offset, self._last_ns + offset)
        return replace(with_end_reason(batch, reason), window=window)

    def _note(self, seconds: float) -> None:
        self.times.count += 1
        self.times.seconds += seconds
        self.times.last_seconds = seconds
