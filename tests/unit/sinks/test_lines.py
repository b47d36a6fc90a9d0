"""Lines of whole batches: octet by octet what records written one by one would be."""

from __future__ import annotations

import ipaddress
import time
from unittest import mock

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.batch.batch import FlowBatch
from exporter.batch.build import empty_batch
from exporter.batch.record import address_text, records
from exporter.sinks.encodings import cells
from exporter.sinks.encodings.jsonl import SHAPES, encode, rfc3339
from exporter.testing import Row, make_batch
from tests.strategies import batches, enriched, numbers


def texts(column: cells.Cells) -> list[str]:
    """Each cell as it will be written."""
    return [cells.compact(cell).decode() for cell in column]


def one_by_one(batch: FlowBatch, schema: str) -> bytes:
    """The same batch through the functions of single records."""
    shape = SHAPES[schema]
    return b"".join(orjson.dumps(shape(record)) + b"\n" for record in records(batch))


@pytest.mark.parametrize("schema", ["otel", "netobserv"])
@given(batch=batches() | enriched())
def test_whole_batches_are_as_single_records(schema: str, batch: FlowBatch) -> None:
    """All families, protocols, optional parts, and values at the edges of their columns."""
    with mock.patch.object(time, "time", return_value=1_700_000_009.9):
        assert encode(batch, SHAPES[schema]) == one_by_one(batch, schema)


@pytest.mark.parametrize("schema", ["otel", "netobserv"])
def test_more_rows_than_are_written_at_once(schema: str) -> None:
    """Thousands of rows of both families: all of them, in order."""
    batch = make_batch(
        *(
            Row(src_addr=f"10.0.{n // 256}.{n % 256}", src_port=n, packet_count=n**4)
            if n % 3
            else Row(src_addr=f"2001:db8::{n:x}", dst_addr="::1", src_port=n, ip_protocol=n % 256)
            for n in range(5000)
        )
    )
    with mock.patch.object(time, "time", return_value=1_700_000_009.9):
        assert encode(batch, SHAPES[schema]) == one_by_one(batch, schema)
    assert encode(empty_batch(), SHAPES[schema]) == b""


@given(st.lists(numbers(64), min_size=1))
def test_decimals(values: list[int]) -> None:
    """Any 64-bit number, beside any other."""
    assert texts(cells.decimals(np.array(values, np.uint64))) == [str(value) for value in values]


@given(st.lists(numbers(64), min_size=1))
def test_times(values: list[int]) -> None:
    """Any time since 1970, also on different days."""
    assert texts(cells.times(np.array(values, np.uint64))) == [rfc3339(v) for v in values]


GROUPS = st.lists(st.sampled_from((0, 0, 0, 1, 0x10, 0xFFFF)) | numbers(16), min_size=8, max_size=8)


@given(st.lists(GROUPS | st.integers(0, (1 << 32) - 1), min_size=1))
def test_addresses(values: list[list[int] | int]) -> None:
    """IPv6 with any pattern of zero groups, and IPv4, as ipaddress writes them."""
    packed = [
        b"".join(group.to_bytes(2, "big") for group in value)
        if isinstance(value, list)
        else bytes(10) + b"\xff\xff" + ipaddress.IPv4Address(value).packed
        for value in values
    ]
    octets = np.frombuffer(b"".join(packed), np.uint8).reshape(-1, 16)
    ipv4 = np.array([one.startswith(bytes(10) + b"\xff\xff") for one in packed])
    assert texts(cells.addresses(octets, ipv4)) == [address_text(one) for one in packed]
