"""
What an enricher takes before it is asked: memory, and the time until it can answer.

Each in a process of its own, which has seen a drain of 100,000 flows between 10,000 addresses
before, so that what every agent needs for one is not counted. Memory is what is resident three
drains later, less what was before; CPU time is of making and opening it, the files that it reads
and the libraries that it imports included. Kubernetes is in ``bench_agents``, with a real API
server.
"""

from __future__ import annotations

import gc
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import enrich_networks
from benchmarks.bench_enrich import batch, enrichers
from benchmarks.report import Table, median
from exporter.enrich.base import AddressSource, Enricher
from exporter.enrich.ends import EndEnricher
from exporter.enrich.geoip.config import GeoIpConfig
from exporter.enrich.geoip.source import sources
from exporter.enrich.labels import DerivedConfig, Labels
from exporter.enrich.networks.config import NetworksConfig
from exporter.enrich.networks.source import NetworkNames

DISTINCT, RUNS, DRAINS = 10_000, 3, 3
_ROOT = Path(__file__).parents[1]
#: Measured elsewhere, or made of something that an agent has in another form.
_ELSEWHERE = ("distinct addresses", "kubernetes")


def _labels(value: str) -> Callable[[], Enricher]:
    return lambda: Labels({}, (DerivedConfig(name="x", value=value),), ())


#: Of what is imported when the first of them is made.
_LIBRARIES: dict[str, Callable[[], object]] = {
    "an expression, with its library": _labels('destination.port == 53 ? "dns" : ""'),
    "an expression with a pattern": _labels('network.transport.matches("^t") ? "t" : ""'),
    "gRPC, of a shared cache's agents": lambda: importlib.import_module("grpc"),
}


def run() -> Table:
    """MB and seconds of each."""
    table = Table(
        "footprint",
        f"what an enricher takes, in a process of its own, median of {RUNS}",
        ("what", "MB", "CPU s to begin"),
    )
    names = [name for name, _ in enrichers() if name not in _ELSEWHERE]
    for name in (*names, *_LIBRARIES):
        measured = [_child(name) for _ in range(RUNS)]
        memory, cpu = zip(*measured, strict=True)
        # What an earlier drain had and gives back is not the enricher's.
        table.add(name, f"{max(median(memory), 0):.1f}", f"{median(cpu):.2f}")
    return table


def _child(name: str) -> tuple[float, float]:
    # What writes the files has memory of its own, which is not to be reused for what reads them.
    paths = [*enrich_networks.networks().files, *enrich_networks.geoip().databases]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_footprint", name, *map(str, paths)],
        cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    memory, cpu = json.loads(done.stdout)
    return memory, cpu


def _makers(table: Path, database: Path) -> dict[str, Callable[[], object]]:
    """All, with the files that were written for them."""
    found: dict[str, Callable[[], object]] = {
        name: partial(maker, DISTINCT) for name, maker in enrichers()
    }
    for name in found:
        if name.startswith("networks"):
            found[name] = lambda: NetworkNames(NetworksConfig(files=(table,)))
        elif name.startswith("geoip"):
            found[name] = lambda: sources(GeoIpConfig(databases=(database,)))[0]
    return found | _LIBRARIES


def _measure(name: str, table: Path, database: Path) -> tuple[float, float]:
    """MB and seconds of one, in this process."""
    ends, drains = EndEnricher(), [batch(DISTINCT, seed) for seed in range(DRAINS)]
    for one in drains:
        ends.apply(one)
    maker = _makers(table, database)[name]
    gc.collect()
    before, began = _resident(), time.process_time()
    made: Any = maker()
    stage = EndEnricher(made) if isinstance(made, AddressSource) else made
    if not isinstance(stage, ModuleType):
        stage.open()
    cpu = time.process_time() - began
    if not isinstance(stage, ModuleType):
        for one in drains:
            assert len(stage.apply(one)) == len(one)
    gc.collect()
    memory = _resident() - before
    if not isinstance(stage, ModuleType):
        stage.close()
    return memory, cpu


def _resident() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], *map(Path, sys.argv[2:]))))
