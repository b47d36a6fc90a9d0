"""What the documents say can be done and was measured."""

from __future__ import annotations

import json
import re
import shlex
from argparse import _SubParsersAction
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from exporter.batch.batch import Window
from exporter.cli import main, parser
from exporter.config import ENV_PREFIX, Config, load
from exporter.sinks.stdout.table import render
from exporter.sinks.table import CONFIGS
from exporter.testing import Row, make_batch
from tests.arch.source import ROOT
from tests.documents import DOCUMENTS, RUN, Block, anchors, blocks, links, name_of, prose

README = (ROOT / "README.md").read_text()
_DOCS = ROOT / "docs"
#: Where flags, keys and variables are ours: decisions tell of other programs, and of what was.
_OURS = [
    one for one in DOCUMENTS if not {"decisions", "reference"} & {*one.relative_to(ROOT).parts}
]
#: Flags of other programs that the text tells of.
_OTHERS = {"--no-install-recommends", "--port", "--help"}
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
_URL = re.compile(r"https://[a-z0-9.-]+\.[a-z]+(?:/[^\s]*)?")


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link is to a file or directory, and to a heading of it; others are URLs."""
    wrong = []
    for link in links(document):
        if ":" in link:
            wrong += [] if _URL.fullmatch(link) else [link]
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


def test_every_page_is_found_from_the_map() -> None:
    """Whoever follows links from docs/README.md comes to every page."""
    found, ahead = set(), [_DOCS / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in found:
            continue
        found.add(page)
        for link in (link for link in links(page) if ":" not in link):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.is_dir():
                ahead += sorted(target.glob("*.md"))
            elif target.suffix == ".md" and target.is_relative_to(_DOCS):
                ahead.append(target)
    assert {name_of(page) for page in _DOCS.glob("**/*.md")} == {name_of(page) for page in found}


def shell() -> list[Block]:
    """Blocks with commands."""
    return [b for one in DOCUMENTS for b in blocks(one) if b.language in ("sh", "console")]


def test_what_is_not_run_says_why() -> None:
    """Blocks that no test runs have prompts and a reason; those that are run have neither."""
    for block in (block for document in RUN for block in blocks(document)):
        if block.language == "console":
            assert len(block.said.get("not run", "")) > 20, block
            assert block.text.startswith(("$ ", "# ")), block
        elif block.language == "sh":
            assert "not run" not in block.said, block
            assert not block.text.startswith("$ "), block
            assert block.needs <= {"kafka", "collector", "otelcol", "agent"}, block
        assert len(block.said.get("not compared", "a long enough reason")) > 10, block


def test_commands_are_in_blocks_that_are_run() -> None:
    """No block of the pages that are run has our commands and another language, or none."""
    for document in RUN:
        for block in blocks(document):
            if re.search(r"^(\$ )?(\S*/)?flow-exporter ", block.text, re.MULTILINE):
                assert block.language in ("sh", "console", "text"), block


def commands() -> Iterator[Any]:
    """Arguments of every flow-exporter command in a block of shell."""
    for block in shell():
        for line in block.text.splitlines():
            first = re.split(r" [|>&]", line.removeprefix("$ "), maxsplit=1)[0]
            with suppress(ValueError):  # a line of something longer
                words = shlex.split(first, comments=True)
                if words and words[0].endswith("flow-exporter"):
                    yield pytest.param(block, words[1:], id=f"{block}-{' '.join(words[1:3])}")


@pytest.mark.parametrize(("block", "arguments"), list(commands()))
def test_commands_are_understood(
    block: Block,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each parses; and ``check`` finds nothing wrong with the configuration of each ``run``."""
    if {"--help", "--version"} & {*arguments}:
        with pytest.raises(SystemExit, match=r"^0$"):
            parser().parse_args(arguments)
        return
    assert callable(parser().parse_args(arguments).command), block
    if arguments[0] == "run":
        monkeypatch.chdir(tmp_path)
        for one in blocks(block.document):
            if name := one.said.get("file"):
                (tmp_path / name).write_text(one.text)
        authority = tmp_path / "ca.pem"
        authority.touch()
        given = [word.replace("/etc/ca.pem", str(authority)) for word in arguments[1:]]
        assert main(["check", *given]) == 0, capsys.readouterr().err


def flags() -> set[str]:
    """Every flag of every command."""
    (commands_,) = (a.choices for a in parser()._actions if isinstance(a, _SubParsersAction))
    every = [parser(), *commands_.values()]
    return {flag for one in every for action in one._actions for flag in action.option_strings}


@pytest.mark.parametrize("document", _OURS, ids=name_of)
def test_flags_exist(document: Path) -> None:
    """What is written as a flag of ours in the text is one."""
    spans = re.findall(r"`([^`]+)`", prose(document))
    # Others' commands in the text begin with their names: ``nfcapd -w flows``.
    ours = [s for s in spans if s.startswith(("--", "flow-exporter ", "run ", "observe ", "top "))]
    told = {flag for span in ours for flag in _FLAG.findall(span)}
    # Of other programs, which a block of the page runs.
    lines = [line for block in blocks(document) for line in block.text.splitlines()]
    others = {flag for one in lines if "flow-exporter" not in one for flag in _FLAG.findall(one)}
    assert told - flags() - _OTHERS - {"--from-", "--to-"} - others == set()


