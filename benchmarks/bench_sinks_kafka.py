"""
What a Kafka sink costs per flow: encoding and delivering to a real broker on the same machine.

Each variant runs in a process of its own, which is given the broker's address: CPU time is that
process's, all threads (librdkafka's too), user and system. Octets on the wire are what the
process wrote to its sockets towards the broker, as the broker's log has them: the sizes of the
partitions' segment files.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import median
from exporter.batch.batch import FlowBatch, Interface, Observer, Point
from exporter.fanout.queue import BatchQueue
from exporter.fanout.worker import SinkWorker
from exporter.sinks.kafka.config import KafkaConfig
from exporter.sinks.kafka.sink import KafkaSink
from exporter.testing import Row, make_batch
from tests.e2e.broker import Broker

FLOWS = 100_000
RUNS = 6
VARIANTS = (
    ("netobserv, kafka-python", {"layout": "netobserv", "client": "kafka-python"}),
    ("netobserv, confluent", {"layout": "netobserv", "client": "confluent"}),
    ("netobserv, confluent, lz4", {"layout": "netobserv", "client": "confluent",
                                   "compression": "lz4"}),
    ("packed, kafka-python", {"layout": "packed", "client": "kafka-python"}),
    ("packed, kafka-python, lz4", {"layout": "packed", "client": "kafka-python",
                                   "compression": "lz4"}),
    ("packed, confluent", {"layout": "packed", "client": "confluent"}),
    ("json, confluent", {"layout": "json", "client": "confluent"}),
)  # fmt: skip


def rows() -> list[tuple[str, str, float, float, float, float]]:
    """
    One row a variant.

    Returns:
        Sink, variant, CPU us per flow, flows/s per core, RSS MB, octets per flow on the wire.
    """
    found = []
    with tempfile.TemporaryDirectory() as directory:
        broker = Broker(Path(directory))
        broker.start()
        try:
            for variant, options in VARIANTS:
                topic = broker.topic(partitions=4)
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.bench_sinks_kafka",
                     json.dumps({"brokers": broker.address(), "topic": topic} | options)],
                    capture_output=True, text=True, check=True,
                    cwd=Path(__file__).parents[1],
                )  # fmt: skip
                result = json.loads(done.stdout)
                logs = (broker.directory / "data").glob(f"{topic}-*/*.log")
                octets = sum(log.stat().st_size for log in logs) / (FLOWS * RUNS)
                micros = result["micros"]
                found.append(("kafka", variant, micros, 1e6 / micros, result["rss"], octets))
        finally:
            broker.kill()
    return found


def flows() -> FlowBatch:
    """One drain: different TCP flows over IPv4 with one interface each."""
    point = Point(0, 2, 1)
    batch = make_batch(
        Row(direction=1, packet_count=1, octet_count_l2=74, octet_count_l3=60, points=(point,)),
        interfaces={point: Interface("eth0")},
        observer=Observer("192.0.2.1", "node-1"),
    ).take(np.zeros(FLOWS, np.int64))
    numbers = np.arange(FLOWS, dtype=">u4")
    batch.key["src_addr"][:, 12:] = numbers.view(np.uint8).reshape(-1, 4)
    return batch


def measure(config: KafkaConfig) -> dict[str, Any]:
    """CPU us per flow, the median of the runs without the first; and the process's largest RSS."""
    queue = BatchQueue(config.queue)
    worker = SinkWorker(KafkaSink("kafka", config), queue, config.retry)
    batch = flows()
    worker.start()
    micros = []
    for _ in range(RUNS):
        before = time.process_time()
        queue.put(batch)
        assert queue.wait_empty(60)
        micros.append(1e6 * (time.process_time() - before) / FLOWS)
    delivered = queue.counts().delivered.flows
    worker.stop(0)
    assert delivered == FLOWS * RUNS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"micros": median(micros[1:]), "rss": peak, "all": micros}


if __name__ == "__main__":
    print(json.dumps(measure(KafkaConfig.model_validate_json(sys.argv[1]))))
