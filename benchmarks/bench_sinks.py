"""
What each sink costs per flow: encoding and delivery of a drain of 100,000 flows to a real server.

Each ``bench_sinks_NAME`` has the rows of its sinks; here they become one table. Each says in its
docstring what it sends to and what its octets are.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from benchmarks import bench_spool
from benchmarks.report import Table


def run() -> Table:
    """CPU microseconds per flow of each sink, and what it sends."""
    table = Table(
        "sinks",
        "A drain of 100,000 flows, encoded and delivered: CPU of the exporting process",
        ("sink", "variant", "CPU us per flow", "flows/s per core", "RSS MB", "octets per flow"),
    )
    for name in sorted(found.name for found in pkgutil.iter_modules([str(Path(__file__).parent)])):
        if name.startswith("bench_sinks_"):
            for sink, variant, micros, rate, *rest in importlib.import_module(
                f"benchmarks.{name}"
            ).rows():
                table.add(sink, variant, f"{_number(micros):.2f}", f"{_number(rate):,.0f}",
                          *(f"{_number(cell):.0f}" for cell in rest))  # fmt: skip
    return table


def spool() -> Table:
    """CPU microseconds per flow that a spool adds."""
    table = Table(
        "spool",
        "A drain of 100,000 flows through a sink's queue, without the sink",
        ("way", "CPU us per flow", "least", "most", "octets per flow on disk"),
    )
    for row in bench_spool.rows():
        table.add(row["variant"], row["us_per_flow"], row["least"], row["most"],
                  row["octets_per_flow"])  # fmt: skip
    return table


def _number(cell: Any) -> float:
    return float(str(cell).replace(",", ""))
