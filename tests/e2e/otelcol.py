"""
A real OpenTelemetry Collector, which writes what it receives to a file before it answers.

Built by tools/setup-otelcol.sh: the Collector's own OTLP receiver and file exporter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import missing
from tests.e2e.net import Netns
from tests.servers import Server, free_ports


def binary() -> Path:
    """The program; what would be shown is missing without it."""
    cache = os.environ.get("TEST_OTELCOL_CACHE")
    directory = Path(cache) if cache else Path.home() / ".cache" / "flow-exporter" / "otelcol"
    if not (directory / "otelcol").exists():
        missing("the OpenTelemetry Collector: run tools/setup-otelcol.sh, which needs Go")
    return directory / "otelcol"


#: How a request begins in its file.
_BEGINS = (b'{"resourceLogs"', b'{"resourceSpans"', b'{"resourceMetrics"')


@dataclass(frozen=True)
class Listener:
    """One of its receivers: ports on 127.0.0.1."""

    grpc: int
    http: int

    def port(self, protocol: str) -> int:
        return self.grpc if protocol == "grpc" else self.http


class Otelcol(Server):
    """
    The process.

    Args:
        directory: For its files.
        netns: Where it runs; here if ``None``.
        receivers: Name of each -> settings for both of its protocols, as the Collector has them.
        extensions: Likewise.
        exporter: ``file``, or ``debug``, which only counts.
        listeners: Ports of each receiver; free ones if ``None``.
    """

    def __init__(
        self,
        directory: Path,
        netns: Netns | None = None,
        receivers: Mapping[str, Mapping[str, Any]] | None = None,
        extensions: Mapping[str, Any] | None = None,
        exporter: str = "file",
        *,
        listeners: Mapping[str, Listener] | None = None,
    ) -> None:
        receivers = {"plain": {}} if receivers is None else receivers
        ports = iter(free_ports(2 * len(receivers)))
        free = {name: Listener(next(ports), next(ports)) for name in receivers}
        self.listeners = free if listeners is None else dict(listeners)
        self._output = directory / "otelcol.jsonl"
        self._output.touch()
        config = directory / "otelcol.yaml"
        self._exporter = exporter
        config.write_text(yaml.safe_dump(self._config(receivers, extensions or {})))
        command = [str(binary()), "--config", str(config)]
        command = netns.command(*command) if netns else command
        super().__init__(command, directory / "otelcol.log")

    def mark(self) -> int:
        """Where its file ends now."""
        return self._output.stat().st_size

    def requests(self, mark: int = 0) -> list[dict[str, Any]]:
        """What it received since then, a request each; a torn one was never answered."""
        kept = self._output.read_bytes()[mark:].rpartition(b"\n")[0]
        # A file exporter that was killed while it wrote leaves half a line before the next.
        starts = [max(map(line.rfind, _BEGINS)) for line in kept.splitlines()]
        lines = zip(kept.splitlines(), starts, strict=True)
        return [json.loads(line[at:]) for line, at in lines if at >= 0 and line.endswith(b"}")]

    def logs(self, mark: int = 0) -> list[dict[str, Any]]:
        """All log records."""
        return logs_of(self.requests(mark))

    def spans(self, mark: int = 0) -> list[dict[str, Any]]:
        """All spans."""
        return [
            span
            for request in self.requests(mark)
            for resource in request.get("resourceSpans", ())
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]

    def metrics(self, mark: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
        """All metrics: name and sum, in the order they came."""
        for request in self.requests(mark):
            for resource in request.get("resourceMetrics", ()):
                for scope in resource["scopeMetrics"]:
                    for metric in scope["metrics"]:
                        yield metric["name"], metric["sum"]

    def _is_ready(self) -> bool:
        return self._says("Everything is ready")

    def _config(
        self, receivers: Mapping[str, Mapping[str, Any]], extensions: Mapping[str, Any]
    ) -> dict[str, Any]:
        listening = {}
        for name, settings in receivers.items():
            listener = self.listeners[name]
            protocols = {
                protocol: {"endpoint": f"127.0.0.1:{listener.port(protocol)}", **settings}
                for protocol in ("grpc", "http")
            }
            listening[f"otlp/{name}"] = {"protocols": protocols}
        pipeline = {"receivers": list(listening), "exporters": [self._exporter]}
        return {
            "receivers": listening,
            # With rotation it writes at once: without, what it has answered is lost with it.
            "exporters": {
                "debug": {},
                "file": {"path": str(self._output), "rotation": {"max_megabytes": 4000}},
            },
            "extensions": dict(extensions),
            "service": {
                "extensions": list(extensions),
                "pipelines": {"logs": pipeline, "traces": pipeline, "metrics": pipeline},
                "telemetry": {"metrics": {"level": "none"}},
            },
        }


def logs_of(requests: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All log records of some requests."""
    return [
        record
        for request in requests
        for resource in request.get("resourceLogs", ())
        for scope in resource["scopeLogs"]
        for record in scope["logRecords"]
    ]


def attributes(owner: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a log record, a data point or a resource, as Python has them."""
    listed = owner.get("attributes", ())
    found = {one["key"]: _plain(one["value"]) for one in listed}
    assert len(found) == len(listed), "an attribute twice"
    return found


def _plain(value: Mapping[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "intValue":
        return int(content)
    if kind == "arrayValue":
        return [_plain(item) for item in content["values"]]
    return content
