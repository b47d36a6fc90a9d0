"""Batches as Kafka messages, of every layout: nothing is lost, limits hold, keys are in order."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.batch.batch import FlowBatch
from exporter.batch.record import FlowRecord, records
from exporter.decode import decode
from exporter.sinks.kafka.config import KafkaConfig
from exporter.sinks.kafka.encode import KafkaMessage, encode, fnv1a, pair_keys, partitions
from exporter.testing import Row, make_batch
from exporter.testing.batch import pack_address
from tests.strategies import batches

LAYOUTS = ("netobserv", "packed", "json")


def config(layout: str, **limits: int) -> KafkaConfig:
    return KafkaConfig.model_validate(
        {"brokers": "h:1", "topic": "t", "layout": layout, "schema": "otel"} | limits
    )


def identity(record: FlowRecord) -> tuple[object, ...]:
    return (record.source, record.destination, record.packets, record.octets_l2,
            record.time_flow_start_ns, tuple(p.name for p in record.points))  # fmt: skip


def rows_of(message: KafkaMessage) -> list[list[FlowRecord]]:
    """Its rows, cut as its values are."""
    rows = iter(list(records(message.rows)))
    return [[next(rows) for _ in range(count)] for count in message.counts]


@pytest.mark.parametrize("layout", LAYOUTS)
@given(batches(), st.integers(1, 7))
@settings(max_examples=40)
def test_values_are_their_rows(layout: str, batch: FlowBatch, max_flows: int) -> None:
    """Each value decodes to the rows that it counts, in order; each row is in one message."""
    messages = list(encode(batch, config(layout, max_flows=max_flows, max_octets=4096)))
    for message in messages:
        assert 1 <= len(message.rows) == sum(message.counts) <= max_flows
        for value, rows in zip(message.values, rows_of(message), strict=True):
            assert list(map(identity, decode(value))) == list(map(identity, rows))
            assert len(value) <= 4096
    found = Counter(identity(r) for message in messages for r in records(message.rows))
    assert found == Counter(map(identity, records(batch)))
    # Few rows of many shapes go as one message: a message costs a round trip.
    assert len(messages) == -(-len(batch) // max_flows)


@given(batches())
def test_keys_are_both_addresses(batch: FlowBatch) -> None:
    """The lesser first, whichever sent; the hash is that of the key."""
    for message in encode(batch, config("netobserv")):
        assert message.keys is not None
        assert message.hashes is not None
        for key, number, row in zip(
            message.keys, message.hashes.tolist(), records(message.rows), strict=True
        ):
            ends = sorted((pack_address(row.source), pack_address(row.destination)))
            assert key == b"".join(ends)
            assert number == _fnv1a(key)


def _fnv1a(key: bytes) -> int:
    """As its draft writes it."""
    value = 2166136261
    for octet in key:
        value = (value ^ octet) * 16777619 % (1 << 32)
    return value


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b"", 0x811C9DC5), (b"a", 0xE40C292C), (b"foobar", 0xBF9CF968)],
)
def test_fnv1a(text: bytes, expected: int) -> None:
    """The draft's own test vectors."""
    keys = np.frombuffer(text * 2, np.uint8).reshape(2, len(text))
    assert fnv1a(keys).tolist() == [expected, expected]


def test_partitions() -> None:
    """The signed remainder without its sign, as Sarama has it."""
    hashes = np.array([0, 7, 8, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF7], np.uint32)
    assert partitions(hashes, 4).tolist() == [0, 3, 0, 3, 0, 1, 1]
    assert partitions(hashes, 1).tolist() == [0] * 7


def test_directions_share_a_key() -> None:
    """Also where the first eight octets of the addresses are equal."""
    pairs = [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2"), ("::1", "ff::"),
             ("fe80::8000:0:0:0", "fe80::1")]  # fmt: skip
    for one, other in pairs:
        batch = make_batch(Row(src_addr=one, dst_addr=other), Row(src_addr=other, dst_addr=one))
        keys = pair_keys(batch)
        assert keys[0].tobytes() == keys[1].tobytes()
        assert keys[0].tobytes() == b"".join(sorted((pack_address(one), pack_address(other))))


def test_packed_values_are_full() -> None:
    """As many records as fit: within 4096 octets, less what the broker's batch adds."""
    batch = make_batch(*(Row(src_port=n) for n in range(1000)))
    (message,) = encode(batch, config("packed", max_octets=4096))
    sizes = [len(value) for value in message.values]
    assert max(sizes) <= 4096 - 61
    assert min(sizes[:-1]) > 4096 - 61 - 2 * 120
    assert message.keys is None
    assert message.hashes is None
