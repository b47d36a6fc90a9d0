"""Community IDs are those of the standard and of its authors' library."""

from __future__ import annotations

import communityid
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.batch.batch import FlowBatch
from exporter.batch.record import WITH_ICMP, WITH_PORTS, FlowRecord, records
from exporter.enrich.identity import community
from exporter.enrich.identity.community import COMMUNITY_ID, CommunityId
from exporter.testing import Row, make_batch
from tests.strategies import addresses, batches

#: Of https://github.com/corelight/community-id-spec/tree/master/baseline, seed 0: protocol, ends
#: with ports (of ICMP type and code), id.
PUBLISHED = [
    (6, "128.232.110.120", "66.35.250.204", 34855, 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    (6, "66.35.250.204", "128.232.110.120", 80, 34855, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    (17, "192.168.1.52", "8.8.8.8", 54585, 53, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
    (17, "8.8.8.8", "192.168.1.52", 53, 54585, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
    (1, "192.168.0.89", "192.168.0.1", 8, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    (1, "192.168.0.1", "192.168.0.89", 0, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    (1, "192.168.0.89", "192.168.0.1", 20, 0, "1:3o2RFccXzUgjl7zDpqmY7yJi8rI="),
    (58, "fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", 135, 0,
     "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="),
    (58, "fe80::260:97ff:fe07:69ea", "fe80::200:86ff:fe05:80da", 136, 0,
     "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="),
    (132, "192.168.170.8", "192.168.170.56", 7, 80, "1:jQgCxbku+pNGw8WPbEc/TS/uTpQ="),
]  # fmt: skip


def row(protocol: int, source: str, destination: str, first: int, second: int) -> Row:
    if protocol in WITH_ICMP:
        first, second = 0, first << 8 | second
    return Row(source, destination, first, second, protocol)


def by_library(record: FlowRecord, seed: int, *, base64: bool) -> str:
    protocol, source, destination = record.ip_protocol, record.source, record.destination
    ports: tuple[int, ...] = ()
    if protocol in WITH_PORTS:
        ports = (record.source_port, record.destination_port)
    elif record.icmp is not None:
        ports = record.icmp
    flow = communityid.FlowTuple(protocol, source, destination, *ports)
    found: str = communityid.CommunityID(seed, base64).calc(flow)
    return found


def ids(batch: FlowBatch, enricher: CommunityId | None = None) -> list[str]:
    column = (enricher or CommunityId()).apply(batch).added[COMMUNITY_ID]
    return [text.decode() for text in column]


@pytest.mark.parametrize("published", PUBLISHED)
def test_published(published: tuple[int, str, str, int, int, str]) -> None:
    """The values that the standard publishes."""
    *flow, expected = published
    assert ids(make_batch(row(*flow))) == [expected]  # type: ignore[arg-type]


def test_published_with_a_seed_and_in_hexadecimal() -> None:
    """The standard's other two settings."""
    batch = make_batch(Row("128.232.110.120", "66.35.250.204", 34855, 80))
    assert ids(batch, CommunityId(1)) == ["1:3V71V58M3Ksw/yuFALMcW0LAHvc="]
    assert ids(batch, CommunityId(base64=False)) == ["1:2d053da9994af81e45dca0e67afea6e4f3226eb8"]


@st.composite
def rows(draw: st.DrawFn) -> Row:
    source, destination = draw(addresses())
    protocol = draw(st.sampled_from((0, 1, 2, 6, 17, 47, 58, 132, 255)))
    port = st.sampled_from((0, 1, 80, 255, 256, 65535)) | st.integers(0, 65535)
    if protocol in WITH_PORTS:
        return Row(source, destination, draw(port), draw(port), protocol)
    kind, code = draw(st.integers(0, 20) | st.integers(125, 150)), draw(st.integers(0, 2))
    return Row(source, destination, 0, kind << 8 | code, protocol)


@settings(max_examples=60)
@given(st.lists(rows(), max_size=20), st.integers(0, 65535), st.booleans())
def test_as_the_library_has_it(some: list[Row], seed: int, base64: bool) -> None:
    """Every protocol, both families, any seed, in one batch."""
    batch = make_batch(*some)
    expected = [by_library(record, seed, base64=base64) for record in records(batch)]
    assert ids(batch, CommunityId(seed, base64=base64)) == expected


@settings(max_examples=25)
@given(st.lists(rows(), min_size=1, max_size=5))
def test_both_directions_are_equal(some: list[Row]) -> None:
    """Of everything that has ports or none."""
    plain = [one for one in some if one.ip_protocol not in WITH_ICMP]
    back = [
        Row(one.dst_addr, one.src_addr, one.dst_port, one.src_port, one.ip_protocol)
        for one in plain
        if one.ip_protocol in WITH_PORTS
    ]
    there = [one for one in plain if one.ip_protocol in WITH_PORTS]
    assert ids(make_batch(*there)) == ids(make_batch(*back))


def test_more_rows_than_are_hashed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks come together in order, whatever family each row is of."""
    monkeypatch.setattr(community, "_BLOCK", 7)
    batch = make_batch(
        *(
            Row("2001:db8::1", f"2001:db8::{n:x}", n) if n % 3 else Row("10.0.0.1", "10.0.0.2", n)
            for n in range(100)
        )
    )
    assert ids(batch) == [by_library(record, 0, base64=True) for record in records(batch)]


@settings(max_examples=10)
@given(batches())
def test_rows_stay_as_they_are(batch: FlowBatch) -> None:
    """One column more, of as many rows; nothing else."""
    found = CommunityId().apply(batch)
    assert len(found.added[COMMUNITY_ID]) == len(batch)
    assert np.array_equal(found.key, batch.key)
    assert found.entities == batch.entities
