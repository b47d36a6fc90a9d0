"""
What user space costs per flow: from the kernel's map to bytes on a socket.

Flows are written into the real flow map, then drained, deduplicated, enriched, encoded as pbflow
and sent by gRPC to a collector in another process, which answers and throws them away. CPU time is
this process's, all threads, user and system.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.flows import fill
from benchmarks.report import Table, median, spread
from exporter.batch.batch import FlowBatch, FlowEndReason
from exporter.capture.config import CaptureConfig
from exporter.capture.drain import Drain
from exporter.capture.fetcher import FlowFetcher
from exporter.config import Config
from exporter.dedupe.config import DedupeConfig
from exporter.dedupe.dedupe import Deduper
from exporter.enrich.interfaces import InterfaceNames
from exporter.enrich.observer import AgentConfig, ObserverName
from exporter.pipeline import Pipeline
from exporter.sinks.encodings.pbflow import encode
from exporter.sinks.grpc.config import GrpcConfig
from tests.e2e.net import Netns

T = TypeVar("T")

SIZES = (1_000, 10_000, 100_000, 1_000_000)
PORT = 19_995


def run() -> Table:
    """CPU microseconds per flow, by stage and all together."""
    table = Table(
        "pipeline",
        "CPU microseconds per flow, map to socket, median of the runs",
        ("flows per drain", "drain", "dedupe", "enrich", "encode", "all, gRPC included",
         "wall ms per drain"),
    )  # fmt: skip
    with collector(PORT):
        for size in SIZES:
            stages, total, wall = _stages(size), *_whole(size)
            table.add(f"{size:,}", *(f"{stage:.2f}" for stage in stages), spread(total),
                      f"{1000 * median(wall):.0f}")  # fmt: skip
    return table


@contextmanager
def collector(port: int, netns: Netns | None = None) -> Iterator[None]:
    """A gRPC server, perhaps in another namespace, that answers every message and keeps none."""
    command = [sys.executable, "-m", "benchmarks.collector", str(port)]
    process = subprocess.Popen(
        netns.command(*command) if netns else command,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _runs(size: int) -> int:
    return 5 if size >= 1_000_000 else 9


def _capture(size: int) -> CaptureConfig:
    return CaptureConfig(max_flows=size + size // 8, interfaces="/^none$/")


def _stages(size: int) -> list[float]:
    """Each stage alone; microseconds of CPU per flow."""
    dedupe = Deduper(DedupeConfig())
    names, observer = InterfaceNames(dict), ObserverName(AgentConfig(address="192.0.2.1"))
    times: list[list[float]] = [[], [], [], []]
    with FlowFetcher(_capture(size)) as fetcher:
        drain = Drain(fetcher)
        for _ in range(_runs(size)):
            fill(fetcher, size)
            batch, took = timed(partial(drain.take, FlowEndReason.ACTIVE_TIMEOUT))
            assert batch.totals.flows == batch.totals.packets == size
            times[0].append(took)
            deduplicated, took = timed(partial(dedupe.apply, batch))
            times[1].append(took)
            enriched, took = timed(partial(_enrich, names, observer, deduplicated))
            times[2].append(took)
            octets, took = timed(partial(_encode, enriched))
            assert octets > 100 * size
            times[3].append(took)
    # The first run pays for memory that the others find.
    return [1e6 * median(stage[1:]) / size for stage in times]


def _enrich(names: InterfaceNames, observer: ObserverName, batch: FlowBatch) -> FlowBatch:
    return observer.apply(names.apply(batch))


def _encode(batch: FlowBatch) -> int:
    return sum(len(message.payload) for message in encode(batch, 10_000, 3_500_000))


def _whole(size: int) -> tuple[list[float], list[float]]:
    """The pipeline as the agent runs it; CPU microseconds per flow, and seconds until delivered."""
    config = Config(
        capture=_capture(size),
        agent=AgentConfig(address="192.0.2.1"),
        sinks=(GrpcConfig(target=f"127.0.0.1:{PORT}", queue={"rows": 4_000_000}),),
    )
    pipeline = Pipeline(config)
    pipeline.start()
    cpu: list[float] = []
    wall: list[float] = []
    (worker,) = pipeline.router.workers
    try:
        for _ in range(_runs(size)):
            fill(pipeline.fetcher, size)
            began = time.monotonic()
            _, took = timed(lambda: (pipeline.tick(FlowEndReason.ACTIVE_TIMEOUT),
                                     worker.queue.wait_empty(60)))  # fmt: skip
            wall.append(time.monotonic() - began)
            cpu.append(1e6 * took / size)
        delivered = worker.queue.counts().delivered
        assert delivered.flows == delivered.packets == size * _runs(size)
    finally:
        pipeline.stop()
    return cpu[1:], wall[1:]


def timed(action: Callable[[], T]) -> tuple[T, float]:
    """What it returned, and its CPU seconds."""
    before = time.process_time()
    result = action()
    return result, time.process_time() - before
