"""
What the file, Prometheus and stdout sinks cost per flow: encode and deliver, 100,000 flows a drain.

Files go to a memory file system, so that the disk's speed is not in it; each run is checked by what
was written. CPU time is the process's, all threads, user and system, a Parquet file's finishing
included. RSS is the peak of a process of its own that does nothing else.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import median
from exporter.batch.batch import FlowBatch, Interface, Observer, Point, Window
from exporter.batch.build import allocate
from exporter.config import load
from exporter.fanout.contract import Sink
from exporter.sinks.stdout.config import StdoutConfig
from exporter.sinks.stdout.sink import LineSink
from exporter.sinks.table import make

FLOWS = 100_000
RUNS = 7
COLUMNS = ("sink", "variant", "CPU us per flow", "flows/s per core", "RSS MB", "octets per flow")

#: (sink, variant): URL with the directory left open; of stdout the format.
CASES: dict[tuple[str, str], str] = {
    ("file", "JSON lines, otel"): "file://{}/flows.jsonl",
    ("file", "JSON lines, netobserv"): "file://{}/flows.jsonl?schema=netobserv",
    ("file", "Parquet, text addresses, zstd"): "file://{}/flows.parquet",
    ("file", "Parquet, binary addresses, zstd"): "file://{}/flows.parquet?addresses=binary",
    ("file", "Parquet, text addresses, snappy"): "file://{}/flows.parquet?compression=snappy",
    ("prometheus", "default labels"): "prometheus://127.0.0.1:9",
    ("prometheus", "addresses, 2000 series, the rest overflows"): (
        "prometheus://127.0.0.1:9?labels=src_addr,dst_addr"
    ),
    ("stdout", "json"): "json",
    ("stdout", "keyvalue"): "keyvalue",
}


def rows() -> list[tuple[Any, ...]]:
    """One row of :data:`COLUMNS` for each case."""
    return [(*case, *_in_own_process(*case)) for case in CASES]


def flows() -> FlowBatch:
    """TCP and UDP over IPv4, all different, as many values as traffic of a busy host has."""
    rng = np.random.default_rng(1)
    batch = allocate(FLOWS)
    key = batch.key
    key[...] = np.zeros(1, key.dtype)
    for address in ("src_addr", "dst_addr"):
        key[address][:, 10:12] = 0xFF
        key[address][:, 12:] = rng.integers(0, 255, (FLOWS, 4))
    key["src_port"] = rng.integers(1024, 65_535, FLOWS)
    key["dst_port"] = rng.choice([53, 80, 443, 8080], FLOWS)
    key["ip_protocol"] = np.where(key["dst_port"] == 53, 17, 6)
    key["ifindex"], key["direction"] = 2, rng.integers(0, 2, FLOWS)
    start = 1_763_700_000_000_000_000
    batch.flow_start_ns[...] = start + rng.integers(0, 5 * 10**9, FLOWS)
    batch.flow_end_ns[...] = batch.flow_start_ns + rng.integers(0, 10**9, FLOWS, np.uint64)
    batch.packet_count[...] = rng.integers(1, 1000, FLOWS)
    batch.octet_count_l3[...] = batch.packet_count * rng.integers(60, 1400, FLOWS, np.uint64)
    batch.octet_count_l2[...] = batch.octet_count_l3 + 14 * batch.packet_count
    batch.sampling_interval[...], batch.tcp_control_bits[...] = 1, 24
    batch.tcp_flag_sets[...], batch.dscp[...], batch.flow_end_reason[...] = 0, 0, 2
    batch.src_mac[...], batch.dst_mac[...] = (2, 0, 0, 0, 0, 1), (2, 0, 0, 0, 0, 2)
    batch.points[...] = key["direction"]
    lists = tuple((Point(0, 2, direction), Point(0, 3, direction)) for direction in (0, 1))
    names = {point: Interface(f"eth{point.ifindex}") for points in lists for point in points}
    return replace(
        batch, point_lists=lists, interfaces=names, observer=Observer("192.0.2.1", "node-1"),
        window=Window(start, start + 5 * 10**9),
    )  # fmt: skip


def _in_own_process(sink: str, variant: str) -> tuple[str, str, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_sinks_files", sink, variant],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    micros, rss, octets = json.loads(done.stdout)
    return f"{micros:.2f}", f"{1e6 / micros:,.0f}", f"{rss:.0f}", f"{octets:.0f}"


def _measure(what: str, variant: str) -> tuple[float, float, float]:
    batch = flows()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        text = CASES[what, variant]
        if what == "stdout":
            return _lines(text, batch)
        (config,) = load(None, {}, {"sinks": [text.format(directory)]}).sinks
        took, octets = [], 0.0
        # Opened for each run: closing finishes the file, which is part of the cost.
        for _ in range(RUNS):
            sink = make(config)
            if what == "file":
                sink.open()
            took.append(_timed(lambda sink=sink: _send(sink, batch)))  # type: ignore[misc]
            sizes = [path.stat().st_size for path in Path(directory).iterdir()]
            octets = sum(sizes) / FLOWS
            for path in Path(directory).iterdir():
                path.unlink()
            if what == "prometheus":
                assert sink.metrics._series.read().flows.sum() == FLOWS  # type: ignore[attr-defined]
        assert what != "file" or octets > 20
    return 1e6 * median(took[1:]) / FLOWS, _peak(), octets


def _send(sink: Sink, batch: FlowBatch) -> None:
    for message in sink.encode(batch):
        sink.deliver(message, 10)
    sink.close()


def _lines(form: str, batch: FlowBatch) -> tuple[float, float, float]:
    """Into a pipe that a thread empties; its share of the time is in it."""
    took, octets = [], [0]
    for _ in range(RUNS):
        reading, writing = os.pipe()

        def read(reading: int = reading) -> None:
            octets[0] = 0
            while part := os.read(reading, 1 << 20):
                octets[0] += len(part)

        reader = threading.Thread(target=read)
        reader.start()
        sink = LineSink("stdout", StdoutConfig.model_validate({"format": form}), writing)
        took.append(_timed(lambda sink=sink: _send(sink, batch)))  # type: ignore[misc]
        os.close(writing)
        reader.join()
    assert octets[0] > 100 * FLOWS
    return 1e6 * median(took[1:]) / FLOWS, _peak(), octets[0] / FLOWS


def _timed(action: Callable[[], None]) -> float:
    before = time.process_time()
    action()
    return time.process_time() - before


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], sys.argv[2])))
