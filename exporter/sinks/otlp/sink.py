"""
Flow records, or sums of them, to an OpenTelemetry collector.

At least once: a message counts as delivered when the collector has answered it. What a collector
rejects of a message it takes is counted as dropped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from exporter.batch.attributes import Attribute
from exporter.batch.batch import FlowBatch, Observer
from exporter.fanout.contract import Message
from exporter.sinks.otlp.answer import check_partial_success
from exporter.sinks.otlp.config import OtlpConfig
from exporter.sinks.otlp.deliver import Client, Headers
from exporter.sinks.otlp.encode import Envelope, Limits, encode_logs
from exporter.sinks.otlp.environment import Destination, destination, resource, temporality
from exporter.sinks.otlp.grpc import METHODS, GrpcClient
from exporter.sinks.otlp.http import HttpClient
from exporter.sinks.otlp.metrics import SCOPES, MetricsEncoder, Points


class OtlpSink:
    """
    An OpenTelemetry collector.

    Args:
        name: For logs and counters.
        config: Where to and what.
        environment: ``OTEL_*`` variables.
        added: What enrichment adds.

    Raises:
        ConfigError: If a variable cannot be used.
    """

    def __init__(
        self,
        name: str,
        config: OtlpConfig,
        environment: Mapping[str, str] = os.environ,
        added: Sequence[Attribute] = (),
    ) -> None:
        self.name = name
        self._config = config
        self._limits = Limits(config.max_flows, config.max_octets)
        self._destination = destination(config, environment)
        self._client = client_of(config, self._destination)
        metrics = config.metrics.model_copy(
            update={"temporality": temporality(config, environment)}
        )
        self._metrics = MetricsEncoder(metrics, config.schema_name, self._limits, added)
        self._observer: Observer | None = None
        self._envelope = Envelope({})

    def open(self) -> None:
        """Raises ConfigError if a certificate or a secret cannot be read."""
        self._client.open()

    def encode(self, batch: FlowBatch) -> Iterator[Message]:
        """Messages within the configured number of flows and octets."""
        if batch.observer != self._observer:
            self._observer = batch.observer
            self._envelope = self._envelope_of(batch.observer)
        if self._config.signal == "metrics":
            return self._metrics.encode(batch, self._envelope)
        return encode_logs(batch, self._config.schema_name, self._envelope, self._limits)

    def deliver(self, message: Message, timeout: float) -> None:
        """Raises SinkError."""
        records = message.count if isinstance(message, Points) else len(message.rows)
        if not records:
            # Only duplicates: there is nothing to say.
            return
        response = self._client.send(message.payload, self._destination.timeout or timeout)
        check_partial_success(response, self._config.signal, len(message.rows), records)

    def split(self, message: Message) -> Iterator[Message]:
        """Halves, for a collector that takes less than we are configured for."""
        if isinstance(message, Points):
            return self._metrics.split(message)
        if len(message.rows) < 2:
            return iter(())
        half = Limits((len(message.rows) + 1) // 2, self._limits.octets)
        return encode_logs(message.rows, self._config.schema_name, self._envelope, half)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _envelope_of(self, observer: Observer) -> Envelope:
        attributes = resource(observer.name)
        if observer.address:
            attributes.setdefault("host.ip", [observer.address])
        if self._config.signal == "metrics":
            return Envelope(attributes, SCOPES[self._config.schema_name])
        return Envelope(attributes)


def client_of(config: OtlpConfig, destination: Destination) -> Client:
    """Speaks the destination's protocol. Opens nothing."""
    headers = Headers(config, destination.headers)
    if destination.protocol == "grpc":
        return GrpcClient(destination, METHODS[config.signal], headers)
    return HttpClient(destination, headers)
