"""
What the agent tells of itself: Prometheus metrics made from the ledger when asked, and its log.

Every metric is declared here with its unit and meaning.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from exporter import __version__
from exporter.batch.batch import Totals
from exporter.ledger import Balance, SinkCounts

PREFIX = "flow_exporter_"
EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Enricher:
    """One enricher: ``enrich.base`` says what each number is."""

    seconds: float
    problem: str
    hits: int
    misses: int
    evictions: int
    entries: int
    events: Mapping[str, int] = field(default_factory=dict)
    errors: int = 0
    age: float | None = None


@dataclass(frozen=True)
class Reading:
    """Everything that the metrics are made of, at one moment."""

    balance: Balance
    drains: Mapping[str, int]
    drain_seconds: float
    interfaces: int
    attach_failures: int
    map_capacity: int
    map_fill: float
    map_pressure: Mapping[str, float]
    dedupe_flows: int
    dedupe_evictions: int
    enrichers: Mapping[str, Enricher]
    sink_retries: Mapping[str, int]
    sink_healthy: Mapping[str, bool]
    sink_circuit: Mapping[str, str]
    spool_errors: Mapping[str, int]
    queue_limit: Mapping[str, int] = field(default_factory=dict)
    spool_octets: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    flow_series: Mapping[str, int] = field(default_factory=dict)
    flow_series_forgotten: Mapping[str, int] = field(default_factory=dict)
    watchers: int = 0
    watchers_missed: int = 0
    clock_steps: int = 0


class Collector(Protocol):
    """Something that has metrics."""

    def collect(self) -> Iterable[Any]:
        """Metric families, as prometheus_client wants them; the values of now."""


def exposition(*collectors: Collector) -> bytes:
    """The text that Prometheus scrapes, format 0.0.4, of each collector in turn."""
    # Imported here: 14 MB that only a metrics address needs.
    from prometheus_client import CollectorRegistry, generate_latest

    text = b""
    for collector in collectors:
        # Not to be asked for its names first, which would be a scrape.
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        text += generate_latest(registry)
    return text


class Metrics:
    """
    A Prometheus collector.

    Args:
        read: Takes a reading; called at every scrape.
    """

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return exposition(self)

    def collect(self) -> Iterator[Any]:
        """Metric families, as prometheus_client wants them."""
        reading = self._read()
        yield from _kernel(reading.balance)
        yield from _stages(reading.balance)
        yield from _enrichers(reading.enrichers)
        yield from _sinks(reading.balance.sinks)
        yield from _room(reading)
        yield from _destinations(reading)
        yield from _state(reading)


def printable(text: str) -> str:
    """``text`` with what a terminal would act on escaped: a container names its interfaces."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)


class _Lines(logging.Formatter):
    """One printable line for each message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        return printable(super().formatMessage(record))


def setup_log(level: str) -> None:
    """Log lines to standard error: time, level, message."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("%(asctime)s %(levelname)s %(message)s"))
    kept = _Recent()
    kept.setFormatter(handler.formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler, kept], force=True)


#: The last lines of the log, for whoever reports a fault: some 100 kB.
_recent: deque[str] = deque(maxlen=500)


