"""
What a flow takes behind the agent: octets on a real broker's disk, and in ClickHouse's tables.

The flows are as a cluster's: see :func:`flows`. Octets in Kafka are those of the partitions' files.
ClickHouse is chDB: its Kafka engine reads the topic into the tables of docs/downstream/clickhouse,
which are merged to one part, and counted as ``system.parts`` has them. Its CPU time is that of its
process, all threads, until rows and sums are there.
"""

from __future__ import annotations

import ipaddress
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Table
from exporter.batch.attributes import Attribute, Entities, Value
from exporter.batch.batch import U1, FlowBatch, Interface, Observer, Point
from exporter.config import load
from exporter.fanout.queue import BatchQueue
from exporter.fanout.worker import SinkWorker
from exporter.sinks.kafka.config import KafkaConfig
from exporter.sinks.kafka.sink import KafkaSink
from exporter.sinks.table import make
from exporter.testing import Row, make_batch
from tests.e2e.broker import Broker
from tests.e2e.clickhouse import ClickHouse, cpu_seconds
from tests.e2e.otelcol import Otelcol

AGENTS, DRAINS, FLOWS = 10, 6, 2500
PODS, SERVICES, OUTSIDE = 2000, 200, 4000
LAYOUTS = ("netobserv", "packed", "json")
COMPRESSIONS = ("none", "lz4", "zstd")


def run() -> Table:
    """Octets of a flow by layout, as they come and compressed; and what the tables take."""
    table = Table(
        "downstream",
        f"Octets a flow behind the agent; {AGENTS * DRAINS * FLOWS:,} flows like a cluster's",
        ("where", "variant", "rows per flow", "octets per flow", "us per flow"),
    )
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        broker = Broker(Path(directory, "kafka"))
        broker.directory.mkdir(exist_ok=True)
        stack.callback(broker.kill)
        broker.start()
        topics = {}
        for layout in LAYOUTS:
            for compression in COMPRESSIONS:
                topics[layout, compression] = topic = broker.topic(partitions=4)
                _publish(broker, topic, layout, compression)
                octets = _on_disk(broker, topic) / (AGENTS * DRAINS * FLOWS)
                table.add("kafka", f"{layout}, {compression}", "1", f"{octets:.0f}", "-")
        for layout in LAYOUTS:
            for row in _tables(broker, topics[layout, "none"], layout, directory):
                table.add("clickhouse", *row)
        for row in _collector(directory):
            table.add("otelcol", *row)
    return table


def flows() -> Iterator[FlowBatch]:
    """
    Batches of ten agents: a minute, six drains of ten seconds each.

    Half of the flows are between pods, a fourth to and from services, a fourth with the world
    outside; popular ends are more often there (Zipf), clients' ports are random, services' are few.
    Packets and octets are log-normal. Half of the flows of a drain were in the one before, too.
    Both ends have names of Kubernetes, or an autonomous system and a country.
    """
    rng = np.random.default_rng(7)
    entities = _entities()
    for agent in range(AGENTS):
        point = Point(0, 2, 1)
        one = make_batch(
            Row(points=(point,)), interfaces={point: Interface("eth0")},
            observer=Observer(f"10.1.0.{agent + 1}", f"node-{agent}"),
        )  # fmt: skip
        conversations = _conversations(rng, agent)
        for drain in range(DRAINS):
            fresh = _conversations(rng, agent)
            again = rng.random(FLOWS) < 0.5
            conversations = {
                name: np.where(again.reshape(-1, *[1] * (new.ndim - 1)), conversations[name], new)
                for name, new in fresh.items()
            }
            yield _batch(one, conversations, rng, drain, entities)


