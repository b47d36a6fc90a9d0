"""
Flow records to a NetObserv collector, or any other ``pbflow.Collector``.

At least once: a message counts as delivered when the collector has answered it.
"""

from __future__ import annotations

from collections.abc import Iterator

from exporter.batch.batch import FlowBatch
from exporter.fanout.contract import Message
from exporter.sinks.encodings.pbflow import encode
from exporter.sinks.grpc.config import GrpcConfig
from exporter.sinks.grpc.deliver import GrpcClient


class GrpcSink:
    """
    A ``pbflow.Collector``.

    Args:
        name: For logs and counters.
        config: Where to and how much at once.
    """

    def __init__(self, name: str, config: GrpcConfig) -> None:
        self.name = name
        self._config = config
        self._client = GrpcClient(config)

    def open(self) -> None:
        """Raises ConfigError if a certificate file cannot be read."""
        self._client.open()

    def encode(self, batch: FlowBatch) -> Iterator[Message]:
        """Messages within the configured number of flows and octets."""
        return encode(batch, self._config.max_flows, self._config.max_octets)

    def deliver(self, message: Message, timeout: float) -> None:
        """Raises SinkError."""
        self._client.send(message.payload, timeout)

    def split(self, message: Message) -> Iterator[Message]:
        """Halves, for a collector that takes less than we are configured for."""
        if len(message.rows) < 2:
            return iter(())
        half = (len(message.rows) + 1) // 2
        return encode(message.rows, half, self._config.max_octets)

    def close(self) -> None:
        """Close the channel."""
        self._client.close()
