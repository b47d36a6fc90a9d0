"""The tables of ``make test-kernels``: kernel by feature and kernel by capability."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """
    One kernel.

    Args:
        release: As ``uname -r``.
        features: Probe: its answer and reason.
        results: Capability: number of tests by outcome.
        seconds: From start to power-off.
    """

    release: str
    features: dict[str, dict[str, str]]
    results: dict[str, dict[str, int]]
    seconds: float


_rows: list[Row] = []


def write(row: Row) -> None:
    """Keep a row for the summary; also as JSON where TEST_KERNELS_REPORT says."""
    _rows.append(row)
    path = os.environ.get("TEST_KERNELS_REPORT")
    if path:
        Path(path).write_text(json.dumps([asdict(each) for each in _rows], indent=1))


def tables() -> list[str]:
    """Markdown: features, then results, a column for each kernel."""
    if not _rows:
        return []
    heads = [row.release for row in _rows]
    features = [
        [name, *(row.features[name]["answer"] for row in _rows)] for name in _rows[0].features
    ]
    results = [
        [title, *(_tally(row.results[title]) for row in _rows)] for title in _rows[0].results
    ]
    results.append(["seconds", *(f"{row.seconds:.0f}" for row in _rows)])
    return [*_table("feature", heads, features), "", *_table("tests", heads, results)]


def _tally(outcomes: dict[str, int]) -> str:
    words = [f"{number} {outcome}" for outcome, number in sorted(outcomes.items())]
    return ", ".join(words) or "none yet"


def _table(corner: str, heads: list[str], rows: list[list[str]]) -> list[str]:
    everything = [[corner, *heads], *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(everything[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in everything
    ]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return [lines[0], rule, *lines[1:]]
