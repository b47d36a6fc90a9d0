"""Labels that all records have, and such as are derived from what a record says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from exporter.batch.batch import ROW_COLUMNS, FlowBatch
from exporter.batch.record import records
from exporter.config import load
from exporter.enrich.interfaces import InterfaceNames
from exporter.enrich.labels import DerivedConfig, Labels
from exporter.enrich.observer import AgentConfig
from exporter.enrich.table import Enrichment, Surroundings, make
from exporter.errors import ConfigError
from exporter.sinks.encodings.jsonl import encode, netobserv, otel
from exporter.testing import Row, make_batch
from tests.strategies import batches

SIZE = 'flow.bytes < 100 ? "small" : flow.bytes < 1000 ? "medium" : ""'


def labels(fixed: dict[str, str], **derived: str) -> Labels:
    wanted = tuple(DerivedConfig(name=name, value=value) for name, value in derived.items())
    return Labels(fixed, wanted, ())


def said(enricher: Labels, batch: FlowBatch) -> list[dict[str, Any]]:
    enriched = enricher.apply(batch)
    return [{a.otel: v for a, v in record.metadata.items()} for record in records(enriched)]


def test_fixed() -> None:
    """On every record."""
    assert (
        said(labels({"team": "a", "stage": "ü"}), make_batch(Row(), Row()))
        == [{"labels.team": "a", "labels.stage": "ü"}] * 2
    )


def test_derived() -> None:
    """Texts, numbers, true and false; the empty text is no label."""
    enricher = labels(
        {"team": "a"},
        size=SIZE,
        tag='labels.team + "-" + network.transport',
        mean="flow.bytes / flow.packets",
        web="destination.port in [80, 443]",
    )
    batch = make_batch(
        Row(octet_count_l2=50, packet_count=10),
        Row(octet_count_l2=500, packet_count=100, ip_protocol=17, dst_port=53),
        Row(octet_count_l2=5000, packet_count=1000),
    )
    numbers = [what.otel for what in enricher.attributes if what.number]
    assert numbers == ["labels.mean"]
    same = {"labels.team": "a", "labels.mean": 5}
    tcp, udp = {"labels.tag": "a-tcp", "labels.web": "true"}, {
        "labels.tag": "a-udp", "labels.web": "false",
    }  # fmt: skip
    assert said(enricher, batch) == [
        {**same, **tcp, "labels.size": "small"},
        {**same, **udp, "labels.size": "medium"},
        {**same, **tcp},
    ]


def test_many_combinations() -> None:
    """More than have room in a table: each row still has its own."""
    rows = [Row(src_port=n, dst_port=n % 977, packet_count=n + 1) for n in range(3000)]
    enricher = labels({}, a="source.port", b="destination.port", c="flow.packets * 3")
    assert said(enricher, make_batch(*rows)) == [
        {"labels.a": n, "labels.b": n % 977, "labels.c": 3 * n + 3} for n in range(3000)
    ]


def test_in_records() -> None:
    """Nested below ``labels``; by its own name in the flat record."""
    batch = labels({"team": "a"}, port="source.port").apply(make_batch(Row(src_port=7)))
    assert b'"labels":{"team":"a","port":7}' in encode(batch, otel)
    flat = encode(batch, netobserv)
    assert b'"team":"a","port":7' in flat


@settings(max_examples=30)
@given(batches())
def test_rows_stay_as_they_are(batch: FlowBatch) -> None:
    """Any batch, also one without rows."""
    enriched = labels({"team": "a"}, size=SIZE, port="source.port").apply(batch)
    for name in ROW_COLUMNS:
        assert np.array_equal(getattr(enriched, name), getattr(batch, name)), name
    assert all(len(some.rows) == len(batch) for some in enriched.entities)


@pytest.mark.parametrize(
    ("enrich", "problem"),
    [
        ({"labels": {"a-b": "x"}}, "enrich.labels: 'a-b' is no name"),
        ({"labels": {"SrcAddr": "x"}}, "a label cannot be called SrcAddr"),
        (
            {"labels": {"a": "x"}, "derive": [{"name": "a", "value": "1"}]},
            "two labels are called a",
        ),
        (
            {"derive": [{"name": "tier", "value": "source.prt"}]},
            "enrich.derive[tier].value: column 7: there is no source.prt: did you mean source.port",
        ),
        ({"derive": [{"name": "tier", "value": "source.address"}]}, "must be a text, a number"),
    ],
)
def test_what_is_wrong(enrich: dict[str, Any], problem: str) -> None:
    """One line that says where."""
    config = load(None, {}, {"enrich": enrich})
    with pytest.raises(ConfigError) as caught:
        make(config.enrich, AgentConfig(), Surroundings(dict))
    assert problem in str(caught.value)


def test_labels_come_and_go() -> None:
    """From the next batch on; last, and once."""
    enrichment = Enrichment([InterfaceNames(dict)])
    batch = make_batch(Row())
    assert enrichment.apply(batch).entities == ()
    for value in ("a", "b"):
        enrichment.use(labels({"team": value}))
        (record,) = records(enrichment.apply(batch))
        assert list(record.metadata.values()) == [value]
    assert "labels" in enrichment.readings()
    assert [what.otel for what in enrichment.attributes()] == ["labels.team"]
    assert enrichment.attributes(but="labels") == ()
    enrichment.use(None)
    assert enrichment.apply(batch).entities == ()
