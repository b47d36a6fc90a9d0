"""A sink that takes everything and keeps nothing, for benchmarks and for trying out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict

from exporter.batch.batch import FlowBatch
from exporter.fanout.config import QueueConfig, RetryConfig
from exporter.fanout.contract import Message


class NullConfig(BaseModel):
    """A sink of type ``null``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["null"] = "null"
    name: str = ""
    queue: QueueConfig = QueueConfig()
    retry: RetryConfig = RetryConfig()


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
