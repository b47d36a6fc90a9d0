"""Records to a real Apache Kafka broker: all fields, all records, with both client libraries."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import orjson
import pytest

from exporter._pb import flow_pb2
from exporter.batch.batch import FlowBatch, Interface, Observer, Point
from exporter.batch.record import records
from exporter.config import load
from exporter.fanout.queue import BatchQueue
from exporter.fanout.worker import SinkWorker
from exporter.ledger import SinkCounts
from exporter.sinks.encodings.jsonl import SHAPES
from exporter.sinks.kafka.config import KafkaConfig
from exporter.sinks.kafka.sink import KafkaSink
from exporter.testing import Row, make_batch
from exporter.testing.batch import pack_address
from tests.e2e.broker import Broker
from tests.e2e.topic import Read, read
from tests.unit.sinks.test_pbflow import expected

CLIENTS = ("kafka-python", "confluent")
ETH0, VETH = Point(0, 2, 0), Point(3, 300, 1)


def some_flows(count: int) -> FlowBatch:
    """Conversations in both directions, of both families and several protocols; distinct rows."""
    rows = []
    for number in range(count // 2):
        six, protocol = number % 3 == 0, (6, 17, 1, 58, 132, 47)[number % 6]
        one, other = ("2001:db8::{:x}", "2001:db8:1::{:x}") if six else ("10.0.{}.1", "10.9.{}.2")
        ends = [end.format(number % 199) for end in (one, other)]
        for direction, (source, destination) in enumerate((ends, ends[::-1])):
            rows.append(
                Row(
                    src_addr=source,
                    dst_addr=destination,
                    src_port=number % 65536,
                    dst_port=8 * 256 if protocol in (1, 58) else 443,
                    ip_protocol=protocol,
                    direction=direction,
                    flow_start_ns=1_700_000_000_123_456_789 + number,
                    flow_end_ns=1_700_000_009_987_654_321 + number,
                    packet_count=1 + number * 37,
                    octet_count_l2=2 ** (number % 50) + number,
                    sampling_interval=1 + number % 3,
                    tcp_control_bits=number & 0xFF,
                    tcp_flag_sets=number & 7,
                    dscp=number % 64,
                    duplicate=number % 5 == 0,
                    points=((ETH0,), (ETH0, VETH))[number % 2],
                )
            )
    return make_batch(
        *rows,
        interfaces={ETH0: Interface("eth0"), VETH: Interface("veth0123456789a", "blue")},
        observer=Observer("192.0.2.7", "node-1"),
    )


def config(broker: Broker, topic: str, listener: str = "plain", **options: Any) -> KafkaConfig:
    """A sink's section, as the agent would have it."""
    section = {"type": "kafka", "name": "kafka", "brokers": broker.address(listener),
               "topic": topic, "retry": {"timeout": 3}} | options  # fmt: skip
    (made,) = load(None, {}, {"sinks": [section]}).sinks
    assert isinstance(made, KafkaConfig)
    return made


class Running:
    """A sink with its worker, and what became of the rows."""

    def __init__(self, made: KafkaConfig) -> None:
        self.queue = BatchQueue(made.queue)
        self.worker = SinkWorker(KafkaSink(made.name, made), self.queue, made.retry)

    def put(self, batch: FlowBatch) -> None:
        self.queue.put(batch)

    def counts(self) -> SinkCounts:
        return self.queue.counts()

    def settled(self) -> SinkCounts:
        """The account once nothing waits any more."""
        assert self.queue.wait_empty(30), self.counts()
        return self.counts()


@contextmanager
def running(made: KafkaConfig) -> Iterator[Running]:
    """A sink that is opened, and closed at the end."""
    started = Running(made)
    started.worker.start()
    try:
        yield started
    finally:
        started.worker.stop(0)


def decoded(message: Read, layout: str) -> list[flow_pb2.Record]:
    """Its records."""
    if layout == "packed":
        return list(flow_pb2.Records.FromString(message.value).entries)
    return [flow_pb2.Record.FromString(message.value)]


