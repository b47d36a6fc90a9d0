"""Rows that an expression matches are dropped, and counted by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from exporter.batch.attributes import Attribute
from exporter.batch.batch import ROW_COLUMNS, FlowBatch, Totals
from exporter.batch.record import records
from exporter.errors import ConfigError
from exporter.exclude.config import ExclusionConfig
from exporter.exclude.excluder import Excluder
from exporter.testing import Row, make_batch
from tests.strategies import batches

TEAM = Attribute("labels.team", "")


def excluder(**exclusions: str) -> Excluder:
    wanted = tuple(ExclusionConfig(name=name, when=when) for name, when in exclusions.items())
    return Excluder(wanted, (TEAM,))


def test_nothing_to_exclude() -> None:
    """The batch as it is, and no account."""
    batch = make_batch(Row())
    assert excluder().apply(batch) == (batch, {})


def test_the_first_that_matches_counts() -> None:
    """Each row once; what no exclusion matches stays, in order."""
    batch = make_batch(
        Row(dst_port=53, packet_count=1, octet_count_l2=10),
        Row(dst_port=80, packet_count=2, octet_count_l2=20),
        Row(src_addr="10.0.0.1", dst_port=53, packet_count=4, octet_count_l2=40),
        Row(src_addr="10.0.0.1", dst_port=81, packet_count=8, octet_count_l2=80),
        Row(dst_port=82, packet_count=16, octet_count_l2=160),
    )
    stays, dropped = excluder(
        dns="destination.port == 53", ten='cidr(source.address, "10.0.0.0/8")', team="false"
    ).apply(batch)
    assert [record.destination_port for record in records(stays)] == [80, 82]
    assert dropped == {"dns": Totals(2, 5, 50), "ten": Totals(1, 8, 80), "team": Totals()}


@settings(max_examples=30)
@given(batches())
def test_what_came_in_is_what_stays_and_what_was_dropped(batch: FlowBatch) -> None:
    """In flows, packets and octets, exactly; rows that stay are as they were."""
    stays, dropped = excluder(
        low="source.port < 1024", udp='network.transport == "udp"', none='labels.team != ""'
    ).apply(batch)
    total = sum(dropped.values(), stays.totals)
    # Their sums have 64 bits.
    assert (total.flows, total.packets % 2**64, total.octets % 2**64) == (
        batch.totals.flows,
        batch.totals.packets,
        batch.totals.octets,
    )
    expected = [
        row
        for row, record in enumerate(records(batch))
        if record.source_port >= 1024 and record.ip_protocol != 17
    ]
    for name in ROW_COLUMNS:
        assert np.array_equal(getattr(stays, name), getattr(batch, name)[expected]), name
    assert dropped["none"] == Totals()


def test_everything() -> None:
    """Also what is true of all rows without looking at any."""
    batch = make_batch(Row(), Row())
    stays, dropped = excluder(all="true").apply(batch)
    assert len(stays) == 0
    assert dropped == {"all": batch.totals}


@pytest.mark.parametrize(
    ("when", "problem"),
    [
        ("source.port", "exclude[noise].when: must be true or false, not number"),
        ("source.prt == 1", "exclude[noise].when: column 7: there is no source.prt"),
    ],
)
def test_what_is_wrong(when: str, problem: str) -> None:
    """One line that says where."""
    with pytest.raises(ConfigError) as caught:
        excluder(noise=when)
    assert problem in str(caught.value)


def test_two_of_one_name() -> None:
    """The ledger has one account for each."""
    one = ExclusionConfig(name="a", when="true")
    with pytest.raises(ConfigError, match="two are called a"):
        Excluder((one, one), ())
