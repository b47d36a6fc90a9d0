"""
Flow records to a topic of Apache Kafka.

At least once: a record counts as delivered when all in-sync replicas have it (``acks=all``). What
the client sends again by itself is numbered, so that the broker drops it if it has it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import cast

from exporter.batch.batch import FlowBatch
from exporter.errors import ConfigError
from exporter.fanout.contract import Message
from exporter.sinks.kafka.client import Client
from exporter.sinks.kafka.config import KafkaConfig
from exporter.sinks.kafka.deliver import KafkaDelivery
from exporter.sinks.kafka.encode import KafkaMessage, encode


class KafkaSink:
    """
    A topic.

    Args:
        name: For logs and counters.
        config: Where to, in which layout, with which client.
    """

    def __init__(self, name: str, config: KafkaConfig) -> None:
        self.name = name
        self._config = config
        self._delivery = KafkaDelivery(config, connect)

    def open(self) -> None:
        """Raises ConfigError if a file cannot be read or a library is not installed."""
        self._delivery.open()

    def encode(self, batch: FlowBatch) -> Iterator[Message]:
        """Messages of the configured layout."""
        return encode(batch, self._config)

    def deliver(self, message: Message, timeout: float) -> None:
        """Raises SinkError."""
        self._delivery.deliver(cast("KafkaMessage", message), timeout)

    def split(self, message: Message) -> Iterator[Message]:
        """What is left, for brokers that take less than we are configured for."""
        return self._delivery.split(cast("KafkaMessage", message))

    def close(self) -> None:
        """Close the connections."""
        self._delivery.close()


def connect(config: KafkaConfig) -> Client:
    """
    A client of the chosen library; it connects in the background.

    Raises:
        ConfigError: If it is not installed, or what was configured can never work.
    """
    installed = importlib.util.find_spec("confluent_kafka") is not None
    if config.client == "confluent" and not installed:
        raise ConfigError(
            "client confluent needs confluent-kafka: pip install 'flow-exporter[confluent]'"
        )
    if config.client == "confluent" or (config.client == "auto" and installed):
        from exporter.sinks.kafka.confluent import ConfluentClient

        return ConfluentClient(config)
    from exporter.sinks.kafka.kafka_python import KafkaPythonClient

    return KafkaPythonClient(config)
