"""Spans to a real OpenTelemetry Collector: what it writes down is what was captured."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.agent import Agent
from tests.e2e.net import Network, connect, disconnect
from tests.e2e.otelcol import Otelcol, attributes
from tests.e2e.test_exact import ADDRESSES, all_kinds, pair
from tests.e2e.test_otlp import PROTOCOLS, canonical


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_arrives_is_what_was_captured(network: Network, tmp_path: Path, protocol: str) -> None:
    """
    A real agent under TCP, UDP and ICMP of both families, with a sink for log records and one for
    spans: a span for each log record, with its attributes; both directions share a trace; packets
    and octets are those of the interface.
    """
    one, other = pair(network)
    with Otelcol(tmp_path, one.netns) as collector:
        url = f"otlp+{protocol}://127.0.0.1:{collector.listeners['plain'].port(protocol)}"
        arguments = ["--interfaces", one.device, "--drain-interval", "0.2s", "--sink", url]
        with Agent(one.netns, tmp_path, *arguments, "--sink", f"{url}?signal=spans") as agent:
            connect(one, other, ADDRESSES)
            all_kinds(one, other)
            counters = disconnect(one)
            ledger = agent.wait_drained()
            assert agent.stop() == 0, agent.log
        spans, logs = collector.spans(), collector.logs()
    for sink in ledger["sinks"].values():
        assert sink["delivered"] == sink["queued"] == ledger["published"]
    said = [attributes(span) for span in spans]
    assert Counter(map(canonical, said)) == Counter(canonical(attributes(log)) for log in logs)
    assert sum(one["flow.packets"] for one in said) == counters.rx_packets + counters.tx_packets
    assert sum(one["flow.bytes"] for one in said) == counters.rx_octets + counters.tx_octets
    for span, says in zip(spans, said, strict=True):
        assert (int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])) == (
            says["time.start"], says["time.end"],
        )  # fmt: skip
        assert span["name"] == f"network.flow {says['network.transport']}"
        assert span["kind"] == 1
    assert len({span["spanId"] for span in spans}) == len(spans)
    conversations = {_ends(says): span["traceId"] for span, says in zip(spans, said, strict=True)}
    assert len(set(conversations.values())) == len(conversations)
    for span, says in zip(spans, said, strict=True):
        assert span["traceId"] == conversations[_ends(says)]
    directions: dict[str, set[str]] = {}
    for span, says in zip(spans, said, strict=True):
        directions.setdefault(span["traceId"], set()).add(says["flow.direction"])
    # Two connections and one echo of each family are answered.
    assert sum(len(seen) == 2 for seen in directions.values()) >= 6


def _ends(says: dict[str, Any]) -> tuple[Any, ...]:
    """Who speaks with whom, in either direction, in which hour."""
    ends = [
        (says[f"{end}.address"], says.get(f"{end}.port", 0)) for end in ("source", "destination")
    ]
    return (*sorted(ends), says["network.transport"], says["time.start"] // (3600 * 10**9))
