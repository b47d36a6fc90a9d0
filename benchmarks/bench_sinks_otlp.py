"""
OTLP: encoding and delivery of drains of 100,000 flows to a real OpenTelemetry Collector, which
decodes and counts them.

Each variant runs in a process of its own: ``python -m benchmarks.bench_sinks_otlp URL``.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.report import median
from exporter.batch.batch import FlowBatch, Interface, Observer, Point, Window
from exporter.config import load
from exporter.fanout.contract import Sink
from exporter.sinks.table import make
from exporter.testing import Row, make_batch
from tests.e2e.otelcol import Otelcol

FLOWS = 100_000
_DRAINS = 7

#: Variant, protocol, query.
_VARIANTS = (
    ("logs, gRPC", "grpc", ""),
    ("logs, gRPC, gzip", "grpc", "?compression=gzip"),
    ("logs, HTTP", "http", ""),
    ("logs, HTTP, gzip", "http", "?compression=gzip"),
    ("logs, gRPC, schema netobserv", "grpc", "?schema=netobserv"),
    ("spans, gRPC", "grpc", "?signal=spans"),
    ("metrics, by protocol and interface", "grpc", "?signal=metrics"),
    (
        "metrics, by addresses, 2,000 series",
        "grpc",
        "?signal=metrics&metrics.attributes=src_addr,dst_addr",
    ),
    (
        "metrics, by address, delta, 100,000 series",
        "grpc",
        "?signal=metrics&metrics.attributes=src_addr&metrics.temporality=delta&metrics.limit=200000",
    ),
)


def rows() -> Iterator[tuple[str, ...]]:
    """Sink, variant, CPU us per flow, flows/s per core, RSS MB, octets per flow on the wire."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Otelcol(Path(directory), exporter="debug") as collector,
    ):
        for variant, protocol, query in _VARIANTS:
            port = collector.listeners["plain"].port(protocol)
            url = f"otlp+{protocol}://127.0.0.1:{port}{query}"
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.bench_sinks_otlp", url],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            found = json.loads(done.stdout)
            each = found["cpu"] / FLOWS
            yield (
                "otlp", variant, f"{each * 1e6:.2f}", f"{1 / each:,.0f}", f"{found['rss']:.0f}",
                f"{found['octets'] / FLOWS:.0f}",
            )  # fmt: skip


def drain() -> FlowBatch:
    """TCP flows over IPv4, all different, seen at two interfaces; counts and times are random."""
    points = (Point(0, 2, 0), Point(0, 3, 1))
    start = 1_763_700_000_000_000_000
    batch = make_batch(
        Row(points=points),
        interfaces={points[0]: Interface("eth0"), points[1]: Interface("veth12345678")},
        observer=Observer("192.0.2.7", "node-1"),
        window=Window(start, start + 5 * 10**9),
    ).take(np.zeros(FLOWS, np.int64))
    random = np.random.default_rng(7)
    key = batch.key.copy()
    key["src_addr"][:, 12:] = np.arange(FLOWS, dtype=">u4").view(np.uint8).reshape(-1, 4)
    key["src_addr"][:, 12] = 10
    key["dst_addr"][:, 12:] = random.integers(0, 256, (FLOWS, 4))
    key["src_port"] = random.integers(1024, 65536, FLOWS)
    starts = start + random.integers(0, 5 * 10**9, FLOWS, np.uint64)
    packets = random.integers(1, 1000, FLOWS, np.uint64)
    octets = packets * random.integers(60, 1400, FLOWS, np.uint64)
    return replace(
        batch, key=key, flow_start_ns=starts,
        flow_end_ns=starts + random.integers(0, 10**9, FLOWS, np.uint64),
        packet_count=packets, octet_count_l3=octets, octet_count_l2=octets + 14 * packets,
    )  # fmt: skip


def main() -> None:
    """Deliver drains; CPU seconds of one (median), peak memory, and octets of one as JSON."""
    (config,) = load(None, {}, {"sinks": [sys.argv[1]]}).sinks
    sink, batch, spent = make(config), drain(), []
    sink.open()
    for _ in range(_DRAINS):
        octets, began = 0, time.process_time()
        delivered = 0
        for message in sink.encode(batch):
            sink.deliver(message, 60)
            octets += len(message.payload)
            delivered += len(message.rows)
        spent.append(time.process_time() - began)
        assert delivered == FLOWS
    if "compression=gzip" in sys.argv[1]:
        octets = _compressed(sink, batch)
    sink.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # The first one makes tables and the connection.
    print(json.dumps({"cpu": median(spent[1:]), "rss": peak, "octets": octets}))


def _compressed(sink: Sink, batch: FlowBatch) -> int:
    """What gzip makes of the messages, at the level that the protocol's client uses."""
    import zlib

    from exporter.sinks.otlp.http import GZIP, GZIP_LEVEL

    level = GZIP_LEVEL if "+http" in sys.argv[1] else 6
    messages = sink.encode(batch)
    return sum(len(zlib.compress(message.payload, level, GZIP)) for message in messages)


if __name__ == "__main__":
    main()