class _Recent(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _recent.append(self.format(record))


def recent_log() -> list[str]:
    """The last lines of the log, the newest last."""
    return list(_recent)


def _counter(
    name: str, meaning: str, labels: list[str], values: Iterable[tuple[list[str], float]]
) -> Any:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(PREFIX + name, meaning, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def _gauge(
    name: str, meaning: str, labels: list[str], values: Iterable[tuple[list[str], float]]
) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(PREFIX + name, meaning, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def _kernel(balance: Balance) -> Iterator[Any]:
    kernel = balance.kernel
    for unit in ("packets", "octets"):
        yield _counter(
            f"outcome_{unit}",
            f"What became of the {unit} seen; the outcomes add up to those seen.",
            ["outcome"],
            [([name], getattr(tally, unit)) for name, tally in kernel.outcomes.items()],
        )
    for name, meaning, value in (
        ("seen_packets", "Packets at all hooks.", kernel.seen.packets),
        ("seen_octets", "L2 octets at all hooks.", kernel.seen.octets),
        ("flows_created", "Entries inserted into the flow maps.", kernel.flows_created),
        (
            "fragments_unmatched",
            "Later IP fragments whose first fragment was not seen: counted under port 0.",
            kernel.fragments_unmatched,
        ),
    ):
        yield _counter(name, meaning, [], [([], value)])


def _stages(balance: Balance) -> Iterator[Any]:
    stages = {
        "drained": balance.drained,
        "deduplicated": balance.deduplicated,
        "excluded": balance.excluded_total,
        "published": balance.published,
    }
    for unit in ("flows", "packets", "octets"):
        yield _counter(
            f"stage_{unit}",
            f"{unit.capitalize()} drained from the kernel = deduplicated away + excluded + "
            "published.",
            ["stage"],
            [([stage], getattr(totals, unit)) for stage, totals in stages.items()],
        )
        yield _counter(
            f"excluded_{unit}",
            f"{unit.capitalize()} that an exclusion dropped.",
            ["exclusion"],
            [([name], getattr(totals, unit)) for name, totals in balance.excluded.items()],
        )

    carried = balance.carried
    for unit in ("packets", "octets"):
        yield _counter(
            f"earlier_agents_{unit}",
            f"{unit.capitalize()} seen and taken from the kernel before this agent started, with "
            "capture.pin: settled with the sinks then, or lost with the agent that had read them.",
            ["fate"],
            [
                ([fate], getattr(tally, unit))
                for fate, tally in (("settled", carried.settled), ("lost", carried.lost))
            ],
        )


def _enrichers(enrichers: Mapping[str, Enricher]) -> Iterator[Any]:
    for name, meaning, value in (
        ("seconds", "Time that drains spent in an enricher.", "seconds"),
        ("hits", "Questions that an enricher answered from memory.", "hits"),
        ("misses", "Questions that it had to ask elsewhere, or could not answer.", "misses"),
        ("evictions", "What it forgot for want of room.", "evictions"),
        ("errors", "Batches that it added nothing to because of a mistake in it.", "errors"),
    ):
        yield _counter(
            f"enrich_{name}",
            meaning,
            ["enricher"],
            [([which], getattr(one, value)) for which, one in enrichers.items()],
        )
    yield _counter(
        "enrich_events",
        "What else an enricher counts; its page says what each event is.",
        ["enricher", "event"],
        [
            ([which, event], count)
            for which, one in enrichers.items()
            for event, count in one.events.items()
        ],
    )
    yield _gauge(
        "enrich_entries",
        "What an enricher holds in memory.",
        ["enricher"],
        [([which], one.entries) for which, one in enrichers.items()],
    )
    yield _gauge(
        "enrich_healthy",
        "1 while an enricher's answers are what they should be; /readyz says what the problem is.",
        ["enricher"],
        [([which], not one.problem) for which, one in enrichers.items()],
    )
    yield _gauge(
        "enrich_age_seconds",
        "Since an enricher knew all that its source could tell; infinite before the first time.",
        ["enricher"],
        [([which], one.age) for which, one in enrichers.items() if one.age is not None],
    )


def _sinks(sinks: Mapping[str, SinkCounts]) -> Iterator[Any]:
    for unit in ("flows", "packets", "octets"):
        yield _counter(
            f"sink_{unit}",
            f"{unit.capitalize()} by sink: queued + recovered = delivered + dropped + "
            "pending + spooled.",
            ["sink", "state"],
            [
                ([name, state], getattr(totals, unit))
                for name, counts in sinks.items()
                for state, totals in _states(counts)
            ],
        )
        yield _counter(
            f"sink_dropped_{unit}",
            f"{unit.capitalize()} dropped by sink and reason.",
            ["sink", "reason"],
            [
                ([name, reason], getattr(totals, unit))
                for name, counts in sinks.items()
                for reason, totals in counts.dropped.items()
            ],
        )
    yield _gauge(
        "sink_pending_flows",
        "Flows that wait for the sink.",
        ["sink"],
        [([name], counts.pending.flows) for name, counts in sinks.items()],
    )
    yield _gauge(
        "sink_spooled_flows",
        "Flows that wait for the sink on disk only.",
        ["sink"],
        [([name], counts.spooled.flows) for name, counts in sinks.items()],
    )


def _room(reading: Reading) -> Iterator[Any]:
    yield _gauge(
        "sink_queue_limit_flows",
        "Flows that may wait in memory for the sink.",
        ["sink"],
        [([name], rows) for name, rows in reading.queue_limit.items()],
    )
    for place, (name, meaning) in enumerate(
        (
            ("sink_spool_octets", "Octets of the files of the sink's spool."),
            ("sink_spool_limit_octets", "Octets that they may be."),
        )
    ):
        values = [([sink], octets[place]) for sink, octets in reading.spool_octets.items()]
        yield _gauge(name, meaning, ["sink"], values)


def _destinations(reading: Reading) -> Iterator[Any]:
    yield _gauge(
        "sink_circuit",
        "1 for the state it is in: closed delivers, open waits, half-open tries one message.",
        ["sink", "state"],
        [
            ([name, state], state == now)
            for name, now in reading.sink_circuit.items()
            for state in ("closed", "half-open", "open")
        ],
    )
    yield _counter(
        "sink_spool_errors",
        "Times that something could not be written to the sink's spool.",
        ["sink"],
        [([name], count) for name, count in reading.spool_errors.items()],
    )
    yield _gauge(
        "sink_healthy",
        "1 while deliveries succeed.",
        ["sink"],
        [([name], healthy) for name, healthy in reading.sink_healthy.items()],
    )
    yield _counter(
        "sink_retries",
        "Deliveries that were tried again.",
        ["sink"],
        [([name], count) for name, count in reading.sink_retries.items()],
    )
    yield _gauge(
        "sink_series",
        "Series of flow metrics, the one for overflow among them.",
        ["sink"],
        [([name], count) for name, count in reading.flow_series.items()],
    )
    yield _counter(
        "sink_series_forgotten",
        "Series of flow metrics that nothing was added to for a while.",
        ["sink"],
        [([name], count) for name, count in reading.flow_series_forgotten.items()],
    )


def _states(counts: SinkCounts) -> Iterator[tuple[str, Totals]]:
    yield "queued", counts.queued
    yield "recovered", counts.recovered
    yield "delivered", counts.delivered
    yield "dropped", counts.dropped_total


def _state(reading: Reading) -> Iterator[Any]:
    yield _counter(
        "drains",
        "Drains by cause.",
        ["reason"],
        [([reason], count) for reason, count in reading.drains.items()],
    )
    for name, meaning, value in (
        ("drain_seconds", "Time spent in drains.", reading.drain_seconds),
        ("attach_failures", "Interfaces that could not be observed.", reading.attach_failures),
        ("dedupe_evictions", "Flows forgotten for want of room.", reading.dedupe_evictions),
        (
            "watchers_missed_flows",
            "Flows that a reader of observe or top was too slow for; no sink misses them.",
            reading.watchers_missed,
        ),
        ("clock_steps", "Times that somebody set the host's clock.", reading.clock_steps),
    ):
        yield _counter(name, meaning, [], [([], value)])
    for name, meaning, value in (
        ("interfaces", "Interfaces that are observed.", reading.interfaces),
        ("map_capacity_flows", "Flows that one flow map holds.", reading.map_capacity),
        ("map_fill_ratio", "Flow map or ring buffer in use, the fuller one.", reading.map_fill),
        ("dedupe_flows", "Flows that deduplication remembers.", reading.dedupe_flows),
        ("watchers", "Readers of observe and top.", reading.watchers),
        ("ledger_closes", "1 if the ledger balances.", not reading.balance.problems()),
    ):
        yield _gauge(name, meaning, [], [([], value)])
    yield _gauge(
        "map_pressure_ratio",
        "Each of the flow map and the ring buffer in use; absent while it is empty.",
        ["map"],
        [([name], ratio) for name, ratio in reading.map_pressure.items()],
    )
    yield _gauge("build_info", "Always 1.", ["version"], [([__version__], 1)])
