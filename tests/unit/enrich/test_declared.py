"""Every enricher there is, all of them on: what it declares is what it does, and rows stay."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings

from exporter.batch.batch import ROW_COLUMNS, FlowBatch, Interface, Observer, Window
from exporter.capture.owners import OwnerReader
from exporter.enrich.config import EnrichConfig
from exporter.enrich.observer import AgentConfig
from exporter.enrich.table import Enrichment, Surroundings, make
from tests import databases
from tests.strategies import POINTS, batches

#: What an enricher may change of a batch.
_ADDED = {one.name for one in fields(FlowBatch)} - {*ROW_COLUMNS, "points", "point_lists", "window"}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Enrichment:
    """All sections; those that ask a server are not opened, and know nothing."""
    directory = tmp_path_factory.mktemp("files")
    database = databases.write(
        directory / "city.mmdb", [("10.0.0.0/8", databases.city("DE", "Berlin", "BE"))]
    )
    section = {
        "kubernetes": {"labels": "app"},
        "networks": {"cidrs": {"corp": ["10.0.0.0/8", "2001:db8::/32"]}},
        "geoip": {"databases": [str(database)]},
        "names": {"reverse": {"resolvers": ["127.0.0.1:9"]}},
        "services": {},
        "processes": {},
        "identity": {"community_id": True, "flow_id": True, "initiator": True},
        "labels": {"site": "berlin"},
        "derive": [{"name": "size", "value": 'flow.packets > 9 ? "large" : "small"'}],
    }
    assert section.keys() == EnrichConfig.model_fields.keys()
    agent = AgentConfig.model_validate({"address": "192.0.2.1", "cloud": {"provider": "aws"}})
    names = {(point.netns, point.ifindex): Interface("eth0") for point in POINTS}
    reader = OwnerReader()
    around = Surroundings(lambda: names, owners=lambda: reader)
    return make(EnrichConfig.model_validate(section), agent, around)


def bare(batch: FlowBatch) -> FlowBatch:
    """As capture and deduplication leave it."""
    return replace(batch, interfaces={}, observer=Observer(), entities=(), window=Window(1, 2))


def test_all_are_there(everything: Enrichment) -> None:
    """None is forgotten here."""
    assert {*everything.readings()} >= {
        "interfaces", "observer", "cloud", "processes", "kubernetes", "names", "networks",
        "geo", "as", "community_id", "flow_id", "initiator", "services", "labels",
    }  # fmt: skip


@settings(max_examples=25)
@given(batches())
def test_what_is_declared(everything: Enrichment, batch: FlowBatch) -> None:
    """
    An enricher changes what it says that it provides, adds the attributes that it names, and
    leaves every row, its points and its place as they are.
    """
    before = bare(batch)
    for one in everything._enrichers:
        after = one.apply(before)
        changed = {n for n in _ADDED if getattr(after, n) is not getattr(before, n)}
        assert changed <= set(one.provides), one.name
        assert {what for some in after.entities for what in some.values} - {
            what for some in before.entities for what in some.values
        } <= set(one.attributes), one.name
        assert set(after.added) - set(before.added) <= set(one.attributes), one.name
        for name in ROW_COLUMNS:
            assert np.array_equal(getattr(after, name), getattr(before, name)), (one.name, name)
        assert (after.point_lists, after.window) == (before.point_lists, before.window)
        before = after
    assert before.observer.address == "192.0.2.1"
