"""What the documents say can be done and was measured."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.cli import main, parser
from exporter.config import Config, load
from tests.arch.source import ROOT

DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("b*/README.md")], key=str
)
README = (ROOT / "README.md").read_text()
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name_of(document: Path) -> str:
    """For the test's name."""
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link is to a file or directory of the project."""
    links = [link for link in _LINK.findall(document.read_text()) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


def commands() -> Iterator[tuple[str, list[str]]]:
    """Arguments of every flow-exporter command in a block of shell."""
    for document in DOCUMENTS:
        for language, block in _BLOCK.findall(document.read_text()):
            for line in block.splitlines() if language == "sh" else ():
                words = shlex.split(line.partition(" | ")[0], comments=True)
                if words and words[0].endswith("flow-exporter"):
                    yield name_of(document), words[1:]


@pytest.mark.parametrize(("document", "arguments"), list(commands()))
def test_commands_are_understood(
    document: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each parses; and ``check`` finds nothing wrong with the configuration of each ``run``."""
    assert callable(parser().parse_args(arguments).command), document
    if arguments[0] == "run":
        authority = tmp_path / "ca.pem"
        authority.touch()
        given = [word.replace("/etc/ca.pem", str(authority)) for word in arguments[1:]]
        assert main(["check", *given]) == 0, capsys.readouterr().err


def test_the_example_configuration_is_valid(tmp_path: Path) -> None:
    """The guide's YAML loads, but for the certificate that it names."""
    blocks = _BLOCK.findall((ROOT / "docs" / "guide.md").read_text())
    (text,) = [block for language, block in blocks if language == "yaml" and "sinks:" in block]
    authority = tmp_path / "ca.pem"
    authority.touch()
    file = tmp_path / "config.yaml"
    file.write_text(text.replace("/etc/flow-exporter/ca.pem", str(authority)))
    config = load(file, {}, {})
    assert [sink.type for sink in config.sinks] == ["grpc"]
    assert set(yaml.safe_load(text)) <= set(type(config).model_fields)


def configurations() -> Iterator[Any]:
    """YAML blocks of the documents that are an agent's configuration."""
    for document in DOCUMENTS:
        for language, block in _BLOCK.findall(document.read_text()):
            if language == "yaml" and set(yaml.safe_load(block)) <= set(Config.model_fields):
                yield pytest.param(block, id=f"{name_of(document)}:{block.split(':')[0]}")


@pytest.mark.parametrize("text", list(configurations()))
def test_configurations_are_valid(text: str, tmp_path: Path) -> None:
    """Each loads, but for the files that it names."""
    authority = tmp_path / "ca.pem"
    authority.touch()
    file = tmp_path / "config.yaml"
    file.write_text(re.sub(r"/etc/[a-z/-]+\.pem", str(authority), text))
    assert load(file, {}, {}).model_fields_set >= set(yaml.safe_load(text)) - {"sinks"}


def cells(heading: str) -> list[list[str]]:
    """The README table whose header row holds a text: its rows, units taken off."""
    lines = README.splitlines()
    start = next(number for number, line in enumerate(lines) if heading in line)
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def newest() -> dict[str, list[list[str]]]:
    """The newest results: rows of each table, wherever it was last measured."""
    paths = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    tables = [table for path in paths for table in json.loads(path.read_text())["tables"]]
    return {table["name"]: table["rows"] for table in tables}


def measured() -> dict[str, dict[str, list[str]]]:
    """The newest results: rows by table and first cell."""
    return {name: {row[0]: row[1:] for row in rows} for name, rows in newest().items()}


def median_of(cell: str) -> str:
    """``93 (92-95)`` without its range."""
    return cell.partition(" ")[0]


def test_the_kernel_numbers_are_those_measured() -> None:
    """Each cell of the README's table is the newest result's median."""
    results = measured()["kernel"]
    rows = cells("empty program")
    assert len(rows) >= 4
    for packet, *numbers in rows:
        result = results[packet.replace("not IP (ARP)", "ARP")]
        assert numbers == [f"{median_of(cell)} ns" for cell in result]


def test_the_agent_numbers_are_those_measured() -> None:
    """Each cell of the README's table is the newest result's median."""
    results = measured()
    rows = cells("map to socket")
    assert len(rows) == 4
    for flows, socket, agent, memory in rows:
        assert socket == f"{median_of(results['pipeline'][flows][4])} µs"
        _, micros, core, resident = results["agent"][flows]
        assert float(agent.partition(" ")[0]) == float(micros)
        assert "%" not in agent or f"({core} % of a core)" in agent
        assert memory == f"{resident} MB"


def test_the_numbers_in_the_text_are_those_measured() -> None:
    """The kernel's nanoseconds, the pipeline's microseconds at 100,000 flows, and start-up."""
    results = measured()
    assert f"takes {median_of(results['kernel']['IPv4 TCP'][1])} ns per packet" in README
    micros = float(median_of(results["pipeline"]["100,000"][4]))
    assert f"costs\n  {micros:.1f} µs" in README
    assert f"takes {median_of(results['startup']['stdout'][0])} s" in README


def test_the_runtime_numbers_are_those_measured() -> None:
    """Ours beside bcc's, from the newest result's tables of maps, the ring and loading."""
    tables = newest()
    maps = {(row[0], row[1]): [median_of(cell) for cell in row[2:4]] for row in tables["maps"]}
    ring = {row[0]: row[1] for row in tables["ring"]}
    load = {(row[0], row[1]): [median_of(cell) for cell in row[3:5]] for row in tables["load"]}
    take, batches, single, read, small = (row[1:] for row in cells("exporter.ebpf | bcc"))
    operation = "look up, delete and add up, in batches"
    for shown, key in (
        (take, f"percpu_hash: {operation}"),
        (batches, "hash: update, in batches"),
        (single, "hash: update, one by one"),
    ):
        ours, bcc = maps[key, "100,000"]
        assert shown == [f"{ours} ns an entry", f"{bcc} ns"]
    assert read == [
        f"{ring['ours: read(), a field']} records/s",
        ring["bcc: callback, event() and a field"],
    ]
    loaders = ("ours, libbpf", "bcc's Python API")
    assert small == [
        f"{ms} ms, {mb} MB" for ms, mb in (load["counter", loader] for loader in loaders)
    ]


def test_the_sinks_numbers_are_those_measured() -> None:
    """Each row of the README's table, and what a spool adds."""
    tables = newest()
    measured = {
        f"{sink}, {variant}": [f"{micros} µs", rate, octets]
        for sink, variant, micros, rate, _, octets in tables["sinks"]
    }
    rows = cells("sink | CPU per flow")
    assert len(rows) >= 8
    for name, *numbers in rows:
        assert numbers == measured[name]
    added = {row[0]: row[1] for row in tables["spool"]}["delivered at once"]
    assert f"adds {added} µs" in README


def test_the_enrichment_numbers_are_those_measured() -> None:
    """Each row of the README's table, and the longest drains."""
    found: dict[str, list[str]] = {}
    for name, _, later, _, longest in newest()["enrich"]:
        found.setdefault(name, []).append(f"{later} µs")
        found.setdefault(f"{name}, longest", []).append(longest)
    rows = cells("enricher | 1,000 | 10,000")
    assert len(rows) >= 8
    for name, *numbers in rows:
        assert numbers == found[name]
    _, middle, most = found["all, longest"]
    text = " ".join(README.split())
    assert f"took {middle} ms longer for it with 10,000 addresses, and {most} ms with" in text
