"""What a panel shows, without how Grafana writes it down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto


class Kind(Enum):
    """How it looks."""

    LINES = auto()
    STACK = auto()
    NUMBER = auto()
    BARS = auto()
    TABLE = auto()


@dataclass(frozen=True)
class Query:
    """
    One question to Prometheus.

    Args:
        expression: PromQL with the board's variables.
        legend: Of its series, with ``{{label}}``; of a table the name of the value's column.
    """

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Verdict:
    """
    Numbers that are good or bad, for colour: those from ``limit`` on are bad.

    Args:
        limit: Where it changes.
        bad_below: The other way around.
        words: What numbers are called: ``{1: "closes", 0: "does not close"}``.
    """

    limit: float
    bad_below: bool = False
    words: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """
    One box.

    Args:
        title: In a few words.
        meaning: What it tells, and what a reader should do about it.
        queries: In the order of the legend.
        kind: How it looks.
        unit: Of Grafana's units: ``bps``, ``pps``, ``decbytes``, ``short``, ``s``, ``percentunit``.
        width: Of 24.
        height: In Grafana's rows.
        verdict: If some numbers are bad.
        columns: Of a table: label -> heading, in this order; other labels are hidden.
    """

    title: str
    meaning: str
    queries: tuple[Query, ...]
    kind: Kind = Kind.LINES
    unit: str = "short"
    width: int = 12
    height: int = 8
    verdict: Verdict | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """
    What belongs together; the place where a feature adds what it has to show.

    Args:
        title: Of the row.
        panels: Their widths fill lines of 24.
    """

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Choice:
    """
    A variable of one board, besides those that all have.

    Args:
        name: ``$name`` in queries.
        title: What a reader sees.
        values: ``label_values(...)``.
    """

    name: str
    title: str
    values: str


@dataclass(frozen=True)
class Board:
    """
    A dashboard.

    Args:
        uid: Of it and of its file; for ever, as links have it.
        title: After "Flow exporter / ".
        about: What it answers.
        rows: From top to bottom.
        choices: Variables of its own.
    """

    uid: str
    title: str
    about: str
    rows: tuple[Row, ...]
    choices: tuple[Choice, ...] = ()