def _conversations(rng: np.random.Generator, agent: int) -> dict[str, np.ndarray]:
    """Who talks to whom: numbers of entities, ports, protocols; the agent's pods to all others."""
    own = 1 + agent + AGENTS * rng.integers(0, PODS // AGENTS, FLOWS)
    kind = rng.random(FLOWS)
    popular = np.minimum(rng.zipf(1.3, FLOWS), 1 << 20)
    other = np.select(
        [kind < 0.5, kind < 0.75],
        [1 + popular % PODS, 1 + PODS + popular % SERVICES],
        1 + PODS + SERVICES + rng.integers(0, OUTSIDE, FLOWS) * popular % OUTSIDE,
    )
    ports = rng.choice([443, 80, 53, 8080, 5432, 6379, 9092, 10250], FLOWS)
    clients = rng.integers(32768, 61000, FLOWS)
    out = rng.random(FLOWS) < 0.5
    return {
        "source": np.where(out, own, other).astype(np.uint32),
        "destination": np.where(out, other, own).astype(np.uint32),
        "src_port": np.where(out, clients, ports),
        "dst_port": np.where(out, ports, clients),
        "ip_protocol": np.where(ports == 53, 17, 6),
    }


def _batch(
    one: FlowBatch,
    about: dict[str, np.ndarray],
    rng: np.random.Generator,
    drain: int,
    entities: tuple[U1, dict[str, dict[Attribute, tuple[Value, ...]]]],
) -> FlowBatch:
    addresses, values = entities
    batch = one.take(np.zeros(FLOWS, np.int64))
    batch.key["src_addr"], batch.key["dst_addr"] = (
        addresses[about["source"]], addresses[about["destination"]],
    )  # fmt: skip
    for name in ("src_port", "dst_port", "ip_protocol"):
        batch.key[name] = about[name]
    batch.key["direction"] = rng.integers(0, 2, FLOWS)
    begun = time.time_ns() // 10**9 * 10**9 + drain * 10 * 10**9
    start = begun + rng.integers(0, 9 * 10**9, FLOWS)
    packets = np.maximum(1, rng.lognormal(2, 1.5, FLOWS)).astype(np.uint64)
    sizes = np.clip(rng.lognormal(5.5, 1, FLOWS), 66, 1514)
    octets = (packets * sizes).astype(np.uint64)
    macs: dict[str, Any] = {
        name: np.stack([np.full(FLOWS, n) for n in (2, 0, 0, 0, 0)] + [about[side] % 250], axis=1)
        for name, side in (("src_mac", "source"), ("dst_mac", "destination"))
    }
    return replace(
        batch,
        flow_start_ns=start.astype(np.uint64),
        flow_end_ns=(start + rng.integers(0, 10**9, FLOWS)).astype(np.uint64),
        packet_count=packets,
        octet_count_l2=octets,
        octet_count_l3=octets - np.uint64(14) * packets,
        tcp_control_bits=np.where(about["ip_protocol"] == 6, 0x18, 0).astype(np.uint16),
        **{name: column.astype(np.uint8) for name, column in macs.items()},
        entities=tuple(
            Entities(about[side], attributes)
            for side in ("source", "destination")
            for attributes in (
                {a: v for a, v in values[side].items() if a.owned == owned}
                for owned in sorted({a.owned for a in values[side]})
            )
        ),
    )


def _entities() -> tuple[U1, dict[str, dict[Attribute, tuple[Value, ...]]]]:
    """Addresses of entities, 16 octets each, and what is known of each; number 0 is none."""
    rng = np.random.default_rng(8)
    outside = [ipaddress.ip_address(int(n)) for n in rng.integers(0x0B000000, 0xDF000000, OUTSIDE)]
    pods = [ipaddress.ip_address("10.244.0.0") + n for n in range(PODS)]
    services = [ipaddress.ip_address("10.96.0.0") + n for n in range(SERVICES)]
    texts = ["0.0.0.0", *map(str, pods + services + outside)]
    packed = b"".join(bytes(10) + b"\xff\xff" + ipaddress.ip_address(t).packed for t in texts)
    apps: list[Value] = []
    apps += [f"app-{n // 10}" for n in range(PODS)] + [f"service-{n}" for n in range(SERVICES)]
    inside = PODS + SERVICES
    nodes = [n % AGENTS for n in range(PODS)]
    known: dict[str, list[Value]] = {
        "k8s.kind": [*["Pod"] * PODS, *["Service"] * SERVICES],
        "k8s.namespace.name": [f"ns-{n % 40}" for n in range(inside)],
        "k8s.name": [f"{app}-5d4f8c7b9-{n:05}" for n, app in enumerate(apps)],
        "k8s.owner.kind": [*["Deployment"] * PODS, *["Service"] * SERVICES],
        "k8s.owner.name": list(apps),
        "k8s.node.name": [f"node-{n}" for n in nodes] + [None] * SERVICES,
        "k8s.node.ip": [f"10.1.0.{n + 1}" for n in nodes] + [None] * SERVICES,
        "k8s.zone": [f"zone-{n % 3}" for n in nodes] + [None] * SERVICES,
    }
    numbers = rng.integers(1, 400, OUTSIDE)
    world: dict[str, list[Value]] = {
        "as.number": [13_000 + int(n) for n in numbers],
        "geo.country.iso_code": [("US", "DE", "NL", "JP", "BR")[int(n) % 5] for n in numbers],
    }
    made: dict[str, dict[Attribute, tuple[Value, ...]]] = {}
    for side in ("source", "destination"):
        made[side] = {
            Attribute(f"{side}.{path}", "", number=path == "as.number"): (None, *column)
            for path, column in (
                *((path, [*column, *[None] * OUTSIDE]) for path, column in known.items()),
                *((path, [*[None] * inside, *column]) for path, column in world.items()),
            )
        }
    return np.frombuffer(packed, np.uint8).reshape(-1, 16), made


def _publish(broker: Broker, topic: str, layout: str, compression: str) -> None:
    config = KafkaConfig.model_validate(
        {"brokers": broker.address(), "topic": topic, "layout": layout, "client": "confluent",
         "compression": compression}
    )  # fmt: skip
    queue = BatchQueue(config.queue)
    worker = SinkWorker(KafkaSink("kafka", config), queue, config.retry)
    worker.start()
    for batch in flows():
        queue.put(batch)
        # One drain at a time, as an agent has them.
        assert queue.wait_empty(60)
    worker.stop(0)
    assert queue.counts().delivered.flows == AGENTS * DRAINS * FLOWS


def _on_disk(broker: Broker, topic: str) -> int:
    return sum(log.stat().st_size for log in (broker.directory / "data").glob(f"{topic}-*/*.log"))


def _tables(
    broker: Broker, topic: str, layout: str, directory: str
) -> Iterator[tuple[str, str, str, str]]:
    """Of each table: rows and octets a flow, merged; CPU time of reading and inserting all."""
    place = Path(directory, f"clickhouse-{layout}")
    place.mkdir()
    with ClickHouse(place) as clickhouse:
        for name in ("flows", "counted-once"):
            clickhouse.run(f"{name}.sql")
        before = clickhouse.cpu()
        clickhouse.follow(layout, broker.address(), topic, flush=7500)
        count = AGENTS * DRAINS * FLOWS
        clickhouse.wait_for(count, 300)
        spent = (clickhouse.cpu() - before) / count
        for name in ("records", "pairs", "workloads"):
            clickhouse.execute(f"OPTIMIZE TABLE flows.{name} FINAL")
            octets, rows = clickhouse.one(
                "SELECT sum(bytes_on_disk), sum(rows) FROM system.parts "
                f"WHERE active AND database = 'flows' AND table = '{name}'"
            )
            micros = f"{1e6 * spent:.1f}" if name == "records" else "-"
            yield f"{layout}, {name}", f"{rows / count:.2f}", f"{octets / count:.1f}", micros
        before = clickhouse.cpu()
        ever = "from = '2020-01-01 00:00:00', until = '2100-01-01 00:00:00', gap = 30"
        (found,) = clickhouse.one(f"SELECT count() FROM flows.counted_once({ever})")
        assert 0 < found <= count
        spent = (clickhouse.cpu() - before) / count
        yield f"{layout}, counted_once", f"{found / count:.2f}", "-", f"{1e6 * spent:.1f}"


def _collector(directory: str) -> Iterator[tuple[str, str, str, str]]:
    """CPU time of an OpenTelemetry Collector that decodes and counts them; gzip's usual level."""
    with Otelcol(Path(directory), exporter="debug") as collector:
        assert collector._process is not None
        for variant, query in (("logs, gRPC", ""), ("logs, gRPC, gzip", "?compression=gzip")):
            before = cpu_seconds(collector._process.pid)
            url = f"otlp+grpc://127.0.0.1:{collector.listeners['plain'].grpc}{query}"
            (config,) = load(None, {}, {"sinks": [url]}).sinks
            sink, octets = make(config), 0
            sink.open()
            for batch in flows():
                for message in sink.encode(batch):
                    sink.deliver(message, 60)
                    octets += len(zlib.compress(message.payload) if query else message.payload)
            sink.close()
            count = AGENTS * DRAINS * FLOWS
            spent = (cpu_seconds(collector._process.pid) - before) / count
            yield variant, "1", f"{octets / count:.0f}", f"{1e6 * spent:.1f}"
