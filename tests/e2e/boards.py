"""The boards as they are shipped, and what they ask Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parents[2] / "helm" / "flow-exporter" / "dashboards"
#: What Grafana puts in for "All", and for a range that always has two scrapes.
_VARIABLES = ("job", "instance", "node", "sink", "topic", "group")


@dataclass(frozen=True)
class Asked:
    """
    A query of a panel.

    Args:
        board: Its uid.
        row: Title of the row that the panel is in.
        panel: Its title.
        name: Of the query in it: A, B, ...
        expression: As Prometheus gets it.
    """

    board: str
    row: str
    panel: str
    name: str
    expression: str


def boards() -> dict[str, Any]:
    """By uid."""
    found = [json.loads(path.read_text()) for path in sorted(DIRECTORY.glob("*.json"))]
    return {board["uid"]: board for board in found}


def filled(text: str, window: str = "5m") -> str:
    """With every variable's value; fails if there is one that nobody knows."""
    values: Mapping[str, str] = dict.fromkeys(_VARIABLES, ".*") | {"__rate_interval": window}
    return re.sub(r"\$(\w+|\{\w+\})", lambda found: values[found[1].strip("{}")], text)


def asked() -> list[Asked]:
    """All queries of all panels, in order."""
    found = []
    for uid, board in boards().items():
        row = ""
        for panel in board["panels"]:
            if panel["type"] == "row":
                row = panel["title"]
                continue
            found += [
                Asked(uid, row, panel["title"], target["refId"], filled(target["expr"]))
                for target in panel["targets"]
            ]
    return found


def choices() -> list[tuple[str, str, str, str]]:
    """Variables that ask Prometheus: board, name, series, and the label whose values they are."""
    found = []
    for uid, board in boards().items():
        for one in board["templating"]["list"]:
            if one["type"] == "query":
                match = re.fullmatch(r"label_values\((.*), (\w+)\)", one["query"])
                assert match, one["query"]
                found.append((uid, one["name"], filled(match[1]), match[2]))
    return found