def multiset(found: list[flow_pb2.Record]) -> Counter[bytes]:
    """Records without their order, in the library's own encoding."""
    return Counter(record.SerializeToString(deterministic=True) for record in found)


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    """Both client libraries."""
    return str(request.param)


@pytest.mark.parametrize("layout", ["netobserv", "packed"])
def test_every_field_arrives(broker: Broker, client: str, layout: str) -> None:
    """
    What another library reads and protobuf decodes is what was published, field by field; a message
    is not larger than configured.
    """
    topic, batch = broker.topic(partitions=5), some_flows(3000)
    with running(
        config(broker, topic, client=client, layout=layout, max_flows=700, max_octets=20_000)
    ) as sink:
        sink.put(batch)
        counts = sink.settled()
    assert counts.delivered == counts.queued == batch.totals
    messages = read(broker, topic, client)
    found = [record for message in messages for record in decoded(message, layout)]
    assert multiset(found) == multiset([expected(record) for record in records(batch)])
    assert {message.partition for message in messages} == set(range(5))
    assert max(len(message.value) for message in messages) <= 20_000


@pytest.mark.parametrize("schema", ["otel", "netobserv"])
def test_json_is_what_is_printed(broker: Broker, client: str, schema: str) -> None:
    """One object a message, with the keys of standard output."""
    topic, batch = broker.topic(partitions=3), some_flows(400)
    with running(config(broker, topic, client=client, layout="json", schema=schema)) as sink:
        sink.put(batch)
        assert sink.settled().delivered == batch.totals

    def comparable(text: bytes) -> str:
        return json.dumps(orjson.loads(text) | {"TimeReceived": 0}, sort_keys=True)

    found = Counter(comparable(message.value) for message in read(broker, topic, client))
    shape = SHAPES[schema]
    assert found == Counter(comparable(orjson.dumps(shape(r))) for r in records(batch))


def test_both_directions_share_a_partition(broker: Broker, client: str) -> None:
    """
    The key is both addresses, the lesser first; its partition is the one of NetObserv's agents:
    FNV-1a, as Sarama reduces it.
    """
    topic, batch = broker.topic(partitions=7), some_flows(2000)
    with running(config(broker, topic, client=client)) as sink:
        sink.put(batch)
        sink.settled()
    where: dict[bytes, int] = {}
    sources: dict[bytes, set[bytes]] = {}
    for message in read(broker, topic, client):
        (record,) = decoded(message, "netobserv")
        ends = [_packed(end) for end in (record.network.src_addr, record.network.dst_addr)]
        assert message.key == b"".join(sorted(ends))
        assert where.setdefault(message.key, message.partition) == message.partition
        assert message.partition == _sarama(message.key, 7)
        sources.setdefault(message.key, set()).add(ends[0])
    assert set(where.values()) == set(range(7))
    assert all(len(seen) == 2 for seen in sources.values())


def _packed(address: flow_pb2.IP) -> bytes:
    if address.WhichOneof("ip_family") == "ipv6":
        return address.ipv6
    return pack_address(".".join(map(str, address.ipv4.to_bytes(4, "big"))))


def _sarama(key: bytes, count: int) -> int:
    """Sarama's hash partitioner, after its source, one octet at a time."""
    value = 2166136261
    for octet in key:
        value = (value ^ octet) * 16777619 & 0xFFFFFFFF
    signed = value - (1 << 32) if value >> 31 else value
    return abs(int(np.fmod(signed, count)))


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
def test_compression(broker: Broker, client: str, compression: str) -> None:
    """Every codec gives the same records, and less on the broker's disk than none."""
    batch, sizes = some_flows(1000), {}
    for codec in ("none", compression):
        topic = broker.topic()
        with running(config(broker, topic, client=client, compression=codec)) as sink:
            sink.put(batch)
            assert sink.settled().delivered == batch.totals
        found = [flow_pb2.Record.FromString(m.value) for m in read(broker, topic, client)]
        assert multiset(found) == multiset([expected(record) for record in records(batch)])
        (log,) = (broker.directory / "data").glob(f"{topic}-0/*.log")
        sizes[codec] = log.stat().st_size
    assert sizes[compression] < 0.7 * sizes["none"]
