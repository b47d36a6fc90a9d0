"""
``flow-exporter observe``: the flows of a running agent, as they are published.

The agent chooses rows and writes them as JSON lines, whole batches at a time; the command prints
them. A line that is no flow is a notice: ``{"notice": {"missed": 17}}`` says that the reader was
too slow for so many flows. Empty lines keep the connection alive.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

import numpy as np
import orjson

from exporter.batch.assemble import by_observer
from exporter.batch.batch import FlowBatch
from exporter.batch.match import Mask, Match
from exporter.batch.record import FlowRecord
from exporter.errors import ConfigError
from exporter.fanout.tap import Tap, Watcher
from exporter.quantities import duration
from exporter.sinks.encodings.jsonl import SHAPES, encode

#: Seconds between empty lines, by which it is found out that nobody reads any more.
_ALIVE = 1.0
#: Each costs the agent time for every flow.
_CONDITIONS = 100
#: Flows that are made lines of at once: a drain may have a million, of 600 octets each and more.
_PART = 8192
_NOT = "not-"
_U64 = (1 << 64) - 1
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:\d\d)?)?")
_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Wanted:
    """
    What somebody wants to see.

    Args:
        conditions: As :class:`exporter.batch.match.Match` takes them.
        excluded: Likewise.
        since_ns, until_ns: Unix ns, of a flow's end; 0 for no bound.
        last: So many of the recent flows at most; ``None`` for all that are kept.
        first: Stop after so many flows; 0 for never.
        follow: Go on with what comes from now on.
        schema: Of the JSON records.

    Raises:
        ConfigError: If there is no such schema, or too much is asked for.
    """

    conditions: tuple[tuple[str, str], ...] = ()
    excluded: tuple[tuple[str, str], ...] = ()
    since_ns: int = 0
    until_ns: int = 0
    last: int | None = None
    first: int = 0
    follow: bool = False
    schema: str = "otel"

    def __post_init__(self) -> None:
        if self.schema not in SHAPES:
            raise ConfigError(f"there is no schema {self.schema}: use one of {', '.join(SHAPES)}")
        if len(self.conditions) + len(self.excluded) > _CONDITIONS:
            raise ConfigError(f"more than {_CONDITIONS} conditions: a network says many addresses")

    def query(self) -> str:
        """As the query of a URL."""
        pairs = list(self.conditions) + [(_NOT + name, text) for name, text in self.excluded]
        for name in ("since_ns", "until_ns", "first"):
            if value := getattr(self, name):
                pairs.append((name, str(value)))
        if self.last is not None:
            pairs.append(("last", str(self.last)))
        if self.follow:
            pairs.append(("follow", "1"))
        return urlencode([*pairs, ("schema", self.schema)])

    @classmethod
    def of_query(cls, query: str) -> Wanted:
        """
        Out of :meth:`query`.

        Raises:
            ConfigError: If a number is none.
        """
        conditions, excluded, numbers = [], [], {}
        schema = "otel"
        for name, text in parse_qsl(query, keep_blank_values=True):
            if name in ("since_ns", "until_ns", "first", "last", "follow"):
                numbers[name] = _number(name, text)
            elif name == "schema":
                schema = text
            elif name.startswith(_NOT):
                excluded.append((name.removeprefix(_NOT), text))
            else:
                conditions.append((name, text))
        return cls(
            tuple(conditions), tuple(excluded),
            since_ns=numbers.get("since_ns", 0), until_ns=numbers.get("until_ns", 0),
            last=numbers.get("last"), first=numbers.get("first", 0),
            follow=bool(numbers.get("follow", 0)), schema=schema,
        )  # fmt: skip


class Chosen:
    """
    Chooses rows of batches in a row.

    Args:
        wanted: What is asked for.

    Raises:
        ConfigError: If there is no such condition.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._match = Match(wanted.conditions, wanted.excluded)
        self._left = wanted.first or None
        asked = (wanted.conditions, wanted.excluded, wanted.since_ns, wanted.until_ns)
        self._takes_all = not any(asked)

    @property
    def done(self) -> bool:
        """Whether as many have come as were asked for."""
        return self._left == 0

    def recent(self, batches: Iterable[FlowBatch]) -> list[FlowBatch]:
        """Of what came before: the last ones, in order."""
        found = [self._rows(batch) for batch in batches]
        if self._wanted.last is not None:
            found = _last(found, self._wanted.last)
        return [self._counted(batch) for batch in found]

    def of(self, batch: FlowBatch) -> FlowBatch:
        """Of a batch that comes now."""
        return self._counted(self._rows(batch))

    def rows(self, some: Sequence[FlowRecord]) -> list[int]:
        """Which of some records, of any observers: their numbers, as :meth:`of` has rows."""
        mask = np.ones(len(some), np.bool_)
        if not self._takes_all:
            for places, batch in by_observer(some):
                mask[places] = self._mask(batch)
        rows = np.flatnonzero(mask)
        if self._left is not None:
            rows = rows[: self._left]
            self._left -= len(rows)
        return rows.tolist()

    def _rows(self, batch: FlowBatch) -> FlowBatch:
        mask = self._mask(batch)
        return batch if mask.all() else batch.take(mask)

    def _mask(self, batch: FlowBatch) -> Mask:
        mask = self._match.mask(batch)
        if self._wanted.since_ns:
            mask &= batch.flow_end_ns >= np.uint64(self._wanted.since_ns)
        if self._wanted.until_ns:
            mask &= batch.flow_end_ns < np.uint64(self._wanted.until_ns)
        return mask

    def _counted(self, batch: FlowBatch) -> FlowBatch:
        if self._left is None:
            return batch
        batch = batch.take(slice(0, self._left))
        self._left -= len(batch)
        return batch


