"""
What the gRPC sink costs per flow: encoding and delivering 100,000 flows, as after each drain.

The collector is a process of its own that answers and keeps nothing. Octets are those of the
messages, without HTTP/2 and TCP.
"""

from __future__ import annotations

import resource
import time

from benchmarks.bench_pipeline import collector
from benchmarks.bench_sinks_ipfix import FLOWS, RUNS, flows
from benchmarks.report import median
from exporter.sinks.grpc.config import GrpcConfig
from exporter.sinks.grpc.sink import GrpcSink

PORT = 19_994


def rows() -> list[tuple[str, str, float, float, float, float]]:
    """(sink, variant, CPU us per flow, flows/s per core, RSS MB, octets per flow)."""
    batch, took, octets = flows(), [], 0
    sink = GrpcSink("grpc", GrpcConfig(target=f"127.0.0.1:{PORT}"))
    with collector(PORT):
        sink.open()
        try:
            for _ in range(RUNS):
                before, octets = time.process_time(), 0
                for message in sink.encode(batch):
                    sink.deliver(message, 10)
                    octets += len(message.payload)
                took.append(time.process_time() - before)
        finally:
            sink.close()
    micros = 1e6 * median(took[1:]) / FLOWS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return [("grpc", "pbflow.Records", micros, 1e6 / micros, peak, octets / FLOWS)]
