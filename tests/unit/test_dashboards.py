"""Grafana's boards as files: what the code gives, in shapes that Grafana's own models know."""

from __future__ import annotations

import json
import re
from itertools import combinations, groupby
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.__main__ import TARGET, files, stale
from dashboards.catalogue import BOARDS
from dashboards.grafana import to_json
from dashboards.panel import Board, Panel, Query, Row
from exporter.telemetry import Metrics
from tests.unit.test_telemetry import READING

NAMES = [board.uid for board in BOARDS]
#: Flow metrics of two schemas, and what tells of Kafka.
_OTHERS = re.compile(r"(obi_)?network_flow_(bytes|packets|records)_total|kafka_\w+")


def panels(uid: str) -> list[dict[str, Any]]:
    """Rows are panels too."""
    found: list[dict[str, Any]] = json.loads((TARGET / f"{uid}.json").read_text())["panels"]
    return found


def test_files() -> None:
    """They are what the code gives: `make dashboards` changes nothing, and there are no others."""
    assert stale() == []
    assert sorted(path.stem for path in files()) == sorted(NAMES)


@pytest.mark.parametrize("uid", NAMES)
def test_nothing_that_the_models_do_not_know(uid: str) -> None:
    """Read by Grafana's generated models and written again, a board is the same."""
    text = (TARGET / f"{uid}.json").read_text()
    read = Dashboard.from_json(json.loads(text))
    assert json.loads(JSONEncoder().encode(read)) == json.loads(text)


@pytest.mark.parametrize("uid", NAMES)
def test_layout(uid: str) -> None:
    """Nothing overlaps, nothing is cut off, and each row's lines are full."""
    cells = [one["gridPos"] for one in panels(uid)]
    for one, other in combinations(cells, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
    lines = groupby(sorted(cells, key=lambda cell: int(cell["y"])), lambda cell: cell["y"])
    assert {sum(cell["w"] for cell in line) for _, line in lines} == {24}


@pytest.mark.parametrize("uid", NAMES)
def test_panels(uid: str) -> None:
    """
    Each says what it means, has a unit that Grafana knows, asks the chosen Prometheus, and no
    colour is one that cannot be read on some ground.
    """
    known = {value for name, value in vars(units).items() if isinstance(value, str)}
    titles = []
    for panel in panels(uid):
        if panel["type"] == "row":
            continue
        titles.append(panel["title"])
        assert len(panel["description"]) > len("Needs words."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in known
        for place in (panel, *panel["targets"]):
            assert place["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len(titles) == len(set(titles)) > 5
    assert "#" not in re.sub(r"Value #[A-Z]", "", (TARGET / f"{uid}.json").read_text())


@pytest.mark.parametrize("uid", NAMES)
def test_names_of_metrics(uid: str) -> None:
    """Each is one that the agent has, of itself or of flows."""
    scraped = Metrics(lambda: READING).exposition().decode()
    own = set(re.findall(r"^# TYPE (\S+) ", scraped, re.MULTILINE))
    used = {
        name
        for panel in panels(uid)
        for target in panel.get("targets", ())
        for name in re.findall(r"\b(\w+)\{", target["expr"])
    }
    assert len(used) > 1
    assert {name for name in used - own if not _OTHERS.fullmatch(name)} == set()


def test_a_row_is_added_in_one_place() -> None:
    """A board with one more row has its panels below the others, with numbers of their own."""
    row = Row("New", (Panel("Any", "A feature's.", (Query("vector(1)"),), width=24),))
    board = BOARDS[0]
    more = Board(board.uid, board.title, board.about, (*board.rows, row))
    one, other = (json.loads(to_json(made))["panels"] for made in (board, more))
    assert other[: len(one)] == one
    title, panel = other[len(one) :]
    assert title["title"] == "New"
    assert panel["id"] not in {first.get("id") for first in one}
    assert panel["gridPos"]["y"] > max(first["gridPos"]["y"] for first in one)
