"""
Take over from an agent that ended, however it ended.

Its program counted on until each hook was given the new one. From then on its counters are final
and its maps quiet, so what it had read and not delivered is no guess:

::

    lost = recorded by its sets - settled by it - still in its maps
"""

from __future__ import annotations

import logging

from exporter.batch.batch import FlowBatch, concatenate
from exporter.batch.build import accumulate, empty_batch
from exporter.capture.reader import FlowReader, kernel_counts, read_ring
from exporter.capture.store import PinnedSet, PinStore
from exporter.ebpf.ringbuf import RingBuffer
from exporter.ledger import KernelCounts, Tally

log = logging.getLogger(__name__)

_FLOW_MAPS = ("flow_stats_a", "flow_stats_b")
_SLOT = bytes(4)


def inherit(store: PinStore, offset_ns: int) -> FlowBatch:
    """
    Read what is left in the sets of earlier agents, book what is missing, and forget the sets.

    Args:
        store: Open. No hook feeds the earlier sets any more.
        offset_ns: Added to the kernel's times; see ``batch.clock``.

    Returns:
        One row per flow and observation point.

    Raises:
        BpfError: If the kernel refuses. The next agent tries again, and what this one has read is
            counted as lost then.
    """
    batches, counts = [], KernelCounts()
    for earlier in store.earlier_sets():
        _wait_until_quiet(earlier)
        reader = FlowReader(earlier.maps[_FLOW_MAPS[0]].spec.max_entries, earlier.layout)
        batches += [reader.empty(earlier.maps[name], 0, offset_ns) for name in _FLOW_MAPS]
        ring = RingBuffer(earlier.maps["flow_ring"], earlier.layout.record)
        try:
            batches.append(read_ring(ring, offset_ns))
        finally:
            ring.close()
        counts += kernel_counts(earlier.maps["counters"], earlier.layout)
    left = accumulate(concatenate(batches)) if batches else empty_batch()
    recorded = (store.counts + counts).recorded
    known = store.carried.settled + store.carried.lost
    lost = recorded - known - Tally(left.totals.packets, left.totals.octets)
    store.close_earlier(counts, lost)
    if batches:
        log.info("%d packets were counted while no agent ran", left.totals.packets)
    if lost != Tally():
        log.warning(
            "%d packets (%d octets) were lost with the previous agent: it had read them and not "
            "delivered them",
            lost.packets,
            lost.octets,
        )
    return left


def _wait_until_quiet(earlier: PinnedSet) -> None:
    """
    Let programs end that began before the hooks were given another one.

    Source: kernel/bpf/syscall.c maybe_wait_bpf_programs(): an update of a map of maps returns after
    an RCU grace period.
    """
    fd = earlier.maps[_FLOW_MAPS[0]].fd
    earlier.maps["flow_active"].update(_SLOT, fd.to_bytes(4, "little"))
