"""
What enrichment adds: CPU time per flow of a drain of 100,000 with few and with many addresses.

Each ``benchmarks/enrich_*.py`` says which enrichers there are, as ``enrichers()``. The first drain
of a new agent is told apart from the later ones, which find what they need in memory.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.bench_spool import batch as flows
from benchmarks.report import Table, median
from exporter.abi.layout import FLOW_KEY
from exporter.batch.batch import IPV4_PREFIX, FlowBatch, Window
from exporter.enrich.base import AddressSource, Enricher
from exporter.enrich.ends import EndEnricher

FLOWS = 100_000
DISTINCT = (1_000, 10_000, 100_000)
RUNS = 9
_INTERVAL = 5 * 10**9

#: Makes one, for a number of distinct addresses: not opened yet.
Maker = Callable[[int], Enricher | AddressSource]


def run() -> Table:
    """CPU microseconds per flow by enricher, and of all of them in one pipeline."""
    table = Table(
        "enrich",
        f"CPU microseconds per flow that enrichment adds, {FLOWS:,} flows per drain, median",
        ("enricher", "distinct addresses", "later drains", "first drain", "longest drain, ms"),
    )
    makers = enrichers()
    # Of an enricher that is measured in several ways an agent has one: the last.
    one_each = {name.partition(",")[0]: maker for name, maker in makers}
    for name, some in (*((name, [one]) for name, one in makers), ("all", list(one_each.values()))):
        for distinct in DISTINCT:
            table.add(name, f"{distinct:,}", *_measure(some, distinct))
    return table


def enrichers() -> list[tuple[str, Maker]]:
    """All that there are, after what finding the distinct addresses costs by itself."""
    found: list[tuple[str, Maker]] = [("distinct addresses", lambda _: EndEnricher())]
    for path in sorted(Path(__file__).parent.glob("enrich_*.py")):
        found += importlib.import_module(f"benchmarks.{path.stem}").enrichers()
    return found


def batch(distinct: int, seed: int) -> FlowBatch:
    """Flows between so many addresses, a fourth of them IPv6: 10.0.0.0/8 and 2001:db8::/32."""
    rng = np.random.default_rng(seed)
    one = flows(seed)
    pool = np.zeros((distinct, 16), np.uint8)
    pool[:, 12:] = np.arange(distinct, dtype=">u4").view(np.uint8).reshape(-1, 4)
    ipv4 = distinct - distinct // 4
    pool[:ipv4, :12] = np.frombuffer(IPV4_PREFIX, np.uint8)
    pool[:ipv4, 12] = 10
    pool[ipv4:, :4] = (0x20, 0x01, 0x0D, 0xB8)
    key = np.zeros(FLOWS, FLOW_KEY)
    key[:] = one.key
    which = rng.random(FLOWS) < ipv4 / distinct
    for end in ("src_addr", "dst_addr"):
        chosen = np.where(which, rng.integers(0, ipv4, FLOWS), rng.integers(ipv4, distinct, FLOWS))
        key[end] = pool[chosen]
    key["src_port"] = rng.integers(32_768, 61_000, FLOWS)
    key["dst_port"] = rng.choice([53, 80, 443, 5432, 8080], FLOWS)
    key["ip_protocol"] = np.where(key["dst_port"] == 53, 17, 6)
    # Names and sockets are known as of now.
    window = Window(time.time_ns() - _INTERVAL, time.time_ns())
    later = np.uint64(window.start_ns - one.window.start_ns)
    return replace(
        one,
        key=key,
        flow_start_ns=one.flow_start_ns + later,
        flow_end_ns=one.flow_end_ns + later,
        window=window,
    )


def _measure(makers: list[Maker], distinct: int) -> tuple[str, str, str]:
    """Median of later drains and the first one in us per flow, and the longest in ms."""
    stages: list[Enricher] = []
    sources: list[AddressSource] = []
    for maker in makers:
        made = maker(distinct)
        if isinstance(made, AddressSource):
            sources.append(made)
        else:
            stages.append(made)
    if sources:
        stages.append(EndEnricher(*sources))
    for stage in stages:
        stage.open()
    try:
        batches = [batch(distinct, seed) for seed in range(RUNS + 1)]
        times = [_drain(stages, one) for one in batches]
    finally:
        for stage in stages:
            stage.close()
    cpu, wall = [spent for spent, _ in times], [took for _, took in times]
    later = median(cpu[1:]) / FLOWS * 1e6
    return f"{later:.3f}", f"{cpu[0] / FLOWS * 1e6:.3f}", f"{1000 * max(wall):.0f}"


def _drain(stages: list[Enricher], one: FlowBatch) -> tuple[float, float]:
    rows = len(one)
    cpu, wall = time.thread_time(), time.perf_counter()
    for stage in stages:
        one = stage.apply(one)
    spent = time.thread_time() - cpu, time.perf_counter() - wall
    assert len(one) == rows
    return spent
