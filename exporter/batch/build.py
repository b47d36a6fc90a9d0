"""
From what the kernel wrote to columns: fold the CPUs' slots, and merge rows of one flow.

Whole arrays at a time; nothing here looks at a single flow.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.abi.layout import FLOW_KEY
from exporter.batch.batch import FlowBatch, FlowEndReason
from exporter.batch.group import Groups, group_rows

_NEVER = np.uint64(np.iinfo(np.uint64).max)
_FIN_OR_RST = np.uint16(0x05)


def empty_batch() -> FlowBatch:
    """No rows."""
    return allocate(0)


def allocate(rows: int) -> FlowBatch:
    """A batch whose columns are still to be filled, by :func:`fold_per_cpu`."""
    return FlowBatch(
        key=np.empty(rows, FLOW_KEY),
        flow_start_ns=np.empty(rows, np.uint64),
        flow_end_ns=np.empty(rows, np.uint64),
        packet_count=np.empty(rows, np.uint64),
        octet_count_l2=np.empty(rows, np.uint64),
        octet_count_l3=np.empty(rows, np.uint64),
        sampling_interval=np.empty(rows, np.uint32),
        tcp_control_bits=np.empty(rows, np.uint16),
        tcp_flag_sets=np.empty(rows, np.uint8),
        dscp=np.empty(rows, np.uint8),
        src_mac=np.empty((rows, 6), np.uint8),
        dst_mac=np.empty((rows, 6), np.uint8),
        flow_end_reason=np.zeros(rows, np.uint8),
        duplicate=np.zeros(rows, np.bool_),
        points=np.zeros(rows, np.uint32),
    )


def fold_per_cpu(
    keys: NDArray[Any], values: NDArray[Any], offset_ns: int, out: FlowBatch | None = None
) -> FlowBatch:
    """
    Fold the per-CPU slots of drained flows into columns.

    Args:
        keys: FLOW_KEY, shape (n,). Copied.
        values: FLOW_STATS, shape (n, possible CPUs). Slots of CPUs that saw no packet are all zero.
        offset_ns: Added to the kernel's times; see ``batch.clock``.
        out: n rows of :func:`allocate` to fill; new ones if ``None``.

    Returns:
        ``out``. Points, end reasons and duplicates are not set yet.

    Source: Documentation/bpf/map_hash.rst, per-CPU values.
    """
    if out is None:
        out = allocate(len(keys))
    rows = np.arange(len(keys))
    used = values["packets"] != 0
    starts = np.where(used, values["first_mono_ns"], _NEVER)
    ends = values["last_mono_ns"]
    # A used slot comes before an unused one also at time 0, where a capture may begin.
    first, last = starts.argmin(axis=1), (ends + used).argmax(axis=1)
    offset = np.uint64(offset_ns)
    out.key[...] = keys
    out.flow_start_ns[...] = starts[rows, first] + offset
    out.flow_end_ns[...] = ends[rows, last] + offset
    values["packets"].sum(axis=1, out=out.packet_count)
    values["octets_l2"].sum(axis=1, out=out.octet_count_l2)
    values["octets_l3"].sum(axis=1, out=out.octet_count_l3)
    values["sampling_interval"].max(axis=1, out=out.sampling_interval)
    np.bitwise_or.reduce(values["tcp_control_bits"], axis=1, out=out.tcp_control_bits)
    np.bitwise_or.reduce(values["tcp_flag_sets"], axis=1, out=out.tcp_flag_sets)
    out.dscp[...] = values["dscp"][rows, last]
    out.src_mac[...] = values["src_mac"][rows, first]
    out.dst_mac[...] = values["dst_mac"][rows, first]
    return out


def accumulate(batch: FlowBatch) -> FlowBatch:
    """
    Merge rows with equal flow keys: counts add up, flags are united, times span.

    MACs are those of the earliest row, the DSCP is that of the latest.

    Args:
        batch: Rows in any order, points not set.

    Returns:
        One row per flow key. The batch itself if no two rows are equal.
    """
    groups = group_rows(batch.key_words())
    if len(groups.starts) == len(batch):
        return batch
    return _merge(batch, groups)


def _merge(batch: FlowBatch, groups: Groups) -> FlowBatch:
    order, starts = groups.order, groups.starts
    earliest = _extreme(batch.flow_start_ns, groups)
    latest = _extreme(~batch.flow_end_ns, groups)

    def united(ufunc: np.ufunc, name: str) -> Any:
        return ufunc.reduceat(getattr(batch, name)[order], starts)

    return replace(
        batch.take(earliest),
        flow_end_ns=batch.flow_end_ns[latest],
        packet_count=united(np.add, "packet_count"),
        octet_count_l2=united(np.add, "octet_count_l2"),
        octet_count_l3=united(np.add, "octet_count_l3"),
        sampling_interval=united(np.maximum, "sampling_interval"),
        tcp_control_bits=united(np.bitwise_or, "tcp_control_bits"),
        tcp_flag_sets=united(np.bitwise_or, "tcp_flag_sets"),
        dscp=batch.dscp[latest],
    )


def _extreme(values: NDArray[np.uint64], groups: Groups) -> NDArray[np.int64]:
    """Row number of each group's smallest value; of equals any."""
    within = np.lexsort((values[groups.order], groups.labels()))
    return groups.order[within[groups.starts]]


def with_end_reason(batch: FlowBatch, reason: FlowEndReason) -> FlowBatch:
    """
    Say why the records were cut: FIN or RST seen, else ``reason``.

    Source: RFC 5102 section 5.11.3 flowEndReason.
    """
    ended = (batch.tcp_control_bits & _FIN_OR_RST) != 0
    reasons = np.where(ended, np.uint8(FlowEndReason.END_OF_FLOW), np.uint8(reason))
    return replace(batch, flow_end_reason=reasons)
