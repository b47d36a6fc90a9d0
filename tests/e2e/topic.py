"""What is on a topic, read by a client library other than the one that wrote it."""

from __future__ import annotations

from typing import NamedTuple

import confluent_kafka
from kafka import KafkaConsumer, TopicPartition

from tests.e2e.broker import Broker


class Read(NamedTuple):
    """A Kafka message."""

    partition: int
    key: bytes | None
    value: bytes


def read(broker: Broker, topic: str, writer: str = "confluent") -> list[Read]:
    """Every message of a topic up to now, in the order of each partition."""
    return (_with_kafka_python if writer == "confluent" else _with_confluent)(broker, topic)


def _with_kafka_python(broker: Broker, topic: str) -> list[Read]:
    consumer = KafkaConsumer(
        bootstrap_servers=broker.address(), group_id=None, enable_auto_commit=False,
        auto_offset_reset="earliest",
    )  # fmt: skip
    try:
        numbers = consumer.partitions_for_topic(topic) or ()
        ends = consumer.end_offsets([TopicPartition(topic, n) for n in numbers])
        consumer.assign(list(ends))
        found: list[Read] = []
        while any(consumer.position(place) < end for place, end in ends.items()):
            for messages in consumer.poll(1000, max_records=100_000).values():
                found += [Read(m.partition, m.key, m.value) for m in messages]
        return found
    finally:
        consumer.close(autocommit=False)


def _with_confluent(broker: Broker, topic: str) -> list[Read]:
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": broker.address(), "group.id": "none", "enable.auto.commit": False,
         "auto.offset.reset": "earliest", "enable.partition.eof": True}
    )  # fmt: skip
    try:
        numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([confluent_kafka.TopicPartition(topic, n, 0) for n in numbers])
        found: list[Read] = []
        ended = 0
        while ended < len(numbers):
            for message in consumer.consume(10_000, timeout=0.1):
                err = message.error()
                if err is None:
                    value = message.value()
                    assert value is not None
                    found.append(Read(message.partition() or 0, message.key(), value))
                else:
                    assert err.code() == confluent_kafka.KafkaError._PARTITION_EOF, err
                    ended += 1
        return found
    finally:
        consumer.close()