def section_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for one in get_args(annotation):
        yield from section_of(one)


def is_key(models: Sequence[type[BaseModel]], path: Sequence[str]) -> bool:
    """Whether one of the models has such a key."""
    first, *rest = path
    for model in models:
        for name, field in model.model_fields.items():
            if first in (name, field.alias):
                below = list(section_of(field.annotation))
                if not rest or not below or is_key(below, rest):
                    return True
    return False


_TOP = ("capture", "dedupe", "enrich", "metrics", "agent", "spool", "queue", "retry", "rotate")


@pytest.mark.parametrize("document", _OURS, ids=name_of)
def test_keys_and_variables_exist(document: Path) -> None:
    """Keys of the configuration that the text names exist, as do environment variables."""
    text = prose(document)
    keys = re.findall(rf"`((?:{'|'.join(_TOP)})(?:\.[a-z_]+)+)`", text)
    names = re.findall(rf"\b{ENV_PREFIX}([A-Z_]+)", document.read_text())
    paths = [key.split(".") for key in keys] + [name.lower().split("__") for name in names]
    assert [path for path in paths if not is_key([Config, *CONFIGS], path)] == []


def test_wrong_keys_are_found() -> None:
    """The rule is no rubber stamp."""
    assert is_key([Config], ["capture", "drain_interval"])
    assert not is_key([Config], ["capture", "drain_intervall"])
    assert is_key([Config, *CONFIGS], ["queue", "rows"])
    assert "--drain-interval" in flags()
    assert "--drain-intervall" not in flags()


def configurations() -> Iterator[Any]:
    """YAML blocks of the documents that are an agent's configuration."""
    for document in DOCUMENTS:
        for block in blocks(document):
            if block.language == "yaml" and is_configuration(block.text):
                yield pytest.param(block.text, id=str(block))


def is_configuration(text: str) -> bool:
    """Whether all of its keys are an agent's."""
    (first, *others) = yaml.safe_load_all(text)
    return not others and isinstance(first, dict) and set(first) <= set(Config.model_fields)


@pytest.mark.parametrize("text", list(configurations()))
def test_configurations_are_valid(text: str, tmp_path: Path) -> None:
    """Each loads, but for the files that it names."""
    authority = tmp_path / "ca.pem"
    authority.touch()
    file = tmp_path / "config.yaml"
    file.write_text(re.sub(r"/etc/[a-z/-]+\.pem", str(authority), text))
    assert load(file, {}, {}).model_fields_set >= set(yaml.safe_load(text)) - {"sinks"}


@pytest.mark.parametrize("name", ["flows.svg", "flows-dark.svg"])
def test_the_picture_is_of_this_table(name: str) -> None:
    """It has the headings that the table has today, and asks no server for a font."""
    shown = (_DOCS / name).read_text()
    batch = replace(make_batch(Row()), window=Window(1, 2_000_000_001))
    headings = [str(column.header) for column in render(batch, 2).columns]
    assert [heading for heading in headings if heading.replace(" ", "&#160;") not in shown] == []
    assert "url(http" not in shown


def test_make_test_is_there() -> None:
    """What no test can run, being the whole suite, is a target of the Makefile."""
    assert re.search(r"^test: test-setup lint$", (ROOT / "Makefile").read_text(), re.MULTILINE)


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
        f"{sink}, {variant}": [f"{micros} µs", rate, octets, f"{memory} MB"]
        for sink, variant, micros, rate, memory, octets in tables["sinks"]
    }
    rows = cells("sink | CPU per flow")
    assert len(rows) >= 8
    for name, *numbers in rows:
        assert numbers == measured[name]
    spool = {row[0]: float(row[1]) for row in tables["spool"]}
    assert f"adds {spool['delivered at once']} µs" in README
    kept = spool["flow map emptied when the batch is on disk"]
    added = kept - spool["flow map read and emptied at once"]
    assert f"for {added:.3f} µs more" in README


#: Flows per second and core that each sink is to do at least.
TARGETS = {
    "grpc, pbflow.Records": 500_000,
    "kafka, packed, kafka-python": 500_000,
    "kafka, packed, confluent": 500_000,
    "kafka, netobserv, kafka-python": 50_000,
    "kafka, netobserv, confluent": 400_000,
    "ipfix, udp, 1472 octets": 500_000,
    "ipfix, tcp": 500_000,
    "otlp, logs, gRPC": 200_000,
    "otlp, logs, HTTP": 200_000,
    "file, Parquet, text addresses, zstd": 500_000,
}


def test_sinks_are_as_fast_as_they_are_to_be() -> None:
    """In the newest results; the one that is slower with compression is in the README, too."""
    rates = {f"{row[0]}, {row[1]}": int(row[3].replace(",", "")) for row in newest()["sinks"]}
    assert [name for name, least in TARGETS.items() if rates[name] < least] == []
    assert {"otlp, logs, gRPC, gzip"} <= {row[0] for row in cells("sink | CPU per flow")}


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
