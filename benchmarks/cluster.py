"""
``python -m benchmarks.cluster``: what a cluster of so many nodes costs, on paper.

Numbers that were measured are read from ``results/``, newest first. What nobody measured is an
assumption, an option of the command. Each line of the output says what it is made of. Partitions
and brokers are whole numbers; "cores" leave as much room as is assumed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS

NODES = (10, 1_000, 10_000)
BEGIN, END = "<!-- model -->\n", "<!-- end of model -->\n"


class NotMeasured(Exception):
    """There is no such number in the results: which benchmark gives it."""


@dataclass(frozen=True)
class Input:
    """
    A number that the model takes.

    Args:
        name: As the lines that use it call it.
        value: In the unit.
        unit: For people.
        source: Where it was measured; empty for an assumption.
    """

    name: str
    value: float
    unit: str
    source: str = ""


#: Option, value, unit, name.
ASSUMED = (
    ("flows", 500, "1/s", "flow records of a node"),
    ("packets", 50_000, "1/s", "packets of a node"),
    ("drain", 5, "s", "time between drains"),
    ("pods", 30, "", "pods of a node"),
    ("changes", 6, "1/h", "changes of a pod"),
    ("heartbeat", 300, "s", "time between changes of a node"),
    ("caches", 2, "", "replicas of kube-cache"),
    ("nic", 10, "Gbit/s", "network of a node"),
    ("busy", 50, "%", "share of a core that is used"),
    ("replication", 3, "", "replicas of a partition"),
    ("kafka-hours", 24, "h", "retention in Kafka"),
    ("partition", 10, "MB/s", "most of a partition"),
    ("broker", 100, "MB/s", "most of a broker, its replicas too"),
    ("clickhouse-days", 7, "d", "retention in ClickHouse"),
    ("clickhouse-replicas", 2, "", "replicas in ClickHouse"),
    ("collector", 10, "us", "CPU of a collector of pbflow, a flow"),
)
#: Name, unit, table, words of the row's first cells, column.
_MEASURED = (
    ("kernel, a packet", "ns", "kernel", ("IPv4 TCP",), "ours"),
    ("kubernetes names, a flow", "us", "enrich", ("kubernetes", "10,000"), "later drains"),
    ("list, a pod", "octets", "kube", ("octets of a list, a pod",), "API server"),
    ("list, CPU, a pod", "us", "kube", ("CPU us of a list, a pod",), "API server"),
    ("change, a watch", "octets", "kube", ("octets of a change, a watch",), "API server"),
    ("change, CPU, a watch", "us", "kube", ("CPU us of a change, a watch",), "API server"),
    ("cache's list, a pod", "octets", "kube", ("octets of a list, a pod",), "cache"),
    ("cache's change", "octets", "kube", ("octets of a change, a watch",), "cache"),
    ("pbflow over gRPC, a flow", "octets", "sinks", ("grpc", "pbflow.Records"), "octets per flow"),
    ("OTLP, a flow", "octets", "downstream", ("otelcol", "logs, gRPC"), "octets per flow"),
    ("OTLP, gzip, a flow", "octets", "downstream", ("otelcol", "logs, gRPC, gzip"),
     "octets per flow"),
    ("otelcol, a flow", "us", "downstream", ("otelcol", "logs, gRPC"), "us per flow"),
    ("gRPC sink, a flow", "us", "sinks", ("grpc", "pbflow.Records"), "CPU us per flow"),
)  # fmt: skip
#: Pods of the table ``agents``.
_PODS = 10_000


@dataclass(frozen=True)
class Chosen:
    """What goes to Kafka: ``layout`` of the sink, ``compression``, and the results' own words."""

    layout: str = "packed"
    compression: str = "lz4"

    def rows(self) -> Iterator[tuple[str, str, str, tuple[str, ...], str]]:
        """More of what ``_MEASURED`` is."""
        how = f"{self.layout}, {self.compression}"
        client = f"{self.layout}, confluent"
        yield f"kafka, {how}, a flow", "octets", "downstream", ("kafka", how), "octets per flow"
        yield "kafka sink, a flow", "us", "sinks", ("kafka", client), "CPU us per flow"
        records = ("clickhouse", f"{self.layout}, records")
        yield "ClickHouse, a flow", "octets", "downstream", records, "octets per flow"
        yield "ClickHouse, CPU, a flow", "us", "downstream", records, "us per flow"
        pairs = ("clickhouse", f"{self.layout}, pairs")
        yield "ClickHouse's pairs, a flow", "octets", "downstream", pairs, "octets per flow"


