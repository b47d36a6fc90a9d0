"""The model of a cluster: by hand with round numbers, and as the document has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cluster
from benchmarks.cluster import ASSUMED, Chosen, Cluster, Input, NotMeasured, Results, inputs

ROOT = Path(__file__).parents[2]
MACHINE = {"date": "2026-01-31"}
#: As the benchmarks write them, with numbers that are easily multiplied.
TABLES: dict[str, tuple[list[str], list[list[Any]]]] = {
    "kernel": (["packet", "ours"], [["IPv4 TCP", "100 (99-101)"]]),
    "agent": (
        ["flows per drain", "interval", "CPU % of one core", "RSS MB"],
        [["1,000", "5 s", "1.0", "80"], ["2,000", "5 s", "2.0", "100"],
         ["10,000", "20 s", "1.5", "200"]],
    ),
    "enrich": (["enricher", "distinct addresses", "later drains"], [["kubernetes", "10,000", "1"]]),
    "kube": (
        ["what", "API server", "cache"],
        [["octets of a list, a pod", 5000, 100], ["CPU us of a list, a pod", "40.0", "-"],
         ["octets of a change, a watch", 6000, 50], ["CPU us of a change, a watch", "100", "-"]],
    ),
    "agents": (["what", "MB"], [["one agent, owners: names", "19.0"]]),
    "sinks": (
        ["sink", "variant", "CPU us per flow", "octets per flow"],
        [["grpc", "pbflow.Records", "1", "120"], ["kafka", "packed, confluent", "3", "100"]],
    ),
    "downstream": (
        ["where", "variant", "rows per flow", "octets per flow", "us per flow"],
        [["kafka", "packed, lz4", "1", "40", "-"], ["otelcol", "logs, gRPC", "1", "700", "4"],
         ["otelcol", "logs, gRPC, gzip", "1", "70", "5"],
         ["clickhouse", "packed, records", "1.00", "20.0", "10"],
         ["clickhouse", "packed, pairs", "0.50", "2.0", "-"]],
    ),
}  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Results:
    tables = [
        {"name": name, "machine": MACHINE, "columns": columns, "rows": rows}
        for name, (columns, rows) in TABLES.items()
    ]
    (tmp_path / "2026-01-31.json").write_text(json.dumps({"tables": tables}))
    return Results(tmp_path)


def known(results: Results, **changed: float) -> dict[str, Input]:
    assumed = {option: float(value) for option, value, *_ in ASSUMED}
    return inputs(results, assumed | {k.replace("_", "-"): v for k, v in changed.items()}, Chosen())


def test_by_hand(results: Results) -> None:
    """
    1,000 nodes, each with 10 pods and 400 records a second, everything else as assumed.

    10,000 pods that change once an hour and nodes every 500 s: 2.78 + 2 changes a second, told to
    1,000 agents, at 6,000 octets and 100 us. 400,000 records of 40 octets are 16 MB/s.
    """
    values = known(results, flows=400, pods=10, changes=1, heartbeat=500, drain=5, packets=100_000)
    one = Cluster(1000, values)
    found = {(line.topic, line.what, line.unit): line.formula(one) for line in cluster.lines()}
    alone, cached = "API server, agents by themselves", "API server, with kube-cache"
    changes = 10_000 / 3600 + 2
    wanted = {
        ("API server", "pods", ""): 10_000,
        ("API server", "changes", "1/s"): changes,
        (alone, "watches", ""): 4000,
        (alone, "events sent", "1/s"): 1000 * changes,
        (alone, "events sent", "MB/s"): 6 * changes,
        # Half of a core is used.
        (alone, "events sent", "cores"): 0.2 * changes,
        # 5 kB and 40 us, for 10,000 pods to 1,000 agents.
        (alone, "all start: lists", "GB"): 50,
        (alone, "all start: lists", "CPU s"): 400,
        (cached, "watches", ""): 8,
        (cached, "events sent", "1/s"): 2 * changes,
        (cached, "events sent", "MB/s"): 0.012 * changes,
        (cached, "events sent", "cores"): 0.0004 * changes,
        (cached, "all start: lists", "GB"): 0.1,
        (cached, "all start: lists", "CPU s"): 0.8,
        ("kube-cache to agents", "changes", "MB/s"): 0.05 * changes,
        ("kube-cache to agents", "all start", "GB"): 1,
        # 2,000 flows in a drain: 2 %; 3 - 1 + 1 us more for 400 flows a second.
        ("a node", "agent's CPU", "% of a core"): 2 + 0.12,
        ("a node", "kernel program's CPU", "% of a core"): 1,
        ("a node", "agent's memory, all pods known", "MB"): 100 + 19,
        ("a node", "to Kafka", "Mbit/s"): 0.128,
        ("a node", "to Kafka", "% of its network"): 0.00128,
        ("Kafka", "records", "1/s"): 400_000,
        ("Kafka", "in", "MB/s"): 16,
        ("Kafka", "between brokers", "MB/s"): 32,
        # Two by octets, eight by what a thread of ClickHouse reads: 50,000 a second.
        ("Kafka", "partitions", ""): 8,
        ("Kafka", "brokers", ""): 3,
        ("Kafka", "connections", ""): 3000,
        ("Kafka", "disk in a day", "GB"): 16 * 86.4 * 3,
        ("Kafka", "disk", "GB"): 16 * 86.4 * 3,
        ("collectors, pbflow over gRPC", "in", "MB/s"): 48,
        ("collectors, pbflow over gRPC", "to receive", "cores"): 8,
        ("collectors, OTLP", "in", "MB/s"): 280,
        ("collectors, OTLP", "in, with gzip", "MB/s"): 28,
        ("collectors, OTLP", "to receive and count", "cores"): 3.2,
        ("ClickHouse", "rows in a day", "million"): 34_560,
        ("ClickHouse", "to insert", "cores"): 8,
        # 20 octets in two replicas, for a week.
        ("ClickHouse", "records, disk in a day", "GB"): 1382.4,
        ("ClickHouse", "records, disk", "GB"): 9676.8,
        ("ClickHouse", "pairs, disk in a day", "GB"): 138.24,
    }
    assert found == pytest.approx(wanted)


def test_between_what_was_measured(results: Results) -> None:
    """
    A percent of 5 s is 50 ms, one of 20 s is 200. Below the first row it is the first, beyond the
    last it goes on.
    """
    for flows, drain, milliseconds, memory in (
        (100, 5, 50, 80),
        (300, 5, 75, 90),
        (200, 10, 100, 100),
        (1200, 5, 200, 150),
        (2000, 5, 300, 200),
        (4000, 5, 550, 325),
    ):
        values = known(results, flows=flows, drain=drain)
        assert values["agent, CPU of a drain"].value == pytest.approx(milliseconds)
        assert values["agent, memory"].value == pytest.approx(memory)


def test_more_brokers_and_partitions(results: Results) -> None:
    """By octets: 400 MB/s are forty partitions of 10 MB/s, and with replicas twelve brokers."""
    one = Cluster(10_000, known(results, flows=1000, busy=1000))
    assert (one.kafka_in, one.partitions, one.brokers) == (400, 40, 12)


def test_each_number_says_where_it_is_from(results: Results) -> None:
    """Every input is measured somewhere or assumed; every line names its inputs, but for nodes."""
    text = cluster.render(known(results), (10, 1000))
    head, body = (part.splitlines()[2:] for part in text.split("\n\n"))
    letters = {}
    for line in head:
        letter, _, _, source = line.strip("| ").split(" | ")
        assert (letter[0], source == "assumed") in (("M", False), ("A", True))
        assert source == "assumed" or "2026-01-31" in source or source.endswith(".md")
        letters[letter] = source
    for line in body:
        used = line.strip("|").split("|")[-1].split()
        assert set(used) <= set(letters)
        assert used or "watches" in line
    used_by_some = {name for line in body for name in line.strip("|").split("|")[-1].split()}
    assert set(letters) == used_by_some


def test_a_missing_number_names_its_benchmark(tmp_path: Path) -> None:
    """One line, and what to run."""
    with pytest.raises(NotMeasured, match="no table agents: run `python -m benchmarks agents`"):
        known(_only(tmp_path, "kernel"))
    with pytest.raises(NotMeasured, match=r"no row .* in kernel: run `python"):
        _only(tmp_path, "kernel").find("kernel", ("IPv5",), "ours")


def _only(directory: Path, name: str) -> Results:
    columns, rows = TABLES[name]
    table = {"name": name, "machine": MACHINE, "columns": columns, "rows": rows}
    (directory / "one.json").write_text(json.dumps({"tables": [table]}))
    return Results(directory)


@pytest.mark.parametrize("words", [["--nodes", "0"], ["--nodes", "x"], ["--flows", "-1"]])
def test_bad_numbers(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Refused with a line."""
    with pytest.raises(SystemExit) as ended:
        cluster.main(words)
    assert ended.value.code == 2
    assert "above zero" in capsys.readouterr().err


def test_the_document_is_what_the_model_says(tmp_path: Path) -> None:
    """docs/operations/sizing.md has the output of today's results."""
    path = ROOT / "docs" / "operations" / "sizing.md"
    copy = tmp_path / "sizing.md"
    copy.write_text(path.read_text())
    assert cluster.main(["--write", str(copy)]) == 0
    assert copy.read_text() == path.read_text(), (
        "run .venv/bin/python -m benchmarks.cluster --write docs/operations/sizing.md"
    )
