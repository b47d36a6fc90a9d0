"""The ledger as a table."""

from __future__ import annotations

from dataclasses import replace

from exporter import cli
from exporter.batch.batch import Totals
from tests.unit.test_ledger import BALANCE


def test_exclusions_have_lines_of_their_own() -> None:
    """Between what was deduplicated and what was published, each by its name."""
    excluded = {"noise": Totals(2, 8, 800), "health": Totals()}
    balance = replace(
        BALANCE, excluded=excluded, deduplicated=BALANCE.deduplicated - Totals(2, 8, 800)
    )
    lines = cli._ledger_text(balance.as_dict()).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("drained"))
    assert [line.split() for line in lines[at : at + 5]] == [
        ["drained", "70", "7,000"],
        ["deduplicated", "12", "1,200"],
        ["excluded,", "noise", "8", "800"],
        ["excluded,", "health", "0", "0"],
        ["published", "50", "5,000"],
    ]
    assert lines[-1] == "the ledger closes"
