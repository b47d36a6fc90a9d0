"""What enrichers can add, found without a list of them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from exporter import enrich
from exporter.batch.schema import COLUMNS
from exporter.enrich.config import EnrichConfig
from exporter.enrich.known import at_ends, by_name, known, known_attributes
from exporter.enrich.observer import AgentConfig
from exporter.enrich.table import attributes_of
from tests.strategies import ASN, POD, TEAM

_MODULE = """
from exporter.batch.attributes import Attribute, EndAttribute
class Source:
    attributes = (
        EndAttribute("as.number", "Autonomous system.", "AS", number=True, ipfix=(16, 17)),
    )
TEAM = Attribute("labels.team", "Of the user.", "team")
COLUMNS = {"pod": EndAttribute("k8s.pod.name", "Pod.", "K8S_Name", "k8s.{}.name"), "other": 1}
class Adds:
    attributes = (TEAM,)
def names():
    return [Attribute("local", "")]
"""


def test_an_enricher_shows_up_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the room is all that it takes."""
    (tmp_path / "zz_made_up.py").write_text(_MODULE)
    monkeypatch.setattr(enrich, "__path__", [*enrich.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    for cached in (known, known_attributes, by_name):
        cached.cache_clear()
    try:
        assert known()["zz_made_up"] == (ASN, TEAM, POD)
        assert [one.name for one in at_ends((ASN, TEAM))] == [
            *("src_as_number", "dst_as_number", "labels_team"),
        ]
        assert by_name()["dst_as_number"] == ASN.of("destination")
    finally:
        sys.modules.pop("exporter.enrich.zz_made_up", None)
        for cached in (known, known_attributes, by_name):
            cached.cache_clear()


def test_names_are_unique() -> None:
    """No two of all that there are share a name in any schema, nor with a column."""
    for schema, columns in (
        ("otel", {column.otel for column in COLUMNS}),
        ("netobserv", {column.netobserv for column in COLUMNS}),
        ("obi", set[str]()),
    ):
        names = [one.called(schema) for one in known_attributes()]
        assert len(set(names)) == len(names)
        assert not set(names) & columns
    assert len(by_name()) == len(known_attributes())
    assert not set(by_name()) & {column.name for column in COLUMNS}


def test_what_is_asked_for_is_known() -> None:
    """Without any section, nothing that costs is added; asking opens nothing."""
    assert set(attributes_of(EnrichConfig(), AgentConfig())) <= set(known_attributes())