def observed(tap: Tap, wanted: Wanted) -> Generator[bytes]:
    """
    What the agent answers: JSON lines, some at a time.

    Raises:
        ConfigError: If it asks for what there is not; at once.
    """
    return _lines(tap, wanted, Chosen(wanted))


def _lines(tap: Tap, wanted: Wanted, chosen: Chosen) -> Generator[bytes]:
    shape = SHAPES[wanted.schema]

    def told(batch: FlowBatch) -> Generator[bytes]:
        for first in range(0, len(batch), _PART):
            yield encode(batch.take(slice(first, first + _PART)), shape)

    if not wanted.follow:
        for batch in chosen.recent(tap.recent()):
            yield from told(batch)
        return
    with tap.watch() as watcher:
        for batch in chosen.recent(watcher.recent):
            yield from told(batch)
        yield from follow(watcher, chosen, told)


def follow(
    watcher: Watcher, chosen: Chosen, tell: Callable[[FlowBatch], Iterable[bytes]]
) -> Generator[bytes]:
    """
    Lines for what comes, until all that was asked for has come or nothing more will.

    Args:
        watcher: Of whom the batches are.
        chosen: Which rows of them.
        tell: What is said of some rows: whole lines.
    """
    while not (chosen.done or watcher.closed):
        batch = watcher.take(_ALIVE)
        if missed := watcher.missed():
            yield orjson.dumps({"notice": {"missed": missed}}) + b"\n"
        if batch is not None:
            yield from tell(chosen.of(batch))
        yield b"\n"


def _last(batches: Sequence[FlowBatch], rows: int) -> list[FlowBatch]:
    kept: list[FlowBatch] = []
    for batch in reversed(batches):
        if rows <= 0:
            break
        kept.append(batch.take(slice(max(len(batch) - rows, 0), None)))
        rows -= len(batch)
    return kept[::-1]


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"{name}: {text} is no number")
    return min(int(text), _U64)


def moment_ns(text: str) -> int:
    """
    A time as people write it, Unix ns: ``30s`` is so long ago, else RFC 3339 (UTC without an
    offset).

    Raises:
        ConfigError: If it is neither.
    """
    from datetime import UTC, datetime

    if _RFC3339.fullmatch(text):
        try:
            parsed = datetime.fromisoformat(text)
        except ValueError as err:
            raise ConfigError(f"{text} is no time: {err}") from None
        if parsed.tzinfo is None:
            parsed = parsed.replace(tzinfo=UTC)
        return int(parsed.timestamp()) * _SECOND + parsed.microsecond * 1000
    try:
        return max(time.time_ns() - int(duration(text) * _SECOND), 1)
    except ValueError:
        raise ConfigError(f"{text} is no time: use 30s, 5m, 1h, or 2026-01-31T12:00:00Z") from None
