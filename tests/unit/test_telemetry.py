"""What Prometheus scrapes: parsed by its own library, compared with the ledger."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from exporter import __version__
from exporter.batch.batch import Totals
from exporter.ledger import Carried, Tally
from exporter.telemetry import PREFIX, Enricher, Metrics, Reading, setup_log
from tests.unit.test_ledger import BALANCE, KERNEL, ONE, SINK

READING = Reading(
    balance=BALANCE,
    drains={"active timeout": 5, "forced end": 1},
    drain_seconds=0.25,
    interfaces=3,
    attach_failures=2,
    map_capacity=1000,
    map_fill=0.5,
    map_pressure={"flow_ring": 0.5},
    dedupe_flows=4,
    dedupe_evictions=6,
    enrichers={"kubernetes": Enricher(0.5, "away", 7, 8, 9, 10, errors=11, age=12.5)},
    sink_retries={"grpc": 9, "stdout": 0},
    sink_healthy={"grpc": False, "stdout": True},
    sink_circuit={"grpc": "half-open", "stdout": "closed"},
    spool_errors={"grpc": 2, "stdout": 0},
    watchers=3,
    watchers_missed=17,
    clock_steps=2,
    queue_limit={"grpc": 100, "stdout": 200},
    spool_octets={"grpc": (4096, 1 << 20)},
)

Labels = frozenset[tuple[str, str]]


def scrape(reading: Reading = READING) -> list[Metric]:
    """Metric families as Prometheus reads them."""
    return list(text_string_to_metric_families(Metrics(lambda: reading).exposition().decode()))


def samples(reading: Reading = READING) -> dict[tuple[str, Labels], float]:
    """Name without prefix, and labels -> value; each is there once."""
    found: dict[tuple[str, Labels], float] = {}
    for family in scrape(reading):
        for sample in family.samples:
            assert sample.name.startswith(PREFIX)
            place = (sample.name.removeprefix(PREFIX), frozenset(sample.labels.items()))
            assert place not in found
            found[place] = sample.value
    return found


def labelled(**labels: str) -> Labels:
    return frozenset(labels.items())


def expected_kernel() -> dict[tuple[str, Labels], float]:
    expected: dict[tuple[str, Labels], float] = {
        ("seen_packets_total", labelled()): 100,
        ("seen_octets_total", labelled()): 10_000,
        ("flows_created_total", labelled()): 7,
        ("fragments_unmatched_total", labelled()): 1,
    }
    for name, tally in KERNEL.outcomes.items():
        expected["outcome_packets_total", labelled(outcome=name)] = tally.packets
        expected["outcome_octets_total", labelled(outcome=name)] = tally.octets
    return expected


def units(totals: Totals) -> dict[str, int]:
    return {"flows": totals.flows, "packets": totals.packets, "octets": totals.octets}


def expected_stages() -> dict[tuple[str, Labels], float]:
    return {
        (f"stage_{unit}_total", labelled(stage=stage)): value
        for stage, totals in (
            ("drained", BALANCE.drained),
            ("deduplicated", BALANCE.deduplicated),
            ("excluded", BALANCE.excluded_total),
            ("published", BALANCE.published),
        )
        for unit, value in units(totals).items()
    }


def expected_earlier(carried: Carried) -> dict[tuple[str, Labels], float]:
    return {
        ("earlier_agents_packets_total", labelled(fate="settled")): carried.settled.packets,
        ("earlier_agents_octets_total", labelled(fate="settled")): carried.settled.octets,
        ("earlier_agents_packets_total", labelled(fate="lost")): carried.lost.packets,
        ("earlier_agents_octets_total", labelled(fate="lost")): carried.lost.octets,
    }


def test_what_earlier_agents_did() -> None:
    """By its fate; zero where nothing is pinned."""
    carried = Carried(settled=Tally(3, 300), lost=Tally(4, 400))
    found = samples(replace(READING, balance=replace(BALANCE, carried=carried)))
    expected = expected_earlier(carried)
    assert {key: found[key] for key in expected} == expected


def expected_sinks() -> dict[tuple[str, Labels], float]:
    expected: dict[tuple[str, Labels], float] = {}
    for name, counts in BALANCE.sinks.items():
        states = {
            "queued": counts.queued,
            "recovered": counts.recovered,
            "delivered": counts.delivered,
            "dropped": counts.dropped_total,
        }
        for state, totals in states.items():
            for unit, value in units(totals).items():
                expected[f"sink_{unit}_total", labelled(sink=name, state=state)] = value
        for reason, totals in counts.dropped.items():
            for unit, value in units(totals).items():
                expected[f"sink_dropped_{unit}_total", labelled(sink=name, reason=reason)] = value
        expected["sink_pending_flows", labelled(sink=name)] = counts.pending.flows
        expected["sink_spooled_flows", labelled(sink=name)] = counts.spooled.flows
    for name, state in READING.sink_circuit.items():
        for one in ("closed", "half-open", "open"):
            expected["sink_circuit", labelled(sink=name, state=one)] = one == state
    return expected | {
        ("sink_healthy", labelled(sink="grpc")): 0,
        ("sink_healthy", labelled(sink="stdout")): 1,
        ("sink_spool_errors_total", labelled(sink="grpc")): 2,
        ("sink_spool_errors_total", labelled(sink="stdout")): 0,
        ("sink_retries_total", labelled(sink="grpc")): 9,
        ("sink_retries_total", labelled(sink="stdout")): 0,
        ("sink_queue_limit_flows", labelled(sink="grpc")): 100,
        ("sink_queue_limit_flows", labelled(sink="stdout")): 200,
        ("sink_spool_octets", labelled(sink="grpc")): 4096,
        ("sink_spool_limit_octets", labelled(sink="grpc")): 1 << 20,
    }


def test_every_sample() -> None:
    """Every number of the ledger and of the agent's state, and no other."""
    ledger = expected_kernel() | expected_stages() | expected_earlier(Carried()) | expected_sinks()
    assert samples() == ledger | {
        ("drains_total", labelled(reason="active timeout")): 5,
        ("drains_total", labelled(reason="forced end")): 1,
        ("drain_seconds_total", labelled()): 0.25,
        ("interfaces", labelled()): 3,
        ("attach_failures_total", labelled()): 2,
        ("map_capacity_flows", labelled()): 1000,
        ("map_fill_ratio", labelled()): 0.5,
        ("map_pressure_ratio", labelled(map="flow_ring")): 0.5,
        ("dedupe_flows", labelled()): 4,
        ("dedupe_evictions_total", labelled()): 6,
        ("watchers", labelled()): 3,
        ("watchers_missed_flows_total", labelled()): 17,
        ("clock_steps_total", labelled()): 2,
        ("enrich_seconds_total", labelled(enricher="kubernetes")): 0.5,
        ("enrich_hits_total", labelled(enricher="kubernetes")): 7,
        ("enrich_misses_total", labelled(enricher="kubernetes")): 8,
        ("enrich_evictions_total", labelled(enricher="kubernetes")): 9,
        ("enrich_errors_total", labelled(enricher="kubernetes")): 11,
        ("enrich_entries", labelled(enricher="kubernetes")): 10,
        ("enrich_healthy", labelled(enricher="kubernetes")): 0,
        ("enrich_age_seconds", labelled(enricher="kubernetes")): 12.5,
        ("ledger_closes", labelled()): 1,
        ("build_info", labelled(version=__version__)): 1,
    }


