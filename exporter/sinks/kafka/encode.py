"""
Batches as Kafka messages: keys, values, and which partition a key belongs to. No I/O.

What is delivered at once is many messages: waiting for each would cost a round trip a record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import U1, U4, FlowBatch, concatenate
from exporter.fanout.contract import Message
from exporter.sinks.encodings import jsonl
from exporter.sinks.encodings.jsonl import SHAPES, Shape
from exporter.sinks.encodings.pbflow import Encoder, parts
from exporter.sinks.kafka.config import KafkaConfig

#: Octets of a batch's header and of a record's around its key and value, at most.
#: Source: https://kafka.apache.org/documentation/#recordbatch
_AROUND = 61 + 26

#: Source: draft-eastlake-fnv, FNV-1a of 32 bits.
_FNV_OFFSET, _FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)


@dataclass(frozen=True)
class KafkaMessage(Message):
    """
    What is delivered at once.

    Args:
        payload: Not used: empty.
        rows: Those of all values, in their order.
        values: One for each Kafka message.
        counts: How many rows are in each value.
        keys: One for each value, or none at all.
        hashes: uint32, one for each value: partitions are numbered by them. None without keys.
    """

    values: list[bytes]
    counts: list[int]
    keys: list[bytes] | None
    hashes: U4 | None


#: A window: rows of equal layout, with what encodes them.
_Window = list[tuple[FlowBatch, Encoder]]


def encode(batch: FlowBatch, config: KafkaConfig) -> Iterator[KafkaMessage]:
    """
    A batch as messages in the configured layout.

    Args:
        batch: Enriched or not.
        config: Layout and limits.

    Yields:
        Messages of at most ``max_flows`` rows; every row of the batch is in exactly one. Rows are
        not in the batch's order.
    """
    if config.layout == "json":
        yield from _json(batch, SHAPES[config.schema_name], config.max_flows)
    elif config.layout == "packed":
        for window in _windows(batch, config.max_flows, framed=True):
            yield _packed(window, config.max_octets - _AROUND)
    else:
        for window in _windows(batch, config.max_flows, framed=False):
            rows = concatenate([part for part, _ in window])
            values = [v for part, encoder in window for v in _cut(encoder, part)]
            yield _keyed(rows, values)


def divide(
    message: KafkaMessage, rows: NDArray[Any], config: KafkaConfig
) -> Iterator[KafkaMessage]:
    """Some rows of a message, encoded anew."""
    return encode(message.rows.take(rows), config)


def pair_keys(batch: FlowBatch) -> U1:
    """
    Both addresses of each row, the lesser first: the same for both directions of a conversation.

    Returns:
        uint8, shape (n, 32), C-contiguous.

    Source: NetObserv's agent, whose keys these are.
    """
    source, destination = (
        np.ascontiguousarray(address).view(">u8") for address in (batch.src_addr, batch.dst_addr)
    )
    swap = (source[:, 0] > destination[:, 0]) | (
        (source[:, 0] == destination[:, 0]) & (source[:, 1] > destination[:, 1])
    )
    keys = np.empty((len(batch), 32), np.uint8)
    keys[:, :16] = np.where(swap[:, None], batch.dst_addr, batch.src_addr)
    keys[:, 16:] = np.where(swap[:, None], batch.src_addr, batch.dst_addr)
    return keys


def fnv1a(keys: U1) -> U4:
    """
    The hash of each row.

    Args:
        keys: uint8, shape (n, width).

    Returns:
        uint32, shape (n,).
    """
    result = np.full(len(keys), _FNV_OFFSET, np.uint32)
    for column in np.ascontiguousarray(keys.T):
        result ^= column
        result *= _FNV_PRIME
    return result


def partitions(hashes: U4, count: int) -> NDArray[np.int64]:
    """
    The partition of each hash, as Sarama and kafka-go number them: the remainder of the hash as a
    signed number, without its sign. So agents of both kinds may write to one topic.

    Args:
        hashes: uint32, shape (n,).
        count: Partitions of the topic.

    Returns:
        int64, shape (n,), below ``count``.
    """
    return np.asarray(np.abs(np.fmod(hashes.view(np.int32).astype(np.int64), count)))


def _windows(batch: FlowBatch, max_flows: int, *, framed: bool) -> Iterator[_Window]:
    """Rows of all shapes, at most ``max_flows`` together: few rows of many shapes go as one."""
    window: _Window = []
    room = max_flows
    for part, encoder in parts(batch, framed=framed):
        start = 0
        while start < len(part):
            rows = part.take(slice(start, start + room))
            window.append((rows, encoder))
            start += len(rows)
            room -= len(rows)
            if not room:
                yield window
                window, room = [], max_flows
    if window:
        yield window


def _cut(encoder: Encoder, rows: FlowBatch) -> list[bytes]:
    """Each record on its own. The loop is NumPy's."""
    cut: list[bytes] = np.frombuffer(encoder.encode(rows), f"V{encoder.octets}").tolist()
    return cut


def _keyed(rows: FlowBatch, values: list[bytes]) -> KafkaMessage:
    keys = pair_keys(rows)
    cut: list[bytes] = keys.view("V32").reshape(-1).tolist()
    return KafkaMessage(b"", rows, values, [1] * len(values), cut, fnv1a(keys))


def _packed(window: _Window, max_octets: int) -> KafkaMessage:
    """Records of different shapes may share a value: framed ones are joined end to end."""
    values: list[bytes] = []
    counts: list[int] = []
    room = 0
    for part, encoder in window:
        start = 0
        while start < len(part):
            if room < encoder.octets:
                values.append(b"")
                counts.append(0)
                room = max(max_octets, encoder.octets)
            rows = part.take(slice(start, start + room // encoder.octets))
            values[-1] += encoder.encode(rows)
            counts[-1] += len(rows)
            start += len(rows)
            room -= len(rows) * encoder.octets
    return KafkaMessage(b"", concatenate([part for part, _ in window]), values, counts, None, None)


def _json(batch: FlowBatch, shape: Shape, max_flows: int) -> Iterator[KafkaMessage]:
    for start in range(0, len(batch), max_flows):
        rows = batch.take(slice(start, start + max_flows))
        # None has a line feed of its own: JSON escapes it.
        yield _keyed(rows, jsonl.encode(rows, shape).splitlines())
