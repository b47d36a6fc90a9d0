"""Lines of whole batches: octet by octet what records written one by one would be."""

from __future__ import annotations

import ipaddress
import time
from dataclasses import replace
from unittest import mock

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.batch.attributes import Attribute, Entities, Value
from exporter.batch.batch import FlowBatch
from exporter.batch.build import empty_batch
from exporter.batch.record import address_text, records
from exporter.sinks.encodings import cells
from exporter.sinks.encodings.jsonl import SHAPES, encode, rfc3339
from exporter.testing import Row, make_batch
from tests.strategies import ASN, POD, batches, enriched, numbers


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
def test_entities_in_parts_of_a_batch(schema: str) -> None:
    """
    Encoded some rows at a time and batch after batch, as sinks do: what was written before is used
    only for the same values, and entity 0 is unknown whatever it is called.
    """
    pod, node = POD.of("source"), ASN.of("source")
    first: dict[Attribute, tuple[Value, ...]]
    first = {pod: (None, "a", 'b"', "%s", ""), node: (None, 1, None, 3, 4)}
    other: dict[Attribute, tuple[Value, ...]]
    other = {pod: ("", "x", "y", "z", "a%"), node: (None, None, 0, 1, 2)}
    rows = np.arange(50, dtype=np.uint32) % 5
    plain = make_batch(*(Row(src_port=n) for n in range(50)))
    with mock.patch.object(time, "time", return_value=1_700_000_009.9):
        for values in (first, first, other, first, {node: other[node]}):
            batch = replace(plain, entities=(Entities(rows, values),))
            for part in (batch.take(slice(0, 2)), batch.take(slice(2, 50)), batch):
                assert encode(part, SHAPES[schema]) == one_by_one(part, schema)


@pytest.mark.parametrize("schema", ["otel", "netobserv"])
@given(data=st.data())
def test_labels_of_any_name(schema: str, data: st.DataObject) -> None:
    """Somebody's names and values, also those that are the beginning of others."""
    name = st.text(st.sampled_from('ab.%"ü{}<'), min_size=1, max_size=4).map("x.{}".format)
    names = data.draw(
        st.lists(name.filter(lambda n: "" not in n.split(".")), min_size=1, max_size=4)
    )
    labels = [Attribute(one, "", one) for one in dict.fromkeys(names)]
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    values = {label: tuple(data.draw(st.lists(text, min_size=3, max_size=3))) for label in labels}
    plain = make_batch(Row(), Row(), Row())
    batch = replace(plain, entities=(Entities(np.arange(3, dtype=np.uint32), values),))
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