class Results:
    """The tables of the benchmarks, of every day, the newest of each. Raises NotMeasured."""

    def __init__(self, directory: Path = RESULTS) -> None:
        self._tables: dict[str, dict[str, Any]] = {}
        for path in sorted(directory.glob("*.json")):
            tables = json.loads(path.read_text())["tables"]
            self._tables |= {table["name"]: table for table in tables}

    def table(self, name: str) -> dict[str, Any]:
        """One by its name."""
        if name not in self._tables:
            raise NotMeasured(f"no table {name}: run `python -m benchmarks {name}`")
        return self._tables[name]

    def find(self, name: str, words: Sequence[str], column: str) -> tuple[float, str]:
        """
        A number and where it is from.

        Args:
            name: Of the table.
            words: The first cells of the row.
            column: Its heading.
        """
        table = self.table(name)
        at = table["columns"].index(column)
        for row in table["rows"]:
            if row[: len(words)] == list(words):
                where = table["machine"]
                return number(row[at]), f"{name}: {', '.join(words)}; {where['date']}"
        raise NotMeasured(f"no row {words} in {name}: run `python -m benchmarks {name}`")

    def agent(self, flows: float, column: str) -> tuple[float, str]:
        """Of the whole agent, between the rows of the table ``agent`` around so many flows."""
        table = self.table("agent")
        at = table["columns"].index(column)
        points = [
            (number(row[0]), number(row[at]) * _as_of_five_seconds(column, row[1]))
            for row in table["rows"]
        ]
        source = f"agent: {column}; {table['machine']['date']}"
        return _between(points, flows), source


def _as_of_five_seconds(column: str, interval: str) -> float:
    """CPU of one row is of drains further apart."""
    return number(interval) / 5 if "%" in column else 1


def _between(points: Sequence[tuple[float, float]], x: float) -> float:
    """Linear; below the first as the first, beyond the last as the last two go on."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1 or (x1, y1) == points[-1]:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    raise AssertionError


def number(cell: Any) -> float:
    """The first number of a cell: ``104 (99-106)`` is 104."""
    return float(str(cell).replace(",", "").split()[0])


class Cluster:
    """
    The inputs of one size, which remembers what it was asked for.

    Args:
        nodes: How many.
        inputs: All of them, by name.
    """

    def __init__(self, nodes: int, inputs: dict[str, Input]) -> None:
        self.nodes = nodes
        self._inputs = inputs
        self.used: dict[str, None] = {}

    def __getitem__(self, name: str) -> float:
        self.used[name] = None
        return self._inputs[name].value

    def one(self, beginning: str) -> float:
        """The only one whose name begins so."""
        (name,) = (name for name in self._inputs if name.startswith(beginning))
        return self[name]

    @property
    def pods(self) -> float:
        """Of all nodes."""
        return self.nodes * self["pods of a node"]

    @property
    def flows(self) -> float:
        """Records in a second, of all nodes."""
        return self.nodes * self["flow records of a node"]

    @property
    def changes(self) -> float:
        """Of pods and nodes in a second. A node's change is counted as a pod's."""
        heartbeats = self.nodes / self["time between changes of a node"]
        return self.pods * self["changes of a pod"] / 3600 + heartbeats

    def cores(self, microseconds_a_second: float) -> float:
        """With room."""
        return microseconds_a_second / 1e6 / (self["share of a core that is used"] / 100)

    @property
    def kafka_in(self) -> float:
        """MB/s from the agents."""
        return self.flows * self.one("kafka, ") / 1e6

    @property
    def brokers(self) -> float:
        """By octets, the replicas' too; one for each replica at least."""
        wanted = self.kafka_in * self["replicas of a partition"]
        wanted /= self["most of a broker, its replicas too"]
        return max(self["replicas of a partition"], math.ceil(wanted))

    @property
    def partitions(self) -> float:
        """By octets, and by what one thread of ClickHouse reads."""
        by_octets = self.kafka_in / self["most of a partition"]
        by_reader = self.cores(self.flows * self["ClickHouse, CPU, a flow"])
        return max(1, math.ceil(by_octets), math.ceil(by_reader))


@dataclass(frozen=True)
class Line:
    """One line of the output: what, in which unit, and how it is made of the inputs."""

    topic: str
    what: str
    unit: str
    formula: Callable[[Cluster], float]


def _told(topic: str, who: Callable[[Cluster], float]) -> Iterator[Line]:
    """What the API server has to do for those who list and watch all by themselves."""
    yield Line(topic, "watches", "", lambda c: 4 * who(c))
    yield Line(topic, "events sent", "1/s", lambda c: who(c) * c.changes)
    yield Line(topic, "events sent", "MB/s",
               lambda c: who(c) * c.changes * c["change, a watch"] / 1e6)  # fmt: skip
    yield Line(topic, "events sent", "cores",
               lambda c: c.cores(who(c) * c.changes * c["change, CPU, a watch"]))  # fmt: skip
    yield Line(topic, "all start: lists", "GB",
               lambda c: who(c) * c.pods * c["list, a pod"] / 1e9)  # fmt: skip
    yield Line(topic, "all start: lists", "CPU s",
               lambda c: who(c) * c.pods * c["list, CPU, a pod"] / 1e6)  # fmt: skip


