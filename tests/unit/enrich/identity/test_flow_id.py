"""Flow ids are XXH64 of what the documents say, the same wherever and whenever."""

from __future__ import annotations

from dataclasses import replace

import pytest
import xxhash
from hypothesis import given, settings

from exporter.batch.batch import FlowBatch
from exporter.enrich.identity import flow_id
from exporter.enrich.identity.flow_id import FLOW_ID, FlowId
from exporter.testing import Row, make_batch
from exporter.testing.batch import pack_address
from tests.strategies import batches

#: Vectors for whoever computes them elsewhere; docs/enrich/identity.md has them.
VECTORS = [
    (Row("192.0.2.1", "198.51.100.2", 40000, 443), 0x1164047699CC4EF9),
    (Row("198.51.100.2", "192.0.2.1", 443, 40000), 0x138F91C80B6705CE),
    (
        Row("2001:db8::1", "2001:db8::2", 5353, 53, 17, vlan_id=100, inner_vlan_id=7),
        0x304B270619D4CFC9,
    ),
    (Row("192.0.2.1", "198.51.100.2", 0, 8 << 8, 1), 0x7509DAAB70C12A66),
]


def octets(row: Row) -> bytes:
    numbers = (row.src_port, row.dst_port, row.vlan_id, row.inner_vlan_id)
    return (
        pack_address(row.src_addr)
        + pack_address(row.dst_addr)
        + b"".join(number.to_bytes(2, "big") for number in numbers)
        + bytes([row.ip_protocol])
    )


def ids(batch: FlowBatch) -> list[int]:
    return [int(number) for number in FlowId().apply(batch).added[FLOW_ID]]


@pytest.mark.parametrize(("row", "expected"), VECTORS)
def test_published(row: Row, expected: int) -> None:
    """The values that the documents publish, as the library has them, too."""
    assert ids(make_batch(row)) == [expected] == [xxhash.xxh64_intdigest(octets(row)) >> 1]


@settings(max_examples=40)
@given(batches())
def test_as_the_library_has_it(batch: FlowBatch) -> None:
    """Any key."""
    keys = batch.key
    names = ("src_port", "dst_port", "vlan_id", "inner_vlan_id")
    expected = [
        xxhash.xxh64_intdigest(
            key["src_addr"].tobytes()
            + key["dst_addr"].tobytes()
            + b"".join(int(key[name]).to_bytes(2, "big") for name in names)
            + bytes([key["ip_protocol"]])
        )
        >> 1
        for key in keys
    ]
    assert ids(batch) == expected


def test_what_is_not_in_it() -> None:
    """Interface, namespace, direction and time: all records of a flow have one id."""
    row = Row()
    others = [
        replace(row, ifindex=9),
        replace(row, netns=3),
        replace(row, direction=1),
        replace(row, flow_start_ns=1),
    ]
    assert len(set(ids(make_batch(row, *others)))) == 1


def test_more_rows_than_are_hashed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks come together in order."""
    rows = [Row(src_port=number) for number in range(50)]
    expected = ids(make_batch(*rows))
    monkeypatch.setattr(flow_id, "_BLOCK", 7)
    assert ids(make_batch(*rows)) == expected
    assert len(set(expected)) == 50
