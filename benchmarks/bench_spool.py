"""What a spool adds: CPU time per flow of a drain of 100,000, beside the queue in memory."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.flows import _keys, fill
from exporter.batch.batch import FlowBatch, Interface, Observer, Point, Window
from exporter.capture.config import CaptureConfig
from exporter.capture.fetcher import FlowFetcher
from exporter.fanout.config import QueueConfig, SpoolConfig
from exporter.fanout.queue import BatchQueue
from exporter.fanout.spool.body import body_of
from exporter.fanout.spool.spool import Spool

FLOWS = 100_000
RUNS = 20


def rows() -> list[dict[str, Any]]:
    """
    One row for each way: sink, variant, CPU us per flow (median, least and most), octets per flow
    on disk.

    ``delivered at once`` is a destination that keeps up: written, taken from memory, settled.
    ``read back`` is one that was away: the rows come from the disk.
    """
    memory = _measure("queue in memory", None, _at_once)
    found = [memory]
    for fsync in ("never", "batch"):
        name = "delivered at once" + (", fsync batch" if fsync == "batch" else "")
        row = _measure(name, fsync, _at_once)
        row["added_us"] = round(row["us_per_flow"] - memory["us_per_flow"], 3)
        found.append(row)
    found.append(_measure("read back", "never", _read_back))
    return found + _emptied()


def _emptied() -> list[dict[str, Any]]:
    """
    A flow map that is emptied as it is read, and one that is read and emptied when the batch is on
    disk, as with pins.
    """
    times: dict[bool, list[float]] = {False: [], True: []}
    with FlowFetcher(CaptureConfig(max_flows=FLOWS + FLOWS // 8, interfaces="/^none$/")) as fetcher:
        for run in range(2 * RUNS):
            fetcher.keeps = run % 2 == 1
            fill(fetcher, FLOWS)
            began = time.process_time()
            taken = fetcher.lookup_and_delete_map()
            fetcher.release()
            times[fetcher.keeps].append((time.process_time() - began) / FLOWS * 1e6)
            assert taken.totals.flows == FLOWS
    at_once = _row("flow map read and emptied at once", times[False])
    later = _row("flow map emptied when the batch is on disk", times[True])
    later["added_us"] = round(later["us_per_flow"] - at_once["us_per_flow"], 3)
    return [at_once, later]


def batch(seed: int) -> FlowBatch:
    """Flows that differ in addresses, times and counts; the rest is as common in traffic."""
    rng = np.random.default_rng(seed)

    def numbers(low: int, high: int, kind: type[Any]) -> Any:
        return rng.integers(low, high, FLOWS).astype(kind)

    point = Point(0, 2, 1)
    start = numbers(1_700_000_000 * 10**9, 1_700_000_005 * 10**9, np.uint64)
    return FlowBatch(
        key=_keys(np.arange(seed * FLOWS, (seed + 1) * FLOWS, dtype=">u4")),
        flow_start_ns=start,
        flow_end_ns=start + numbers(0, 5 * 10**9, np.uint64),
        packet_count=numbers(1, 10_000, np.uint64),
        octet_count_l2=numbers(60, 10**7, np.uint64),
        octet_count_l3=numbers(46, 10**7, np.uint64),
        sampling_interval=np.ones(FLOWS, np.uint32),
        tcp_control_bits=numbers(0, 64, np.uint16),
        tcp_flag_sets=numbers(0, 8, np.uint8),
        dscp=np.zeros(FLOWS, np.uint8),
        src_mac=numbers(0, 255, np.uint8).repeat(6).reshape(FLOWS, 6),
        dst_mac=numbers(0, 255, np.uint8).repeat(6).reshape(FLOWS, 6),
        flow_end_reason=np.full(FLOWS, 2, np.uint8),
        duplicate=np.zeros(FLOWS, np.bool_),
        points=np.zeros(FLOWS, np.uint32),
        point_lists=((point,),),
        interfaces={point: Interface("eth0")},
        observer=Observer("192.0.2.1", "host"),
        window=Window(1_700_000_000 * 10**9, 1_700_000_005 * 10**9),
    )


def _measure(
    variant: str, fsync: str | None, way: Callable[[BatchQueue, FlowBatch], float]
) -> dict[str, Any]:
    directory = Path(tempfile.mkdtemp(dir="."))
    try:
        config = SpoolConfig.model_validate({"directory": directory, "fsync": fsync or "never"})
        queue = BatchQueue(QueueConfig(), Spool(config, "bench") if fsync else None)
        queue.open()
        times = [way(queue, batch(run)) / FLOWS * 1e6 for run in range(RUNS)]
        queue.shut()
        assert queue.counts().delivered.flows == RUNS * FLOWS
    finally:
        shutil.rmtree(directory)
    return _row(variant, times, round(body_of(batch(0)).octets / FLOWS, 1) if fsync else 0)


def _row(variant: str, times: list[float], octets: float = 0) -> dict[str, Any]:
    return {
        "sink": "spool",
        "variant": variant,
        "us_per_flow": round(statistics.median(times), 3),
        "least": round(min(times), 3),
        "most": round(max(times), 3),
        "octets_per_flow": octets,
    }


def _at_once(queue: BatchQueue, one: FlowBatch) -> float:
    _ = one.totals
    began = time.process_time()
    queue.put(one, queue.store(one))
    taken = queue.take()
    assert taken is one
    queue.delivered(one.totals)
    return time.process_time() - began


def _read_back(queue: BatchQueue, one: FlowBatch) -> float:
    queue.put(one, queue.store(one))
    queue._evict(10**9)
    began = time.process_time()
    taken = queue.take()
    spent = time.process_time() - began
    assert taken is not None
    assert taken.totals == one.totals
    queue.delivered(taken.totals)
    return spent


if __name__ == "__main__":
    for row in rows():
        print(row)
