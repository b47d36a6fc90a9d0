"""Folding CPUs and merging rows, against the same in plain Python."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.abi.layout import FLOW_KEY, FLOW_STATS
from exporter.batch.batch import FlowBatch, FlowEndReason, Totals, concatenate
from exporter.batch.build import (
    accumulate,
    allocate,
    empty_batch,
    fold_per_cpu,
    with_end_reason,
)
from exporter.testing import Row, make_batch
from tests.strategies import flow_keys, per_cpu_values

OFFSET = 1_700_000_000_000_000_000


def python_row(batch: FlowBatch, row: int) -> dict[str, Any]:
    """A row as plain values, for comparisons."""
    return {
        "key": batch.key[row].tobytes(),
        "start": int(batch.flow_start_ns[row]),
        "end": int(batch.flow_end_ns[row]),
        "packets": int(batch.packet_count[row]),
        "octets_l2": int(batch.octet_count_l2[row]),
        "octets_l3": int(batch.octet_count_l3[row]),
        "sampling": int(batch.sampling_interval[row]),
        "bits": int(batch.tcp_control_bits[row]),
        "sets": int(batch.tcp_flag_sets[row]),
        "dscp": int(batch.dscp[row]),
        "src_mac": batch.src_mac[row].tobytes(),
        "dst_mac": batch.dst_mac[row].tobytes(),
    }


def python_fold(key: Any, slots: Any) -> dict[str, Any]:
    """One flow's CPUs, folded one by one."""
    used = [slot for slot in slots if slot["packets"]]
    earliest = min(used, key=lambda slot: int(slot["first_mono_ns"]))
    latest = max(used, key=lambda slot: int(slot["last_mono_ns"]))

    def total(name: str) -> int:
        return sum(int(slot[name]) for slot in used)

    def united(name: str) -> int:
        return reduce(operator.or_, (int(slot[name]) for slot in used))

    return {
        "key": key.tobytes(),
        "start": int(earliest["first_mono_ns"]) + OFFSET,
        "end": int(latest["last_mono_ns"]) + OFFSET,
        "packets": total("packets"),
        "octets_l2": total("octets_l2"),
        "octets_l3": total("octets_l3"),
        "sampling": max(int(slot["sampling_interval"]) for slot in used),
        "bits": united("tcp_control_bits"),
        "sets": united("tcp_flag_sets"),
        "dscp": int(latest["dscp"]),
        "src_mac": earliest["src_mac"].tobytes(),
        "dst_mac": earliest["dst_mac"].tobytes(),
    }


def assert_merged(merged: dict[str, Any], group: list[dict[str, Any]]) -> None:
    """A row is what the rows of one flow key give together."""
    start, end = min(row["start"] for row in group), max(row["end"] for row in group)
    assert (merged["start"], merged["end"]) == (start, end)
    for name in ("packets", "octets_l2", "octets_l3"):
        assert merged[name] == sum(row[name] for row in group)
    for name in ("bits", "sets"):
        assert merged[name] == reduce(operator.or_, (row[name] for row in group))
    assert merged["sampling"] == max(row["sampling"] for row in group)
    assert merged["dscp"] in {row["dscp"] for row in group if row["end"] == end}
    assert (merged["src_mac"], merged["dst_mac"]) in {
        (row["src_mac"], row["dst_mac"]) for row in group if row["start"] == start
    }


@given(st.data())
def test_fold_per_cpu(data: st.DataObject) -> None:
    """Sums, the earliest start and its MACs, the latest end and its DSCP, the flags united."""
    size = data.draw(st.integers(0, 5))
    keys = data.draw(flow_keys(size, distinct=True))
    values = data.draw(per_cpu_values(size, data.draw(st.integers(1, 5))))
    batch = fold_per_cpu(keys, values, OFFSET)
    folded = [python_row(batch, row) for row in range(len(batch))]
    assert folded == [python_fold(*pair) for pair in zip(keys, values, strict=True)]