def _api_server() -> Iterator[Line]:
    """Watches of pods, services, nodes and jobs; what changes are pods and nodes."""
    yield Line("API server", "pods", "", lambda c: c.pods)
    yield Line("API server", "changes", "1/s", lambda c: c.changes)
    yield from _told("API server, agents by themselves", lambda c: c.nodes)
    yield from _told("API server, with kube-cache", lambda c: c["replicas of kube-cache"])
    yield Line("kube-cache to agents", "changes", "MB/s",
               lambda c: c.nodes * c.changes * c["cache's change"] / 1e6)  # fmt: skip
    yield Line("kube-cache to agents", "all start", "GB",
               lambda c: c.nodes * c.pods * c["cache's list, a pod"] / 1e9)  # fmt: skip


def _agents() -> Iterator[Line]:
    def percent(c: Cluster) -> float:
        more = c["kafka sink, a flow"] - c["gRPC sink, a flow"] + c["kubernetes names, a flow"]
        drain = c["agent, CPU of a drain"] / c["time between drains"] / 10
        return drain + c["flow records of a node"] * more / 1e4

    def memory(c: Cluster) -> float:
        return c["agent, memory"] + c.pods * c["kubernetes, memory, a pod"] / 1e6

    def wire(c: Cluster) -> float:
        return c["flow records of a node"] * c.one("kafka, ") * 8 / 1e6

    yield Line("a node", "agent's CPU", "% of a core", percent)
    yield Line("a node", "kernel program's CPU", "% of a core",
               lambda c: c["packets of a node"] * c["kernel, a packet"] / 1e7)  # fmt: skip
    yield Line("a node", "agent's memory, all pods known", "MB", memory)
    yield Line("a node", "to Kafka", "Mbit/s", wire)
    yield Line("a node", "to Kafka", "% of its network",
               lambda c: wire(c) / c["network of a node"] / 10)  # fmt: skip


def _kafka() -> Iterator[Line]:
    def per_day(c: Cluster) -> float:
        return c.kafka_in * 86_400 * c["replicas of a partition"] / 1e3

    yield Line("Kafka", "records", "1/s", lambda c: c.flows)
    yield Line("Kafka", "in", "MB/s", lambda c: c.kafka_in)
    yield Line("Kafka", "between brokers", "MB/s",
               lambda c: c.kafka_in * (c["replicas of a partition"] - 1))  # fmt: skip
    yield Line("Kafka", "partitions", "", lambda c: c.partitions)
    yield Line("Kafka", "brokers", "", lambda c: c.brokers)
    yield Line("Kafka", "connections", "", lambda c: c.nodes * c.brokers)
    yield Line("Kafka", "disk in a day", "GB", per_day)
    yield Line("Kafka", "disk", "GB",
               lambda c: per_day(c) * c["retention in Kafka"] / 24)  # fmt: skip


def _collectors() -> Iterator[Line]:
    grpc, otlp = "collectors, pbflow over gRPC", "collectors, OTLP"
    yield Line(grpc, "in", "MB/s", lambda c: c.flows * c["pbflow over gRPC, a flow"] / 1e6)
    yield Line(grpc, "to receive", "cores",
               lambda c: c.cores(c.flows * c["CPU of a collector of pbflow, a flow"]))  # fmt: skip
    yield Line(otlp, "in", "MB/s", lambda c: c.flows * c["OTLP, a flow"] / 1e6)
    yield Line(otlp, "in, with gzip", "MB/s", lambda c: c.flows * c["OTLP, gzip, a flow"] / 1e6)
    yield Line(otlp, "to receive and count", "cores",
               lambda c: c.cores(c.flows * c["otelcol, a flow"]))  # fmt: skip


def _clickhouse() -> Iterator[Line]:
    def disk(c: Cluster, octets: str) -> float:
        return c.flows * 86_400 * c[octets] * c["replicas in ClickHouse"] / 1e9

    yield Line("ClickHouse", "rows in a day", "million", lambda c: c.flows * 86_400 / 1e6)
    yield Line("ClickHouse", "to insert", "cores",
               lambda c: c.cores(c.flows * c["ClickHouse, CPU, a flow"]))  # fmt: skip
    yield Line("ClickHouse", "records, disk in a day", "GB",
               lambda c: disk(c, "ClickHouse, a flow"))  # fmt: skip
    yield Line("ClickHouse", "records, disk", "GB",
               lambda c: disk(c, "ClickHouse, a flow") * c["retention in ClickHouse"])  # fmt: skip
    yield Line("ClickHouse", "pairs, disk in a day", "GB",
               lambda c: disk(c, "ClickHouse's pairs, a flow"))  # fmt: skip


