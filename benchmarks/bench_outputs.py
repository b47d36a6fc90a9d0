"""What it costs sinks to write what enrichment added: CPU time of encoding 100,000 flows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.report import Table
from exporter.batch.attributes import SIDES, EndAttribute, Entities
from exporter.batch.batch import FlowBatch, Window
from exporter.sinks.encodings import jsonl, keyvalue
from exporter.sinks.encodings.series import Series
from exporter.sinks.file.config import FileConfig
from exporter.sinks.file.encode import encoder, messages
from exporter.sinks.otlp.encode import Envelope, Limits, encode_logs
from exporter.testing import Row, make_batch

FLOWS = 100_000
RUNS = 5
#: What a cluster's pods have; of each end.
_ENDS = (
    EndAttribute("k8s.namespace.name", "", "K8S_Namespace", "k8s.{}.namespace"),
    EndAttribute("k8s.name", "", "K8S_Name", "k8s.{}.name"),
    EndAttribute("k8s.owner.name", "", "K8S_OwnerName"),
    EndAttribute("k8s.owner.kind", "", "K8S_OwnerType"),
    EndAttribute("k8s.node.name", "", "K8S_HostName"),
    EndAttribute("k8s.pod.uid", ""),
)
_ADDED = [what.of(side) for side in SIDES for what in _ENDS]


def run() -> Table:
    """Every encoding, with 1,000, 10,000 and 100,000 distinct addresses."""
    table = Table(
        "outputs",
        "CPU us per flow of encoding 100,000 flows with six attributes of each end",
        ("encoding, addresses", "without", "new entities", "ratio", "as before", "ratio"),
    )
    for distinct in (1000, 10_000, 100_000):
        bare, ends = _batch(distinct)
        new = [_enriched(bare, ends, distinct, seed) for seed in range(RUNS)]
        same = [_enriched(bare, ends, distinct, RUNS)] * RUNS
        for name, encode in _encodings().items():
            encode(bare)
            less, more, again = (_cpu(encode, some) for some in ([bare] * RUNS, new, same))
            table.add(
                f"{name}, {distinct:,}",
                *(f"{less:.2f}", f"{more:.2f}", f"{more / less:.2f}"),
                *(f"{again:.2f}", f"{again / less:.2f}"),
            )
    return table


def _encodings() -> dict[str, Callable[[FlowBatch], Any]]:
    config = FileConfig.model_validate({"path": "/nowhere/x.parquet"})
    parquet, plain = encoder(config, _ADDED), encoder(config)
    limits = Limits(10_000, 3_500_000)
    few, many = (
        (Series(names), Series(["interface", "flow_direction", "ip_version", "ip_protocol"]))
        for names in (["src_k8s_namespace_name", "dst_k8s_namespace_name"],
                      ["src_k8s_name", "dst_k8s_name"])
    )  # fmt: skip

    def series(pair: tuple[Series, Series]) -> Callable[[FlowBatch], Any]:
        return lambda batch: pair[not batch.entities].add(batch, 1)

    return {
        "JSON, otel": lambda batch: jsonl.encode(batch, jsonl.otel),
        "JSON, netobserv": lambda batch: jsonl.encode(batch, jsonl.netobserv),
        "key=value": lambda batch: keyvalue.encode(batch, "otel"),
        "OTLP logs": lambda b: [len(m.rows) for m in encode_logs(b, "otel", Envelope({}), limits)],
        "Parquet's journal": lambda batch: [
            len(m.rows) for m in messages(parquet if batch.entities else plain, batch, config)
        ],
        "series, by namespaces": series(few),
        "series, by names": series(many),
    }


def _batch(distinct: int) -> tuple[FlowBatch, list[Any]]:
    """Rows between random addresses, and which these are."""
    rng = np.random.default_rng(1)
    batch = make_batch(Row()).take(np.zeros(FLOWS, np.int64))
    key = batch.key.copy()
    ends = [rng.integers(0, distinct, FLOWS) for _ in SIDES]
    for name, numbers in zip(("src_addr", "dst_addr"), ends, strict=True):
        address = (numbers + (10 << 24)).astype(">u4")
        key[name][:, 12:] = address.view(np.uint8).reshape(FLOWS, 4)
    key["src_port"] = rng.integers(1024, 65_536, FLOWS)
    packets = rng.integers(1, 1000, FLOWS).astype(np.uint64)
    return replace(batch, key=key, packet_count=packets, window=Window(1, 2)), ends


def _enriched(batch: FlowBatch, ends: list[Any], distinct: int, seed: int) -> FlowBatch:
    """With a pod for each address; another seed's are new objects of other names."""
    n = range(distinct)
    values = [
        (None, *(f"namespace-{i % 50}" for i in n)),
        (None, *(f"deployment-{i % 900}-{i:x}-{seed}" for i in n)),
        (None, *(f"deployment-{i % 900}" for i in n)),
        (None, *("Deployment" for _ in n)),
        (None, *(f"node-{i % 100}" for i in n)),
        (None, *(f"0d5b29{i:030x}" for i in n)),
    ]
    entities = tuple(
        Entities(
            (numbers + 1).astype(np.uint32),
            dict(zip((what.of(side) for what in _ENDS), values, strict=True)),
        )
        for side, numbers in zip(SIDES, ends, strict=True)
    )
    return replace(batch, entities=entities)


def _cpu(encode: Callable[[FlowBatch], Any], batches: list[FlowBatch]) -> float:
    """Us per flow; the best of the batches."""
    best = float("inf")
    for batch in batches:
        begun = time.process_time()
        encode(batch)
        best = min(best, time.process_time() - begun)
    return best * 1e6 / FLOWS
