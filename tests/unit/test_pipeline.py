"""What the composition root decides before anything is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporter.batch.attributes import EndAttribute
from exporter.config import load
from exporter.enrich.base import Addresses, Found, Local
from exporter.enrich.ends import EndEnricher
from exporter.enrich.table import Enrichment
from exporter.errors import ConfigError
from exporter.pipeline import Pipeline
from exporter.reload import named
from exporter.sinks.ipfix.sink import IpfixSink
from exporter.telemetry import exposition
from exporter.testing import Row, make_batch
from tests.strategies import ASN


def names(*sinks: object) -> list[str]:
    return [sink.name for sink in named(load(None, {}, {"sinks": list(sinks)}).sinks)]


def test_sinks_get_names_that_differ() -> None:
    """The type, with a number from the second on; given names stay, and are not given twice."""
    assert names("stdout", "null", "grpc://h:1", "grpc://h:2", "grpc://h:3") == [
        *("stdout", "null", "grpc", "grpc2", "grpc3"),
    ]
    assert names("null", {"type": "null", "name": "null2"}, "null") == ["null", "null2", "null3"]
    assert names({"type": "stdout", "name": "null"}, "null") == ["null", "null2"]


def test_two_sinks_of_one_name() -> None:
    """The ledger keeps one account for each name."""
    with pytest.raises(ConfigError, match="two sinks have the same name"):
        names({"type": "null", "name": "a"}, {"type": "stdout", "name": "a"})


class Systems(Local):
    """Every address is in one autonomous system."""

    name = "systems"
    attributes: tuple[EndAttribute, ...] = (ASN,)

    def look_up(self, addresses: Addresses) -> Found:
        return Found(addresses.octets[:, 15].astype("u4") * 0 + 1, {ASN: (None, 64500)})


def test_sinks_know_what_the_enrichers_add(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made of one configuration fits together: names, labels and elements."""

    def made(*_: Any) -> Enrichment:
        return Enrichment([EndEnricher(Systems())])

    for place in ("exporter.pipeline.make_enrichment", "exporter.enrich.table.make"):
        monkeypatch.setattr(place, made)
    sinks = ["prometheus://:1?labels=src_as_number&schema=netobserv", "ipfix+udp://h:1"]
    pipeline = Pipeline(load(None, {}, {"sinks": sinks}))
    batch = pipeline.enrichment.apply(make_batch(Row()))
    _, ipfix = (worker.sink for worker in pipeline.router.workers)
    assert isinstance(ipfix, IpfixSink)
    (message,) = ipfix.encode(batch)
    assert message.template.elements[-2:] == (16, 17)
    assert message.payload.endswith((64500).to_bytes(4) * 2)
    prometheus = pipeline.router.workers[0].sink
    (flows,) = prometheus.encode(batch)
    prometheus.deliver(flows, 1)
    (metrics,) = [sink.metrics for sink in [prometheus] if hasattr(sink, "metrics")]
    assert b'netobserv_flow_records_total{SrcAS="64500"} 1.0' in exposition(metrics)


def test_what_is_read_is_kept_for_a_spool(tmp_path: Path) -> None:
    """Deleting later is for those whose rows are on disk by then, and who have a successor."""

    def keeps(pin: str, *sinks: str, spool: bool = True) -> bool:
        given: dict[str, Any] = {"capture": {"pin": pin}, "sinks": list(sinks)}
        if spool:
            given["spool"] = {"directory": str(tmp_path)}
        return Pipeline(load(None, {}, given)).fetcher.keeps

    assert keeps("auto", "null", "grpc://h:1?queue.when_full=drop_oldest")
    assert not keeps("auto", "grpc://h:1?queue.when_full=drop_oldest")
    assert not keeps("auto", "grpc://h:1", spool=False)
    assert not keeps("", "grpc://h:1")