def lines() -> list[Line]:
    """All of the output, top to bottom."""
    return [*_api_server(), *_agents(), *_kafka(), *_collectors(), *_clickhouse()]


def inputs(results: Results, assumed: dict[str, float], chosen: Chosen) -> dict[str, Input]:
    """
    By name, the measured ones first.

    Args:
        results: The benchmarks'.
        assumed: Values by option.
        chosen: What goes to Kafka.

    Raises:
        NotMeasured: If the results lack one.
    """
    memory, source = results.find("agents", ("one agent, owners: names",), "MB")
    made = [Input("kubernetes, memory, a pod", memory * 1e6 / _PODS, "octets", source)]
    for name, unit, table, words, column in (*_MEASURED, *chosen.rows()):
        made.append(Input(name, *_with(results.find(table, words, column), unit)))
    flows = assumed["flows"] * assumed["drain"]
    for name, unit, column, scale in (
        # A percent of 5 s is 50 ms.
        ("agent, CPU of a drain", "ms", "CPU % of one core", 50),
        ("agent, memory", "MB", "RSS MB", 1),
    ):
        value, source = results.agent(flows, column)
        made.append(Input(name, value * scale, unit, f"{source}, at {flows:,.0f} flows"))
    made += [Input(name, float(assumed[option]), unit) for option, _, unit, name in ASSUMED]
    return {one.name: one for one in made}


def _with(found: tuple[float, str], unit: str) -> tuple[float, str, str]:
    value, source = found
    return value, unit, source


def render(known: dict[str, Input], nodes: Sequence[int]) -> str:
    """Two tables in Markdown: what the model takes, and what it gives."""
    letters: dict[str, str] = {}
    text = ["| | input | value | measured where, or assumed |", "| --- | --- | ---: | --- |"]
    for one in known.values():
        kind = "M" if one.source else "A"
        letters[one.name] = f"{kind}{sum(key[0] == kind for key in letters.values()) + 1}"
        exact = f"{one.value:,.0f}" if one.value.is_integer() else shown(one.value)
        value = f"{exact} {one.unit}".strip()
        text.append(f"| {letters[one.name]} | {one.name} | {value} | {one.source or 'assumed'} |")
    heads = " | ".join(f"{count:,} nodes" for count in nodes)
    text += ["", f"| | | {heads} | of |", "| --- | --- |" + " ---: |" * len(nodes) + " --- |"]
    before = ""
    for line in lines():
        clusters = [Cluster(count, known) for count in nodes]
        values = " | ".join(
            f"{line.formula(one):,.0f}" if not line.unit else shown(line.formula(one))
            for one in clusters
        )
        used = " ".join(sorted((letters[name] for name in clusters[0].used), key=_order))
        what = f"{line.what}, {line.unit}" if line.unit else line.what
        topic, before = ("" if line.topic == before else f"**{line.topic}**"), line.topic
        text.append(f"| {topic} | {what} | {values} | {used} |")
    return "\n".join(text) + "\n"


def _order(letter: str) -> tuple[str, int]:
    return letter[0], int(letter[1:])


def shown(value: float) -> str:
    """Three digits: the inputs have no more."""
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(0, digits)}f}"


def write(path: Path, text: str) -> None:
    """Put it into a document, between its two marks."""
    head, _, rest = path.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, or put them into a document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--nodes", default=",".join(map(str, NODES)), help="counts, with commas")
    parser.add_argument("--layout", choices=("netobserv", "packed", "json"), default="packed")
    parser.add_argument("--compression", choices=("none", "lz4", "zstd"), default="lz4")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a document with the two marks")
    for option, value, unit, name in ASSUMED:
        parser.add_argument(
            f"--{option}", type=float, default=value, metavar=unit or "N", help=name
        )
    given = vars(parser.parse_args(arguments))
    assumed = {option: given[option.replace("-", "_")] for option, *_ in ASSUMED}
    words = given["nodes"].split(",")
    if not all(word.isdecimal() and int(word) for word in words) or min(assumed.values()) <= 0:
        parser.error("all numbers must be above zero, --nodes whole ones with commas between them")
    nodes = [int(word) for word in words]
    try:
        known = inputs(Results(), assumed, Chosen(given["layout"], given["compression"]))
    except NotMeasured as err:
        print(err, file=sys.stderr)
        return 1
    text = render(known, nodes)
    if given["write"]:
        write(given["write"], text)
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
