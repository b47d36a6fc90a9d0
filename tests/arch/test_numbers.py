"""What documents say of costs is what the benchmarks last measured, to the digit."""

from __future__ import annotations

import pytest

from tests.arch.source import ROOT
from tests.arch.test_documents import median_of, newest

PAGES = ROOT / "docs" / "enrich"
TABLES = newest()


def page(name: str) -> str:
    return " ".join((PAGES / f"{name}.md").read_text().split())


def row(table: str, beginning: str) -> list[str]:
    """Medians of the row whose first cell begins so."""
    (found,) = [one for one in TABLES[table] if str(one[0]).startswith(beginning)]
    return [median_of(str(cell)) for cell in found]


def _enrich(name: str, column: int = 2) -> list[str]:
    """With 1,000, 10,000 and 100,000 addresses."""
    return [str(one[column]) for one in TABLES["enrich"] if one[0] == name]


@pytest.mark.parametrize(
    ("words", "measured"),
    [
        ("`names`, passive", "names, passive"),
        ("`names`, reverse", "names, reverse"),
        ("`networks`, 40,000 prefixes", "networks"),
        ("`geoip`, 6,016 cities", "geoip"),
        ("`processes`, 10,000 sockets", "processes"),
        ("`identity.initiator`", "initiator"),
        ("`derive` or `exclude`, for the first expression", "an expression, with"),
        ("the same with a pattern", "an expression with a pattern"),
        ("gRPC, for a shared `kubernetes` cache", "gRPC"),
    ],
)
def test_memory_and_start(words: str, measured: str) -> None:
    """Each row of the table."""
    _, memory, cpu = row("footprint", measured)
    assert f"| {words} | {memory} | {cpu} |" in page("README")


def test_what_takes_nothing() -> None:
    """It is said of these five, and true of them."""
    for name in ("community_id", "flow_id", "labels", "services", "cloud"):
        found = next(one for one in TABLES["footprint"] if one[0] == name)
        assert (float(found[1]) < 0.1, found[2]) == (True, "0.00"), name


def test_memory_elsewhere() -> None:
    """On the pages of those that take it."""
    (_, initiator, _), (_, networks, took) = row("footprint", "initiator"), row("footprint", "netw")
    first, both = (row("footprint", f"an expression{rest}")[1] for rest in (",", " w"))
    assert f"takes [{initiator} MB]" in page("identity")
    assert f"take [{took} s and {networks} MB]" in page("networks")
    assert f"[{first} MB](README.md#what-it-takes) for CEL's" in page("attributes")
    assert f"{float(both) - float(first):.0f} MB for RE2's" in page("attributes")


def test_kubernetes() -> None:
    """An agent's memory and list; the API server with and without a cache; flows."""
    text = page("kubernetes")
    _, memory, cpu, _ = row("agents", "one agent, owners: names")
    _, watching, _, _ = row("agents", "one agent, owners: watch")
    assert f"**Memory**: {memory} MB more" in text
    assert f"(`owners: watch`) {watching} MB" in text
    assert f"**Listing** all: {cpu} s of CPU" in text
    assert f"takes [{memory} MB](kubernetes.md" in page("README")
    _, octets, seconds, lists = row("agents", "the API server, 20 agents by themselves")
    assert f"{lists} list requests and cost it {seconds} s of CPU and {octets} MB" in text
    _, octets, seconds, lists = row("agents", "the API server, 20 agents through")
    assert f"it was {lists} requests, {seconds} s and {octets} MB." in text
    _, octets, seconds, _ = row("agents", "the cache")
    assert f"The cache took {octets} MB and {seconds} s of CPU" in text
    assert f"gRPC takes {row('footprint', 'gRPC')[1]} MB of each agent" in text
    few, some, many = _enrich("kubernetes")
    assert f"{few} µs of CPU per flow with 1,000" in text
    assert f"{some} with 10,000, {many} with 100,000" in text


