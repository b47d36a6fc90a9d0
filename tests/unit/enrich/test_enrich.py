"""What enrichers add, and that they leave the rows alone."""

from __future__ import annotations

import socket
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from exporter.batch.batch import ROW_COLUMNS, FlowBatch, Interface, Observer, Point
from exporter.enrich.interfaces import InterfaceNames
from exporter.enrich.observer import AgentConfig, ObserverName, find_observer
from exporter.testing import Row, make_batch
from tests.strategies import batches

ETH0_IN, ETH0_OUT, OTHER = Point(0, 2, 0), Point(0, 2, 1), Point(3, 2, 0)
NAMES = {(0, 2): Interface("eth0"), (3, 2): Interface("eth0", "blue"), (0, 9): Interface("unused")}


def test_interfaces_are_named_by_namespace_and_index() -> None:
    """Both directions of an interface have its name; the same index elsewhere has another."""
    batch = make_batch(Row(points=(ETH0_IN, OTHER)), Row(points=(ETH0_OUT, Point(0, 7, 0))))
    assert InterfaceNames(lambda: NAMES).apply(batch).interfaces == {
        ETH0_IN: Interface("eth0"),
        ETH0_OUT: Interface("eth0"),
        OTHER: Interface("eth0", "blue"),
    }


def test_names_are_those_of_now() -> None:
    """An interface that was renamed has its new name in the next batch."""
    names = dict(NAMES)
    enricher = InterfaceNames(lambda: names)
    batch = make_batch(Row(points=(ETH0_IN,)))
    assert enricher.apply(batch).interfaces[ETH0_IN].name == "eth0"
    names[0, 2] = Interface("wan0")
    assert enricher.apply(batch).interfaces[ETH0_IN].name == "wan0"


def test_observer() -> None:
    """The configured address and name are on every batch."""
    enricher = ObserverName(AgentConfig(address="192.0.2.9", name="node-1"))
    for batch in (make_batch(), make_batch(Row())):
        assert enricher.apply(batch).observer == Observer("192.0.2.9", "node-1")


@given(batches())
def test_rows_stay_as_they_are(batch: FlowBatch) -> None:
    """No enricher drops, reorders or changes a row."""
    bare = replace(batch, interfaces={}, observer=Observer())
    for enricher in (InterfaceNames(lambda: NAMES), ObserverName(AgentConfig(address="::1"))):
        enriched = enricher.apply(bare)
        for name in ROW_COLUMNS:
            assert np.array_equal(getattr(enriched, name), getattr(bare, name)), name
        assert enriched.point_lists == bare.point_lists


@pytest.mark.parametrize("address", ["192.0.2.9", "2001:db8::9"])
def test_a_configured_address_wins(address: str) -> None:
    """Nothing is looked for if it was said; the host's name is the default name."""
    found = find_observer(AgentConfig(address=address, interface="name:none"))
    assert found == Observer(address, socket.gethostname())


def test_an_address_that_is_not_there_yet(caplog: pytest.LogCaptureFixture) -> None:
    """An interface may come later: no address until then, and one line in the log."""
    enricher = ObserverName(AgentConfig(interface="name:none0", name="node-1"))
    for _ in range(3):
        assert enricher.apply(make_batch(Row())).observer == Observer("", "node-1")
    assert len(caplog.records) == 1
