"""Records to a batch and back."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given

from exporter.batch.assemble import assemble
from exporter.batch.batch import FlowBatch
from exporter.batch.record import PointName, records
from exporter.testing import Row, make_batch
from tests.strategies import batches, enriched


@given(batches() | enriched())
def test_records_come_back(batch: FlowBatch) -> None:
    """Every value of every record; what is not known stays so."""
    given_records = list(records(batch))
    assert list(records(assemble(given_records))) == given_records


def test_interfaces_without_an_index() -> None:
    """Two names with index 0, or with one index, stay two interfaces."""
    (record,) = records(make_batch(Row()))
    points = (
        PointName("eth0", 0, 0, ""),
        PointName("eth1", 0, 1, ""),
        PointName("eth2", 7, 0, "blue"),
        PointName("eth3", 7, 0, "blue"),
    )
    batch = assemble([replace(record, points=points)])
    (found,) = records(batch)
    assert found.points == points
    assert len(set(batch.point_lists[0])) == 4