def test_processes() -> None:
    """In the kernel, of sockets, of looks, and of flows."""
    text = page("processes")
    _, without, with_ = row("processes", "ns per packet")
    assert f"({with_} ns with and {without} ns without)" in text
    _, without, with_ = row("processes", "ns per first")
    assert f"{with_} ns instead of {without}" in text
    _, without, with_ = row("processes", "us to make")
    assert f"takes {with_} µs instead of {without}" in text
    told, looked = row("processes", "us to note a socket")[2], row("processes", "us to note one")[2]
    assert f"takes {told} µs in the agent, and {looked} where" in text
    for name, what in (("processes", "who holds sockets"), ("interfaces", "who lives")):
        beginning = f"ms to look {what}"
        milliseconds = row("processes", beginning)[2]
        (whole,) = [str(one[0]) for one in TABLES["processes"] if one[0].startswith(beginning)]
        count = whole.rpartition(", ")[2]
        assert f"took {milliseconds} ms" in page(name)
        assert f"with {count}" in page(name)
    _, some, many = _enrich("processes")
    assert f"{some} µs of CPU time a flow" in text
    assert f"{many} µs of 100,000" in text


def test_expressions() -> None:
    """Each row of the table."""
    rows = {
        "`destination.port == 53`": "destination.port",
        '`cidr(source.address, "10.0.0.0/8")`': "cidr",
        "a text compared": "source.domain ==",
        "`startsWith`": "source.domain.startsWith",
        "`matches`, texts seen before": 'source.domain.matches("^host-[0-9]+7',
        "`matches`, 10,000 new texts in one drain": 'source.domain.matches("^host-[0-9]+8',
        "two columns of text joined": "source.domain +",
        "three exclusions that drop rows": "three exclusions",
    }
    found = {
        words: next(one[1] for one in TABLES["expressions"] if str(one[0]).startswith(beginning))
        for words, beginning in rows.items()
    }
    found["`labels`, any number"] = _enrich("labels")[1]
    found["three derived labels"] = _enrich("labels, three derived")[1]
    for words, micros in found.items():
        assert f"| {words} | {micros} |" in page("attributes")


def test_identity_and_networks() -> None:
    """Microseconds a flow; the first drain of many addresses."""
    for name in ("community_id", "flow_id", "initiator"):
        assert f"| `{name}` | {_enrich(name)[1]} |" in page("identity")
    text = page("networks")
    for words, name in (
        ("networks, 40,000 prefixes", "networks, 40,000 prefixes"),
        ("GeoIP, cities", "geoip, cities: a record for 16 or 65,536 addresses"),
        ("services", "services"),
        ("`agent.cloud`", "cloud"),
    ):
        assert f"| {words} | {' | '.join(_enrich(name))} |" in text
    longest = _enrich("geoip, cities: a record for 16 or 65,536 addresses", 4)[2]
    assert f"100,000 addresses takes {longest} ms with GeoIP" in text
    assert f"({_enrich('distinct addresses')[1]} µs with 10,000)" in text


def test_names() -> None:
    """Packets, answers and flows."""
    text = page("names")
    _, plain, with_ = row("dns", "ns per UDP")
    assert abs(float(plain) - float(with_)) < 4
    assert f"costs what it cost ({plain} ns)" in text
    _, without, with_ = row("dns", "ns per DNS")
    assert f"a DNS packet {with_} ns instead of {without}" in text
    one, many = row("dns", "us per answer of 1 ")[2], row("dns", "us per answer of 20 ")[2]
    assert f"{one} µs of CPU with one address, {many} with twenty" in text
    _, some, most = _enrich("names, passive")
    assert f"a flow {some} µs with 10,000" in text
    assert f"{most} with 100,000" in text


@pytest.mark.parametrize(
    ("words", "measured"),
    [
        ("JSON, `otel`", "JSON, otel"),
        ("JSON, `netobserv`", "JSON, netobserv"),
        ("`key=value`", "key=value"),
        ("OTLP logs", "OTLP logs"),
        ("Parquet's journal", "Parquet's journal"),
        ("sums of Prometheus and OTLP, by both namespaces", "series, by namespaces"),
        ("the same by both names, of which 2,000 have room", "series, by names"),
    ],
)
def test_outputs(words: str, measured: str) -> None:
    """Encoding without, with new entities, and with those of the batch before."""
    (found,) = [one for one in TABLES["outputs"] if one[0] == f"{measured}, 10,000"]
    _, without, new, _, same, _ = found
    assert f"| {words} | {without} | {new} | {same} |" in page("outputs")


def test_counting_once() -> None:
    """CPU time and memory of ClickHouse."""
    text = " ".join((ROOT / "docs" / "downstream" / "README.md").read_text().split())
    _, cpu, memory = row("counted", "counted_once")
    assert f"took {cpu} s of CPU time and {memory} MB" in text
