"""A sink that takes everything and keeps nothing, for benchmarks and for trying out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from exporter.batch.batch import FlowBatch
from exporter.fanout.config import DeliveryConfig
from exporter.fanout.contract import Message


class NullConfig(DeliveryConfig):
    """A sink of type ``null``."""

    type: Literal["null"] = "null"


class NullSink:
    """
    Delivers at once.

    Args:
        name: For logs and counters.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def open(self) -> None:
        """Nothing to do."""

    def encode(self, batch: FlowBatch) -> Iterator[Message]:
        """The batch as it is."""
        yield Message(b"", batch)

    def deliver(self, message: Message, timeout: float) -> None:
        """Nothing to do."""

    def split(self, _message: Message) -> Iterator[Message]:
        """Never asked for."""
        return iter(())

    def close(self) -> None:
        """Nothing to do."""
