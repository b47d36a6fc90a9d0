"""
Take over from an agent that ended, however it ended.

Its program counted on until each hook was given the new one. From then on its counters are final
and its maps quiet, so what it had read and not delivered is no guess:

::

    lost = recorded by its sets - settled by it - still in its maps

Nothing is taken out of the maps: whoever is killed before all of it is published has a successor
that reads the same.
"""

from __future__ import annotations

import logging

from exporter.batch.batch import FlowBatch, concatenate
from exporter.batch.build import accumulate
from exporter.capture.reader import FLOW_MAPS, FlowReader, flows_of, kernel_counts
from exporter.capture.store import PinnedSet, PinStore
from exporter.ebpf.ringbuf import RingBuffer
from exporter.ledger import Kept, KernelCounts, Tally

log = logging.getLogger(__name__)

_SLOT = bytes(4)


def inherit(store: PinStore, offset_ns: int) -> list[FlowBatch]:
    """
    Read what is left in the sets of earlier agents, and book what is missing. The sets are
    forgotten when all of it is settled.

    Args:
        store: Open. No hook feeds the earlier sets any more.
        offset_ns: Added to the kernel's times; see ``batch.clock``.

    Returns:
        What is to be published, one after the other; each has one row per flow and observation
        point. What an agent had read and not settled is by itself: if it was delivered all the
        same, the records are equal.

    Raises:
        BpfError: If the kernel refuses. The next agent tries again.
    """
    batches, counts, sets = [], KernelCounts(), 0
    for earlier in store.earlier_sets():
        batches += _read(earlier, store.kept_of(earlier.number), offset_ns)
        counts += kernel_counts(earlier.maps["counters"], earlier.layout)
        sets += 1
    batches = [batch for batch in batches if len(batch)]
    left = sum((Tally(b.totals.packets, b.totals.octets) for b in batches), Tally())
    recorded = (store.counts + counts).recorded
    lost = recorded - store.carried.settled - store.carried.lost - left
    store.close_earlier(counts, lost)
    if sets:
        log.info("%d packets were counted while no agent ran", left.packets)
    if lost != Tally():
        log.warning(
            "%d packets (%d octets) were lost with the previous agent: it had read them and not "
            "delivered them",
            lost.packets,
            lost.octets,
        )
    return batches


def _read(earlier: PinnedSet, kept: Kept, offset_ns: int) -> list[FlowBatch]:
    """What its agent had retired and not settled, and what was counted since."""
    active = _wait_until_quiet(earlier)
    retired = 1 - active
    reader = FlowReader(earlier.maps[FLOW_MAPS[0]].spec.max_entries, earlier.layout)
    found = []
    # If the agent was emptying it, all of it was settled before.
    if kept.slot != retired + 1:
        offset = earlier.offset_ns("retired", offset_ns)
        found.append(reader.copy(earlier.maps[FLOW_MAPS[retired]], 0, offset))
    with RingBuffer(earlier.maps["flow_ring"], earlier.layout.record) as ring:
        records, _ = ring.peek(after=kept.ring)
    offset = earlier.offset_ns("active", offset_ns)
    counted = reader.copy(earlier.maps[FLOW_MAPS[active]], 0, offset)
    found.append(concatenate([counted, flows_of(records, offset)]))
    # Keys of another layout may say more than ours.
    return [accumulate(batch) if len(batch) else batch for batch in found]


def _wait_until_quiet(earlier: PinnedSet) -> int:
    """
    Let programs end that began before the hooks were given another one.

    Returns:
        Which of the flow maps they wrote to. It stays that one: a successor asks again.

    Source: kernel/bpf/syscall.c maybe_wait_bpf_programs(): an update of a map of maps returns after
    an RCU grace period.
    """
    chosen = earlier.maps["flow_active"]
    number = int.from_bytes(chosen.lookup(_SLOT), "little")
    ids = [earlier.maps[name].info().id for name in FLOW_MAPS]
    active = ids.index(number)
    chosen.update(_SLOT, earlier.maps[FLOW_MAPS[active]].fd.to_bytes(4, "little"))
    return active
