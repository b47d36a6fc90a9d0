"""
Flow records to standard output: JSON lines for a pipe, a live table for a terminal.

JSON lines block while the reader is slow and lose nothing but what the queue cannot hold. The table
is a view: a drain that is not drawn in time counts as delivered all the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from exporter.batch.batch import FlowBatch
from exporter.fanout.contract import Message, Sink
from exporter.sinks.encodings.jsonl import SHAPES, encode
from exporter.sinks.stdout.config import StdoutConfig
from exporter.sinks.stdout.deliver import DescriptorWriter
from exporter.sinks.stdout.table import render

#: Records in one write, so that a slow reader sees the first before the last is encoded.
_ROWS_AT_ONCE = 1000
#: Lines around the table: its title and headings, and the prompt's.
_LINES_AROUND = 4


def make(name: str, config: StdoutConfig) -> Sink:
    """The sink that fits what standard output is connected to."""
    if config.format == "table" or (config.format == "auto" and sys.stdout.isatty()):
        return TableSink(name)
    return JsonSink(name, config)


class JsonSink:
    """
    JSON lines.

    Args:
        name: For logs and counters.
        config: Which keys.
        fd: Where to; standard output.
    """

    def __init__(self, name: str, config: StdoutConfig, fd: int = 1) -> None:
        self.name = name
        self._shape = SHAPES[config.schema_name]
        self._writer = DescriptorWriter(fd)

    def open(self) -> None:
        """Nothing to do."""

    def encode(self, batch: FlowBatch) -> Iterator[Message]:
        """A thousand records a message."""
        for start in range(0, len(batch), _ROWS_AT_ONCE):
            rows = batch.take(slice(start, start + _ROWS_AT_ONCE))
            yield Message(encode(rows, self._shape), rows)

    def deliver(self, message: Message, timeout: float) -> None:
        """Raises SinkError."""
        self._writer.write(message.payload, timeout)

    def split(self, _message: Message) -> Iterator[Message]:
        """Never asked for."""
        return iter(())

    def close(self) -> None:
        """Standard output stays open."""
        self._writer.stop()


class TableSink:
    """
    A live table.

    Args:
        name: For logs and counters.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._live: Any = None

    def open(self) -> None:
        """Take over the lower part of the terminal."""
        # Imported here: only a terminal needs it.
        from rich.live import Live

        self._live = Live(
            "waiting for the first flows ...", auto_refresh=False, vertical_overflow="crop"
        )
        self._live.start(refresh=True)

    def encode(self, batch: FlowBatch) -> Iterator[Message]:
        """One message without octets: the table is drawn from the rows."""
        yield Message(b"", batch)

    def deliver(self, message: Message, timeout: float) -> None:  # noqa: ARG002 - never waits
        """Draw the drain."""
        rows = max(self._live.console.size.height - _LINES_AROUND, 1)
        self._live.update(render(message.rows, rows), refresh=True)

    def split(self, _message: Message) -> Iterator[Message]:
        """Never asked for."""
        return iter(())

    def close(self) -> None:
        """Leave the last table on the screen."""
        if self._live is not None:
            self._live.stop()
