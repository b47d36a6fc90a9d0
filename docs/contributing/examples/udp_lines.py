"""
A destination in one file: JSON lines, one flow a datagram, to any UDP listener.

Complete but for its place in the tables that README.md beside this directory names. At most once:
what the network loses is lost, and counts as delivered.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Literal

from pydantic import field_validator

from exporter.batch.batch import FlowBatch
from exporter.errors import SinkError
from exporter.fanout.config import DeliveryConfig
from exporter.fanout.contract import Message
from exporter.quantities import split_host_port
from exporter.sinks.encodings.jsonl import SHAPES
from exporter.sinks.encodings.jsonl import encode as encode_lines


class UdpLinesConfig(DeliveryConfig):
    """
    A sink of type ``udp_lines``.

    Args:
        target: ``host:port`` of the listener.
    """

    type: Literal["udp_lines"] = "udp_lines"
    target: str

    @field_validator("target")
    @classmethod
    def _is_address(cls, text: str) -> str:
        split_host_port(text)
        return text


class UdpLinesSink:
    """
    A UDP listener.

    Args:
        name: For logs and counters.
        config: Where to.
    """

    def __init__(self, name: str, config: UdpLinesConfig) -> None:
        self.name = name
        self._config = config
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Make the socket; the listener need not be there."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def encode(self, batch: FlowBatch) -> Iterator[Message]:
        """One message for each row."""
        lines = encode_lines(batch, SHAPES["otel"]).splitlines()
        for number, line in enumerate(lines):
            yield Message(line, batch.take(slice(number, number + 1)))

    def deliver(self, message: Message, timeout: float) -> None:
        """Raises SinkError, to be tried again, if this host does not send it."""
        assert self._socket is not None
        self._socket.settimeout(timeout)
        try:
            self._socket.sendto(message.payload, split_host_port(self._config.target))
        except OSError as err:
            raise SinkError("unavailable", str(err), retryable=True) from err

    def split(self, _message: Message) -> Iterator[Message]:
        """One row cannot be made smaller."""
        return iter(())

    def close(self) -> None:
        """Close the socket. Again is fine."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
