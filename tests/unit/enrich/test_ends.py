"""Sources are asked about each address once, and answer for both ends of every row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from exporter.batch import group
from exporter.batch.attributes import Attribute, EndAttribute
from exporter.batch.batch import FlowBatch
from exporter.batch.record import records
from exporter.enrich.base import Addresses, Found, Local, State
from exporter.enrich.ends import EndEnricher, ends_of
from exporter.enrich.observer import AgentConfig, ObserverName
from exporter.enrich.table import Enrichment
from exporter.testing import Row, make_batch
from exporter.testing.batch import pack_address
from tests.strategies import batches

LAST = EndAttribute("test.last", "Last octet.", "Last", "{}.last", number=True)
KIND = EndAttribute("test.kind", "Even or odd.", "Kind")


class LastOctet(Local):
    """Knows the last octet of each address that does not end in 0."""

    name = "last"
    attributes: tuple[EndAttribute, ...] = (LAST, KIND)

    def __init__(self) -> None:
        self.asked: list[int] = []

    def look_up(self, addresses: Addresses) -> Found:
        self.asked.append(len(addresses))
        kinds = tuple(
            ("odd" if number % 2 else "even") if number else None for number in range(256)
        )
        numbers = addresses.octets[:, 15].astype(np.uint32)
        return Found(numbers, {LAST: (None, *range(1, 256)), KIND: kinds})


def addresses_of(batch: FlowBatch) -> set[bytes]:
    return {bytes(row) for column in (batch.src_addr, batch.dst_addr) for row in column}


@given(batches())
def test_each_address_once(batch: FlowBatch) -> None:
    """No two are equal, none is missing, and the numbers lead back to every row's addresses."""
    found = ends_of(batch)
    packed = found.addresses.packed()
    assert len(packed) == len(set(packed))
    assert set(packed) == addresses_of(batch)
    octets = found.addresses.octets
    assert (octets[found.numbers["source"]] == batch.src_addr).all()
    assert (octets[found.numbers["destination"]] == batch.dst_addr).all()


def test_equal_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses whose hashes are all the same are told apart."""
    monkeypatch.setattr(group, "hash_words", lambda words: np.zeros(len(words), np.uint64))
    batch = make_batch(*(Row(src_addr=f"10.0.0.{n % 7}", dst_addr="::1") for n in range(50)))
    found = ends_of(batch)
    assert set(found.addresses.packed()) == {pack_address(f"10.0.0.{n}") for n in range(7)} | {
        pack_address("::1")
    }
    assert (found.addresses.octets[found.numbers["source"]] == batch.src_addr).all()


def test_answers_stand_at_the_right_end() -> None:
    """Both ends of rows in any order; what is not known is absent."""
    source = LastOctet()
    batch = make_batch(
        Row(src_addr="10.0.0.1", dst_addr="10.0.0.2"),
        Row(src_addr="10.0.0.2", dst_addr="10.0.0.0"),
        Row(src_addr="2001:db8::0300", dst_addr="2001:db8::3"),
    )
    enriched = EndEnricher(source).apply(batch)
    assert source.asked == [5]
    said = [
        {attribute.otel: value for attribute, value in record.metadata.items()}
        for record in records(enriched)
    ]
    assert said == [
        {
            "source.test.last": 1,
            "source.test.kind": "odd",
            "destination.test.last": 2,
            "destination.test.kind": "even",
        },
        {"source.test.last": 2, "source.test.kind": "even"},
        {"destination.test.last": 3, "destination.test.kind": "odd"},
    ]


def test_names_by_schema() -> None:
    """Of one end, as each schema calls it."""
    source, destination = LAST.of("source"), LAST.of("destination")
    assert (source.otel, source.netobserv, source.obi) == (
        "source.test.last",
        "SrcLast",
        "src.last",
    )
    assert (destination.name, destination.netobserv) == ("dst_test_last", "DstLast")
    assert KIND.of("source").obi == ""
    assert Attribute("labels.team", "").owned == "labels"
    assert source.owned == "source.test"


def test_nothing_is_known() -> None:
    """Batches without rows, and without an address that is known, are as they were."""
    enricher = EndEnricher(LastOctet())
    assert enricher.apply(make_batch()).entities == ()
    assert enricher.apply(make_batch(Row(src_addr="10.0.0.0", dst_addr="::"))).entities == ()


class Broken(LastOctet):
    """Cannot be opened, or has a problem."""

    name = "broken"
    attributes: tuple[EndAttribute, ...] = (EndAttribute("broken.it", ""),)
    closed = 0

    def open(self) -> None:
        raise OSError("no")

    def close(self) -> None:
        self.closed += 1

    def state(self) -> State:
        return State("its server is away", hits=1, entries=2)


def test_what_was_opened_is_closed() -> None:
    """If one cannot be opened; and closing again is fine."""
    broken = Broken()
    enrichment = Enrichment([ObserverName(AgentConfig()), EndEnricher(LastOctet(), broken)])
    with pytest.raises(OSError, match="no"):
        enrichment.open()
    assert broken.closed == 1
    enrichment.close()
    assert broken.closed == 1


def test_readings() -> None:
    """Each source has its own; the time that all of them took is counted."""
    enrichment = Enrichment([ObserverName(AgentConfig()), EndEnricher(LastOctet(), Broken())])
    enrichment.apply(make_batch(Row()))
    readings = enrichment.readings()
    assert set(readings) == {"observer", "ends", "last", "broken"}
    assert readings["broken"].state == State("its server is away", hits=1, entries=2)
    assert all(reading.seconds > 0 for reading in readings.values())


def test_no_object_has_two_owners() -> None:
    """Two enrichers that would write into one object of a record are a mistake."""
    with pytest.raises(AssertionError, match="provided by two"):
        Enrichment([EndEnricher(LastOctet(), LastOctet())])


def test_order() -> None:
    """An enricher that comes before what it requires is a mistake."""

    class Late(ObserverName):
        name = "late"
        requires: tuple[str, ...] = ("entities",)

    with pytest.raises(AssertionError, match="late comes before what it requires"):
        Enrichment([Late(AgentConfig())])
