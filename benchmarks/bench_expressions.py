"""
What an expression costs for a drain of 100,000 flows between hosts with 10,000 different names.

CPU time of the thread; the names are texts that enrichment has added. New texts are others in each
drain: an expression remembers what it was asked.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from benchmarks.bench_enrich import FLOWS, RUNS, batch
from benchmarks.report import Table, median
from exporter.batch.attributes import Attribute, Entities
from exporter.batch.batch import FlowBatch
from exporter.enrich.expression.fields import fields
from exporter.enrich.expression.program import Program
from exporter.exclude.config import ExclusionConfig
from exporter.exclude.excluder import Excluder

TEXTS = 10_000
_NAME = Attribute("source.domain", "")
_FIELDS = fields((_NAME,))

#: Expression -> whether its texts are new in each drain.
CASES = {
    "destination.port == 53": False,
    'cidr(source.address, "10.0.0.0/8")': False,
    'source.domain == "host-77.example.com"': False,
    'source.domain.startsWith("host-7")': False,
    'source.domain.matches("^host-[0-9]+7[.]")': False,
    'source.domain.matches("^host-[0-9]+8[.]")': True,
    'source.domain + "-" + network.transport': False,
}
_EXCLUDED = {
    "dns": "destination.port == 53",
    "one-net": 'cidr(source.address, "10.0.0.0/28")',
    "sevens": 'source.domain.startsWith("host-77")',
}


def run() -> Table:
    """Microseconds per flow of each, and of exclusions that drop rows."""
    table = Table(
        "expressions",
        f"CPU microseconds per flow of an expression, {FLOWS:,} flows, {TEXTS:,} texts, median",
        ("expression", "us per flow"),
    )
    known = [_named(seed, 0) for seed in range(RUNS)]
    new = [_named(seed, seed * TEXTS) for seed in range(RUNS)]
    for text, is_new in CASES.items():
        program = Program(text, _FIELDS)
        drains = new if is_new else known
        program.evaluate(drains[0])
        times = []
        for one in drains[1:]:
            began = time.thread_time()
            program.evaluate(one)
            times.append(time.thread_time() - began)
        what = f"{text}, new texts" if is_new else text
        table.add(what, f"{median(times) / FLOWS * 1e6:.3f}")
    table.add("three exclusions that drop rows", f"{_exclusions(known):.3f}")
    return table


def _exclusions(drains: list[FlowBatch]) -> float:
    excluder = Excluder(
        tuple(ExclusionConfig(name=name, when=when) for name, when in _EXCLUDED.items()), (_NAME,)
    )
    times = []
    for one in drains:
        began = time.thread_time()
        left, _ = excluder.apply(one)
        times.append(time.thread_time() - began)
        assert 0 < len(left) < len(one)
    return median(times[1:]) / FLOWS * 1e6


def _named(seed: int, first: int) -> FlowBatch:
    """A drain whose sources have names."""
    one = batch(TEXTS, seed)
    rows = np.random.default_rng(seed).integers(1, TEXTS + 1, len(one), np.uint32)
    names = (None, *(f"host-{first + number}.example.com" for number in range(TEXTS)))
    return replace(one, entities=(Entities(rows, {_NAME: names}),))
