"""
What the agent tells of itself, to an OpenTelemetry collector, as ``/metrics`` has it.

At intervals, and once more at the end. What a collector does not take is not kept: the next sums
include it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from exporter.errors import ConfigError, SinkError
from exporter.sinks.encodings.protobuf import field
from exporter.sinks.otlp.config import OtlpConfig
from exporter.sinks.otlp.encode import Envelope
from exporter.sinks.otlp.environment import destination, resource
from exporter.sinks.otlp.sink import client_of
from exporter.telemetry import Collector

log = logging.getLogger(__name__)

#: A collector that stays away is mentioned this often, in seconds.
_REMIND = 300.0
SCOPE = "flow-exporter"


class TelemetryExporter:
    """
    A thread that sends metrics.

    Args:
        config: Where to.
        interval: Seconds between two messages.
        collector: Whose metrics.
        environment: ``OTEL_*`` variables.

    Raises:
        ConfigError: If a variable cannot be used.
    """

    def __init__(
        self,
        config: OtlpConfig,
        interval: float,
        collector: Collector,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        config = config.model_copy(update={"signal": "metrics"})
        self._interval = interval
        self._collector = collector
        self._destination = destination(config, environment)
        self._timeout = self._destination.timeout or config.retry.timeout
        self._client = client_of(config, self._destination)
        self._started_ns = time.time_ns()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._envelope: Envelope | None = None
        self._mentioned = -_REMIND

    def start(self) -> None:
        """Begin. Raises ConfigError if a certificate or a secret cannot be read."""
        self._client.open()
        self._envelope = envelope = Envelope(resource(os.uname().nodename), SCOPE)
        self._thread = threading.Thread(
            target=self._run, args=(envelope,), name="telemetry", daemon=True
        )
        self._thread.start()

    def pause(self) -> None:
        """
        Send at no more intervals: what the metrics are made of is about to be closed. Again is
        fine.
        """
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        """Send once more, and end. Again, or without a start, nothing happens."""
        if self._envelope is not None:
            self.pause()
            self._send(self._envelope)
            self._envelope = None
            self._client.close()

    def _run(self, envelope: Envelope) -> None:
        while not self._stop.wait(self._interval):
            self._send(envelope)

    def _send(self, envelope: Envelope) -> None:
        families = self._collector.collect()
        payload = envelope.wrap(encode(families, self._started_ns, time.time_ns()))
        try:
            self._client.send(payload, self._timeout)
        except (SinkError, ConfigError) as err:
            if time.monotonic() - self._mentioned >= _REMIND:
                self._mentioned = time.monotonic()
                log.warning("metrics.otlp: %s", err)
        else:
            self._mentioned = -_REMIND


def encode(families: Iterable[Any], started_ns: int, now_ns: int) -> list[bytes]:
    """
    Metrics as fields of ``ScopeMetrics``: counters as cumulative monotonic sums, gauges as gauges.

    Args:
        families: Of prometheus_client.
        started_ns: When the sums began, Unix ns.
        now_ns: The time of the values, Unix ns.

    Source: opentelemetry-proto, metrics/v1/metrics.proto; the specification's Prometheus
    compatibility, "Metric metadata": a counter's name is without ``_total``.
    """
    # Imported here: only who asks for it needs the objects.
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.metrics.v1.metrics_pb2 import (
        AGGREGATION_TEMPORALITY_CUMULATIVE,
        Metric,
        NumberDataPoint,
    )

    encoded = []
    for family in families:
        points = [
            NumberDataPoint(
                attributes=[
                    KeyValue(key=name, value=AnyValue(string_value=value))
                    for name, value in sample.labels.items()
                ],
                start_time_unix_nano=started_ns,
                time_unix_nano=now_ns,
                **_number(sample.value),
            )
            for sample in family.samples
            if not sample.name.endswith("_created")
        ]
        if not points:
            continue
        metric = Metric(name=family.name, description=family.documentation)
        if family.type == "counter":
            metric.sum.data_points.extend(points)
            metric.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
            metric.sum.is_monotonic = True
        else:
            metric.gauge.data_points.extend(points)
        encoded.append(field(2, metric.SerializeToString()))
    return encoded


def _number(value: float) -> dict[str, Any]:
    """Counts as integers: a double holds them exactly only up to 2**53."""
    whole = int(value)
    return {"as_int": whole} if whole == value else {"as_double": float(value)}