def test_the_metrics_balance_as_the_ledger_does() -> None:
    """Sums over labels: seen are the outcomes, drained is what became of it, queued likewise."""
    found = samples()

    def total(name: str, **labels: str) -> float:
        return sum(
            value
            for (sample, its_labels), value in found.items()
            if sample == name and labelled(**labels) <= its_labels
        )

    assert total("outcome_packets_total") == total("seen_packets_total")
    assert total("outcome_octets_total") == total("seen_octets_total")
    stages = {s: total("stage_packets_total", stage=s) for s in ("drained", "deduplicated")}
    assert stages["drained"] - stages["deduplicated"] == total(
        "stage_packets_total", stage="published"
    )
    for sink in ("grpc", "stdout"):
        dropped = total("sink_dropped_flows_total", sink=sink)
        assert dropped == total("sink_flows_total", sink=sink, state="dropped")
        given = (total("sink_flows_total", sink=sink, state=s) for s in ("queued", "recovered"))
        assert sum(given) == (
            total("sink_flows_total", sink=sink, state="delivered")
            + dropped
            + total("sink_pending_flows", sink=sink)
            + total("sink_spooled_flows", sink=sink)
        )


def test_a_ledger_that_does_not_close() -> None:
    """Is a metric to alert on."""
    wrong = replace(BALANCE, kernel=replace(KERNEL, seen=KERNEL.seen + ONE))
    assert samples(replace(READING, balance=wrong))["ledger_closes", labelled()] == 0


def test_every_family_has_help_and_type() -> None:
    """Each metric says what it means and what it is."""
    for family in scrape():
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge"), family.name


def test_every_family_comes_once() -> None:
    """All samples of a metric stand in one group, also with several sinks (format 0.0.4)."""
    names = [family.name for family in scrape()]
    assert sorted(names) == sorted(set(names))


def test_one_reading_for_one_scrape() -> None:
    """All numbers of a scrape are of one moment."""
    readings = []

    def read() -> Reading:
        readings.append(READING)
        return READING

    Metrics(read).exposition()
    assert len(readings) == 1


def test_label_values_are_escaped() -> None:
    """A sink may have any name."""
    name = 'a "b"\\\n'
    reading = replace(
        READING,
        balance=replace(BALANCE, sinks={name: SINK}),
        sink_retries={name: 1},
        sink_healthy={name: True},
    )
    assert samples(reading)["sink_retries_total", labelled(sink=name)] == 1


def test_log_lines_are_printable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a name or a server's message holds, a terminal does not act on it."""
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.root.level)
    setup_log("info")
    logging.getLogger("exporter").info("interface %s\nis \x1b[31mred", "ifé")
    assert capsys.readouterr().err.split("INFO ")[1] == "interface ifé\\x0ais \\x1b[31mred\n"
