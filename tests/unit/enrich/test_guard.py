"""Mistakes in enrichers: rows are as they were, and it is told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from exporter.batch.attributes import Attribute, EndAttribute, Entities
from exporter.batch.batch import ROW_COLUMNS, FlowBatch, Observer
from exporter.enrich.base import Addresses, Found, Local
from exporter.enrich.ends import EndEnricher
from exporter.enrich.observer import AgentConfig, ObserverName
from exporter.enrich.table import Enrichment
from exporter.testing import Row, make_batch
from tests.strategies import ASN, TEAM

BATCH = make_batch(*(Row(src_port=n, packet_count=10 - n) for n in range(5)))
WHO = ObserverName(AgentConfig(address="192.0.2.9", name="node-1"))


class Wrong(Local):
    """Makes of a batch what it is told to."""

    name = "wrong"
    requires: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    attributes: tuple[Attribute, ...] = ()

    def __init__(self, make: Callable[[FlowBatch], FlowBatch]) -> None:
        self.make = make

    def apply(self, batch: FlowBatch) -> FlowBatch:
        return self.make(batch)


def raising(error: BaseException) -> Callable[[FlowBatch], FlowBatch]:
    def make(_batch: FlowBatch) -> FlowBatch:
        raise error

    return make


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (raising(KeyError("pod\nname")), r"KeyError: 'pod\nname'"),
        (raising(AssertionError()), "AssertionError"),
        (lambda batch: batch.take(slice(3)), "ValueError: it changed key: 3 rows after 5"),
        (lambda batch: batch.take(np.arange(5)[::-1]), "ValueError: it changed key: 5 rows"),
        (lambda batch: replace(batch, packet_count=batch.packet_count + 1), "packet_count"),
        (
            lambda batch: replace(
                batch, entities=(Entities(np.zeros(4, np.uint32), {TEAM: (None,)}),)
            ),
            "ValueError: it added to 4 rows of 5",
        ),
        (
            lambda batch: replace(batch, added={TEAM: np.array([b"a"] * 6)}),
            "ValueError: it added to 6 rows of 5",
        ),
        (lambda _: None, "AttributeError"),
    ],
)
def test_a_mistake(
    make: Callable[[FlowBatch], FlowBatch], problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    """
    What it gave is not used, what others add is; one line for the user, a traceback for whoever
    looks closely, both once; counted each time; a problem until it does better.
    """
    caplog.set_level(logging.DEBUG)
    wrong = Wrong(make)
    enrichment = Enrichment([wrong, WHO])
    for _ in range(3):
        after = enrichment.apply(BATCH)
        assert all(getattr(after, name) is getattr(BATCH, name) for name in ROW_COLUMNS)
        assert (after.entities, after.added) == ((), {})
        assert after.observer == Observer("192.0.2.9", "node-1")
    reading = enrichment.readings()["wrong"]
    assert problem in reading.state.problem
    assert reading.errors == 3
    line, details = caplog.records
    assert (line.levelname, line.exc_info) == ("ERROR", None)
    assert line.getMessage() == (
        f"enricher wrong: a mistake in it, flows go on without it: {reading.state.problem}"
    )
    assert (details.levelname, bool(details.exc_info)) == ("DEBUG", True)
    wrong.make = raising(ZeroDivisionError("other"))
    enrichment.apply(BATCH)
    assert len(caplog.records) == 4
    wrong.make = lambda batch: batch
    enrichment.apply(BATCH)
    assert enrichment.readings()["wrong"].state.problem == ""
    assert enrichment.readings()["wrong"].errors == 4
    assert enrichment.readings()["observer"].errors == 0


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), SystemExit(1)])
def test_what_is_no_mistake(error: BaseException) -> None:
    """There is nothing to go on with, or somebody wants the agent to end."""
    with pytest.raises(type(error)):
        Enrichment([Wrong(raising(error))]).apply(BATCH)


class Unknowing(Local):
    """A source that fails."""

    name = "unknowing"
    attributes: tuple[EndAttribute, ...] = (EndAttribute("test.none", "Nothing."),)

    def look_up(self, addresses: Addresses) -> Found:
        raise IndexError(f"{len(addresses)} is too much")


class Systems(Local):
    """Every address is in one autonomous system."""

    name = "systems"
    attributes: tuple[EndAttribute, ...] = (ASN,)

    def look_up(self, addresses: Addresses) -> Found:
        return Found(np.ones(len(addresses), np.uint32), {ASN: (None, 64500)})


def test_a_source_that_fails() -> None:
    """The others answer, and it is said which one it is."""
    enrichment = Enrichment([EndEnricher(Unknowing(), Systems())])
    after = enrichment.apply(BATCH)
    assert [list(some.values.values()) for some in after.entities] == [[(None, 64500)]] * 2
    readings = enrichment.readings()
    assert {name: one.errors for name, one in readings.items()} == {
        "ends": 0, "unknowing": 1, "systems": 0
    }  # fmt: skip
    assert readings["unknowing"].state.problem == "IndexError: 2 is too much"