def test_fold_per_cpu_into_a_part() -> None:
    """Batches of a drain fill one allocation part by part, and touch nothing beside their part."""
    keys, values = np.zeros(2, FLOW_KEY), np.zeros((2, 2), FLOW_STATS)
    keys["ifindex"], values["packets"][:, 1], values["first_mono_ns"][:, 1] = (7, 8), 5, 100
    whole = allocate(6)
    whole.key["ifindex"], whole.packet_count[...] = 1, 1
    fold_per_cpu(keys, values, 1000, whole.take(slice(2, 4)))
    assert whole.ifindex.tolist() == [1, 1, 7, 8, 1, 1]
    assert whole.packet_count.tolist() == [1, 1, 5, 5, 1, 1]
    assert whole.flow_start_ns[2:4].tolist() == [1100, 1100]


def test_fold_per_cpu_copies() -> None:
    """The buffers are used again for the next drain: nothing of them is shared."""
    keys, values = np.zeros(3, FLOW_KEY), np.zeros((3, 2), FLOW_STATS)
    values["packets"], values["first_mono_ns"], values["dscp"] = 1, 5, 7
    batch = fold_per_cpu(keys, values, 0)
    columns = [getattr(batch, name) for name in ("key", "dscp", "src_mac", "flow_start_ns")]
    assert not any(np.shares_memory(column, b) for column in columns for b in (keys, values))


def test_fold_per_cpu_of_time_zero() -> None:
    """A capture may begin at time 0: the slot that counts is still the one with packets."""
    values = np.zeros((1, 3), FLOW_STATS)
    values[0, 2]["packets"], values[0, 2]["dscp"], values[0, 2]["src_mac"] = 1, 46, [2] * 6
    batch = fold_per_cpu(np.zeros(1, FLOW_KEY), values, 0)
    assert (int(batch.flow_start_ns[0]), int(batch.flow_end_ns[0])) == (0, 0)
    assert (int(batch.dscp[0]), batch.src_mac[0].tolist()) == (46, [2] * 6)


@given(st.data())
def test_accumulate(data: st.DataObject) -> None:
    """One row per key: what merging the rows one by one gives."""
    size = data.draw(st.integers(0, 9))
    keys = data.draw(flow_keys(size))
    if size:
        # Few keys, so that some are equal.
        keys = keys[data.draw(st.lists(st.integers(0, size - 1), min_size=size, max_size=size))]
    batch = fold_per_cpu(keys, data.draw(per_cpu_values(size, 1)), OFFSET)
    groups: dict[bytes, list[dict[str, Any]]] = {}
    for row in range(len(batch)):
        one = python_row(batch, row)
        groups.setdefault(one["key"], []).append(one)
    merged = accumulate(batch)
    assert len(merged) == len(groups)
    for row in range(len(merged)):
        one = python_row(merged, row)
        assert_merged(one, groups.pop(one["key"]))


def test_accumulate_leaves_distinct_rows_alone() -> None:
    """Nothing to merge: the very batch comes back."""
    batch = make_batch(*(Row(src_port=port) for port in range(9)))
    assert accumulate(batch) is batch


def test_accumulate_of_map_and_ring() -> None:
    """A flow in the map and single packets of it in the ring are one row with all packets."""
    flow = make_batch(Row(packet_count=100, octet_count_l2=9000), Row(src_port=1))
    ring = make_batch(*[Row(packet_count=1, octet_count_l2=90)] * 5, Row(src_port=2))
    merged = accumulate(concatenate([flow, ring]))
    assert len(merged) == 3
    # Five rows fewer, for they are in the first.
    assert merged.totals == flow.totals + ring.totals - Totals(flows=5)


def test_empty_batch() -> None:
    """No rows, all columns."""
    batch = empty_batch()
    assert len(batch) == 0
    assert batch.src_mac.shape == (0, 6)
    assert len(accumulate(batch)) == 0


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (0x10, FlowEndReason.ACTIVE_TIMEOUT),
        (0x02, FlowEndReason.ACTIVE_TIMEOUT),
        (0x01, FlowEndReason.END_OF_FLOW),
        (0x04, FlowEndReason.END_OF_FLOW),
        (0x15, FlowEndReason.END_OF_FLOW),
    ],
)
def test_end_reason(bits: int, expected: FlowEndReason) -> None:
    """FIN or RST ended the flow; else the drain's own reason."""
    batch = with_end_reason(make_batch(Row(tcp_control_bits=bits)), FlowEndReason.ACTIVE_TIMEOUT)
    assert batch.flow_end_reason.tolist() == [expected]
    assert batch.flow_end_reason.dtype == np.uint8
