"""The walkthroughs of docs/contributing: their examples work, and what they name is there."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import sys
from types import ModuleType

import orjson
import pytest

from exporter.enrich.ends import EndEnricher
from exporter.enrich.table import Enrichment
from exporter.fanout.config import QueueConfig, RetryConfig
from exporter.fanout.queue import BatchQueue
from exporter.fanout.worker import SinkWorker
from exporter.sinks.encodings.jsonl import SHAPES, encode
from exporter.testing import Row, make_batch
from tests.documents import ROOT
from tests.patience import wait_until

_PAGE = ROOT / "docs" / "contributing" / "README.md"
#: `path` and, in brackets, words that are in it.
_STEP = re.compile(r"`((?:[\w.]+/)+[\w.]*)`(?:\s+\(((?:`\w+`(?:, | or )?)+)\))?")


def example(name: str) -> ModuleType:
    """One of them, imported as it is."""
    path = _PAGE.parent / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Pydantic looks up annotations by the module's name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_destination_delivers() -> None:
    """Each flow arrives at a real UDP listener, and the worker's books balance."""
    made = example("udp_lines")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(30)
        config = made.UdpLinesConfig(target=f"127.0.0.1:{listener.getsockname()[1]}")
        queue = BatchQueue(QueueConfig())
        worker = SinkWorker(made.UdpLinesSink("lines", config), queue, RetryConfig())
        worker.start()
        try:
            queue.put(make_batch(*(Row(src_port=port) for port in (1, 2, 3))))
            ports = [json.loads(listener.recv(65536))["source"]["port"] for _ in range(3)]
            wait_until(lambda: queue.counts().delivered.flows == 3, "all of it is delivered")
        finally:
            worker.stop(10)
    assert ports == [1, 2, 3]
    assert queue.counts().pending.flows == 0


def test_the_enricher_enriches() -> None:
    """Both ends have their floor in JSON; who is elsewhere has none."""
    made = example("floors")
    enrichment = Enrichment([EndEnricher(made.Floors())])
    batch = enrichment.apply(
        make_batch(
            Row(src_addr="10.20.3.7", dst_addr="10.20.0.9"),
            Row(src_addr="10.21.3.7", dst_addr="2001:db8::a14:307"),
        )
    )
    one, other = (orjson.loads(line) for line in encode(batch, SHAPES["otel"]).splitlines())
    assert one["source"]["building"] == {"floor": 3}
    assert one["destination"]["building"] == {"floor": 0}
    assert "building" not in other["source"]
    assert "building" not in other["destination"]


def steps() -> list[tuple[str, tuple[str, ...]]]:
    """Files that the walkthroughs name, and words that are to be in each."""
    found = _STEP.findall(_PAGE.read_text())
    return [(path, tuple(re.findall(r"\w+", words.replace(" or ", " ")))) for path, words in found]


@pytest.mark.parametrize(("path", "words"), steps())
def test_what_a_walkthrough_names_is_there(path: str, words: tuple[str, ...]) -> None:
    """The file exists, and has each word in it."""
    place = ROOT / path
    assert place.exists()
    text = place.read_text() if place.is_file() else ""
    assert [word for word in words if not re.search(rf"\b{word}\b", text)] == []


def test_the_walkthroughs_are_long_enough_to_be_read() -> None:
    """The pattern above finds them: each of the four has files and words."""
    assert len(steps()) > 40
    assert sum(bool(words) for _, words in steps()) > 20
