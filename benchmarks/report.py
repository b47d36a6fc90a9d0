"""What a benchmark measured, where, and as a table."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Table:
    """One benchmark's rows. ``rows`` are as wide as ``columns``; numbers are medians."""

    name: str
    what: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)

    def add(self, *cells: Any) -> None:
        """One more row, printed at once."""
        assert len(cells) == len(self.columns)
        self.rows.append(cells)
        print("  " + "  ".join(str(cell) for cell in cells), flush=True)

    def markdown(self) -> str:
        """The table as the README has it."""
        lines = [
            "| " + " | ".join(self.columns) + " |",
            "| --- |" + " ---: |" * (len(self.columns) - 1),
        ]
        lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in self.rows]
        return "\n".join(lines)


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent,
    ).stdout.strip()  # fmt: skip
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "kernel": os.uname().release,
        "cpu": model,
        "cpus": str(os.cpu_count()),
        "python": platform.python_version(),
    }


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """``median (min-max)``."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def write(tables: Sequence[Table], directory: Path = RESULTS) -> Path:
    """
    Keep the results in the file of the day, each table with its machine and commit.

    A table that is there already is replaced; those of other benchmarks stay.
    """
    where = machine()
    directory.mkdir(exist_ok=True)
    path = directory / f"{where['date']}.json"
    kept = json.loads(path.read_text())["tables"] if path.exists() else []
    by_name = {table["name"]: table for table in kept}
    by_name |= {table.name: {"machine": where} | asdict(table) for table in tables}
    path.write_text(json.dumps({"tables": list(by_name.values())}, indent=1) + "\n")
    return path
