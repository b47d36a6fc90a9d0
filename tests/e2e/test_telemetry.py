"""What the agent tells of itself, at an OpenTelemetry Collector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.cli import main
from tests.e2e import traffic
from tests.e2e.agent import Agent, wait_until
from tests.e2e.net import Network, connect, disconnect
from tests.e2e.otelcol import Otelcol, attributes
from tests.e2e.test_exact import ADDRESSES, V4, pair


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_own_metrics_arrive(network: Network, tmp_path: Path, protocol: str) -> None:
    """
    What it said last is what the interface counted, and adds up; a collector that is killed and
    comes back changes nothing of that, and is mentioned once.
    """
    one, other = pair(network)
    with Otelcol(tmp_path, one.netns) as collector:
        config = tmp_path / "config.yaml"
        config.write_text(
            f"metrics: {{otlp: 'otlp+{protocol}://127.0.0.1:"
            f"{collector.listeners['plain'].port(protocol)}', otlp_interval: 200ms}}\n"
        )
        arguments = ["--config", str(config), "--interfaces", one.device, "--drain-interval", "1s"]
        with Agent(one.netns, tmp_path, *arguments) as agent:
            connect(one, other, ADDRESSES)
            wait_until(collector.requests, "the first message")
            collector.kill()
            traffic.run(one.netns, "udp", "--host", V4[1], "--count", 2000, "--flows", 20,
                        "--size", 64, "--first_port", 9)  # fmt: skip
            wait_until(lambda: agent.says("metrics.otlp: "), "it is missed")
            collector.start()
            counters = disconnect(one)
            agent.wait_drained()
            assert agent.stop() == 0, agent.log
        points = dict(last(collector))
    packets = counters.rx_packets + counters.tx_packets
    assert points["flow_exporter_seen_packets", ""] == packets
    assert points["flow_exporter_seen_octets", ""] == counters.rx_octets + counters.tx_octets
    outcomes = {key: value for key, value in points.items() if "outcome_packets" in key[0]}
    assert sum(outcomes.values()) == packets
    assert points["flow_exporter_outcome_packets", "aggregated"] == packets
    assert points["flow_exporter_sink_packets", "stdout delivered"] == packets
    assert agent.log.count("metrics.otlp: ") == 1


def test_once_more_at_the_end(network: Network, tmp_path: Path) -> None:
    """What it says when it stops has everything, although its interval is far from over."""
    one, other = pair(network)
    with Otelcol(tmp_path, one.netns) as collector:
        port = collector.listeners["plain"].port("grpc")
        config = tmp_path / "config.yaml"
        config.write_text(f"metrics: {{otlp: 'otlp+grpc://127.0.0.1:{port}', otlp_interval: 1h}}\n")
        with Agent(
            one.netns, tmp_path, "--config", str(config), "--interfaces", one.device
        ) as agent:
            connect(one, other, ADDRESSES)
            traffic.run(one.netns, "icmp", "--host", V4[1], "--count", 5, "--size", 10)
            counters = disconnect(one)
            assert agent.stop() == 0, agent.log
        assert len(collector.requests()) == 1
        points = dict(last(collector))
    packets = counters.rx_packets + counters.tx_packets
    assert points["flow_exporter_seen_packets", ""] == packets
    assert points["flow_exporter_sink_packets", "stdout delivered"] == packets
    assert "Traceback" not in agent.log


def last(collector: Otelcol) -> Iterator[tuple[tuple[str, str], int]]:
    """The value of each series in the last message: its name and labels' values."""
    (resource,) = collector.requests()[-1]["resourceMetrics"]
    for metric in resource["scopeMetrics"][0]["metrics"]:
        if "sum" in metric:
            assert metric["sum"]["isMonotonic"]
            assert metric["sum"]["aggregationTemporality"] == 2
        points: list[dict[str, Any]] = metric.get("sum", metric.get("gauge", {}))["dataPoints"]
        for point in points:
            labels = " ".join(str(value) for value in attributes(point).values())
            yield (metric["name"], labels), int(float(point.get("asInt", point.get("asDouble", 0))))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("grpc://h:1", "metrics.otlp.type: input should be 'otlp'"),
        ("otlp+grpc://h", "write otlp+grpc://HOST:PORT"),
        ("pigeon://h:1", "there is no sink 'pigeon://h:1'"),
    ],
)
def test_what_is_no_collector(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, expected: str
) -> None:
    """One line that says what to write."""
    config = tmp_path / "config.yaml"
    config.write_text(f"metrics: {{otlp: '{target}'}}\n")
    assert main(["check", "--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert len(said.splitlines()) == 1
