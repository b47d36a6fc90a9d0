"""Benchmarks keep what was measured on the same day."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.report import RESULTS, Table, write


def kept(path: Path) -> list[tuple[str, list[list[int]]]]:
    return [(table["name"], table["rows"]) for table in json.loads(path.read_text())["tables"]]


def test_tables_of_a_day_are_kept(tmp_path: Path) -> None:
    """Another run adds its tables and replaces its own of before; each says where it was made."""
    first = write([Table("a", "A", ("n",), [(1,)]), Table("b", "B", ("n",), [(2,)])], tmp_path)
    second = write([Table("b", "B", ("n",), [(3,)]), Table("c", "C", ("n",), [(4,)])], tmp_path)
    assert first == second
    assert kept(first) == [("a", [[1]]), ("b", [[3]]), ("c", [[4]])]
    for table in json.loads(first.read_text())["tables"]:
        assert set(table["machine"]) >= {"date", "commit", "kernel", "cpu"}


def test_kept_results_are_of_that_form() -> None:
    """All of them, so that a run on their day adds to them."""
    for path in RESULTS.glob("*.json"):
        for table in json.loads(path.read_text())["tables"]:
            assert set(table) == {"machine", "name", "what", "columns", "rows"}
            assert table["machine"]["date"] == path.stem
