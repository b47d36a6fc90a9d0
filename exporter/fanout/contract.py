"""
What a sink is to the fan-out.

A sink turns a batch into messages and delivers one message at a time; queueing, retrying and
counting are not its business. Encoding is pure; delivering blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from exporter.batch.batch import FlowBatch


@dataclass(frozen=True)
class Message:
    """What is delivered at once: the encoded form of ``rows``."""

    payload: bytes
    rows: FlowBatch


class Sink(Protocol):
    """One destination. The fan-out calls it from one thread."""

    name: str

    def open(self) -> None:
        """
        Get ready. Does not wait for the destination.

        Raises:
            ExporterError: If what was configured can never work.
        """

    def encode(self, batch: FlowBatch) -> Iterable[Message]:
        """The batch as messages; every row is in exactly one."""

    def deliver(self, message: Message, timeout: float) -> None:
        """
        Hand one message over and wait until the destination has it.

        Args:
            message: Of :meth:`encode`.
            timeout: Seconds to wait at most.

        Raises:
            SinkError: If the destination does not have it. ``retryable`` says whether the same
                message may be delivered again; reason ``too_large`` asks for smaller messages;
                ``rows`` how many are lost if the destination took the others.
        """

    def split(self, message: Message) -> Iterable[Message]:
        """The same rows in smaller messages; none if it cannot be made smaller."""

    def close(self) -> None:
        """
        Give everything back. Again is fine. Called from another thread while :meth:`deliver` waits,
        which then fails.
        """
