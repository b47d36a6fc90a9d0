"""A real Prometheus scrapes a real agent: sums by label, to the octet."""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from exporter.batch.attributes import Entities
from exporter.batch.batch import FlowBatch
from exporter.sinks.prometheus.config import PrometheusConfig
from exporter.sinks.prometheus.sink import PrometheusSink
from exporter.testing import Row, make_batch
from tests.e2e import traffic
from tests.e2e.agent import Agent, wait_until
from tests.e2e.net import Network, connect, disconnect
from tests.e2e.prometheus import Prometheus, check_metrics
from tests.e2e.test_exact import ADDRESSES, V4, all_kinds, pair
from tests.strategies import POD, TEAM

AGENT, OWN, ADDED = "127.0.0.1:9401", "127.0.0.1:9402", "127.0.0.1:9403"
Labels = frozenset[tuple[str, str]]


def by_label(records: list[dict[str, Any]], key: str) -> dict[Labels, int]:
    """What Prometheus should have of the records that the agent printed."""
    sums: dict[Labels, int] = defaultdict(int)
    for record in records:
        labels = {
            "source_address": record["source"]["address"],
            "destination_address": record["destination"]["address"],
            "network_transport": record["network"]["transport"],
            "flow_direction": record["flow"]["direction"],
            "network_interface_name": record["flow"]["interfaces"][0]["name"],
        }
        sums[frozenset(labels.items())] += record["flow"][key] if key else 1
    return dict(sums)


def enriched() -> FlowBatch:
    """Six flows of ten packets: three, two and one of a source."""
    pods = (None, "web-0", 'größe="1"')
    rows = np.array([2, 1, 0, 2, 1, 2], np.uint32)
    some = (
        Entities(rows, {POD.of("source"): pods}),
        Entities(rows, {TEAM: (None, "blue", "")}),
    )
    return replace(make_batch(*[Row()] * 6), entities=some)


def test_sums_by_label(network: Network, tmp_path: Path) -> None:
    """
    Flows, packets and octets by five labels: each series is the sum of the records, and all of them
    what the interface counted. That it may be killed meanwhile is in test_outage.py.
    """
    one, other = pair(network)
    labels = "src_addr,dst_addr,ip_protocol,flow_direction,interface"
    with (
        Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.2s",
              "--metrics-address", AGENT, "--sink", "stdout",
              "--sink", f"prometheus://?labels={labels}") as agent,
        Prometheus(one.netns, tmp_path / "prometheus", AGENT) as prometheus,
    ):  # fmt: skip
        connect(one, other, ADDRESSES)
        for _ in range(2):
            all_kinds(one, other)
        counters = disconnect(one)
        agent.wait_drained()
        packets = counters.rx_packets + counters.tx_packets
        wait_until(
            lambda: sum(prometheus.query("network_flow_packets_total").values()) == packets,
            "Prometheus has all packets",
        )
        records = agent.records()
        for metric, key in (
            ("packets", "packets"),
            ("bytes", "bytes"),
            ("ip_bytes", "ip_bytes"),
            ("records", ""),
        ):
            assert prometheus.query(f"network_flow_{metric}_total") == by_label(records, key)
        octets = sum(prometheus.query("network_flow_bytes_total").values())
        assert octets == counters.rx_octets + counters.tx_octets
        # Our own telemetry is in the same place.
        seen = prometheus.query('flow_exporter_stage_packets_total{stage="published"}')
        assert list(seen.values()) == [packets]
        assert prometheus.query("flow_exporter_sink_series") == {
            frozenset({("sink", "prometheus")}): len(by_label(records, ""))
        }
        with one.netns.entered():
            problems = check_metrics(agent._fetch("/metrics"))
        assert agent.stop() == 0, agent.log
    assert problems == ""


def test_overflow_and_expiry(network: Network, tmp_path: Path) -> None:
    """
    Hundreds of ports and room for ten series, at the sink's own address: the sums are still all
    that passed, the rest under one label; and what is idle is forgotten. Names that enrichment
    added are labels, those that it does not know are none.
    """
    one, other = pair(network)
    added = PrometheusSink("added", PrometheusConfig.model_validate(
        {"address": ADDED, "labels": "src_k8s_pod_name,labels_team,ip_protocol", "schema": "obi"}
    ), (POD.of("source"), TEAM))  # fmt: skip
    with one.netns.entered():
        added.open()
    sink = f"prometheus://{OWN}?labels=dst_port&limit=10&idle=2s&schema=obi"
    with (
        Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.2s",
              "--metrics-address", AGENT, "--sink", sink) as agent,
        Prometheus(one.netns, tmp_path / "prometheus", AGENT, OWN, ADDED) as prometheus,
        closing(added),
    ):  # fmt: skip
        added.metrics.add(enriched())
        connect(one, other, ADDRESSES)
        traffic.run(one.netns, "udp", "--host", V4[1], "--count", 3000, "--flows", 300, "--size",
                    100, "--first_port", 40_000)  # fmt: skip
        counters = disconnect(one)
        packets = counters.rx_packets + counters.tx_packets
        query = "max_over_time(obi_network_flow_packets_total[1m])"
        wait_until(
            lambda: sum(prometheus.query(query).values()) == packets + 60,
            "Prometheus has all packets",
        )
        added_to = frozenset({("transport", "TCP")})
        found = prometheus.query(query)
        for labels, value in (
            ({("k8s_src_name", 'größe="1"')}, 30),
            ({("k8s_src_name", "web-0"), ("labels_team", "blue")}, 20),
            (set[tuple[str, str]](), 10),
        ):
            assert found.pop(added_to | labels) == value
        assert len(found) == 10
        assert found[frozenset({("otel_metric_overflow", "true")})] > 0
        wait_until(
            lambda: agent.metrics()['flow_exporter_sink_series{sink="prometheus"}'] == 0,
            "idle series are forgotten",
        )
        forgotten = 'flow_exporter_sink_series_forgotten_total{sink="prometheus"}'
        assert agent.metrics()[forgotten] == 10
        wait_until(
            lambda: len(prometheus.query("obi_network_flow_packets_total")) == 3,
            "Prometheus knows",
        )
        assert agent.stop() == 0, agent.log
