"""What enrichment added survives a spool."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given

from exporter.batch.attributes import SIDES, Entities
from exporter.batch.batch import FlowBatch
from exporter.batch.record import records
from exporter.fanout.spool import additions
from exporter.fanout.spool.body import body_of, decode
from exporter.fanout.spool.layout import OWN
from exporter.testing import Row, make_batch
from tests.strategies import POD, enriched


def stored(batch: FlowBatch) -> FlowBatch:
    return decode(bytearray(b"".join(body_of(batch).buffers)), OWN)


@given(enriched())
def test_what_enrichment_added_comes_back(batch: FlowBatch) -> None:
    """Entities, and columns of numbers and of text: each record says what it said."""
    found = stored(batch)
    assert list(records(found)) == list(records(batch))
    assert list(found.added) == list(batch.added)


def test_only_entities_that_are_used_are_written() -> None:
    """A batch of one row does not carry the whole cluster; numbers are the new ones."""
    names = (None, *(f"pod-{number}" for number in range(10_000)))
    pods = Entities(np.array([7001], np.uint32), {POD.of("source"): names})
    batch = replace(make_batch(Row()), entities=(pods,))
    assert body_of(batch).octets < 4096
    (found,) = stored(batch).entities
    assert (found.rows.tolist(), found.values) == ([1], {POD.of("source"): (None, "pod-7000")})


@pytest.mark.parametrize("lengths", [(2, 2), (3, 2)])
def test_rows_that_refer_to_nothing(lengths: tuple[int, int]) -> None:
    """A stored number that no entity has, or has only in part, is refused, not looked up."""
    described = [
        [*astuple(POD.of(side)), None, *"ab"[: length - 1]]
        for side, length in zip(SIDES, lengths, strict=True)
    ]
    with pytest.raises(ValueError, match="entities that are not there"):
        additions.restore(
            [{"code": "", "entities": described}],
            lambda _code, _kind: np.array([lengths[1]], np.uint32),
        )
