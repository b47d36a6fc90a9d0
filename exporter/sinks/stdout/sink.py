"""
Flow records to standard output: lines for a pipe, a live table for a terminal.

Lines block while the reader is slow and lose nothing but what the queue cannot hold. The table is a
view: a drain that is not drawn in time, as on a terminal that was stopped with Ctrl-S, counts as
delivered all the same.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from exporter.batch.batch import FlowBatch
from exporter.errors import SinkError
from exporter.fanout.contract import Message, Sink
from exporter.sinks.encodings import jsonl, keyvalue
from exporter.sinks.stdout.config import StdoutConfig
from exporter.sinks.stdout.deliver import DescriptorWriter
from exporter.sinks.stdout.table import render

#: Records in one write, so that a slow reader sees the first before the last is encoded.
_ROWS_AT_ONCE = 1000
#: Lines around the table: its title and headings, and the prompt's.
_LINES_AROUND = 4
#: Seconds that a terminal may take nothing before a drain is not drawn.
_PATIENCE = 1.0


def make(name: str, config: StdoutConfig) -> Sink:
    """The sink that fits what standard output is connected to."""
    if config.format == "table" or (config.format == "auto" and sys.stdout.isatty()):
        return TableSink(name)
    return LineSink(name, config)


def _encoder(config: StdoutConfig) -> Callable[[FlowBatch], bytes]:
    schema = config.schema_name
    if config.format == "keyvalue":
        return lambda batch: keyvalue.encode(batch, schema)
    return lambda batch: jsonl.encode(batch, jsonl.SHAPES[schema])


class LineSink:
    """
    A line for each record, JSON or key=value.

    Args:
        name: For logs and counters.
        config: Which of them, and which keys.
        fd: Where to; standard output.
    """

    def __init__(self, name: str, config: StdoutConfig, fd: int = 1) -> None:
        self.name = name
        self._encode = _encoder(config)
        self._writer = DescriptorWriter(fd)

    def open(self) -> None:
        """Nothing to do."""

    def encode(self, batch: FlowBatch) -> Iterator[Message]:
        """A thousand records a message."""
        for start in range(0, len(batch), _ROWS_AT_ONCE):
            rows = batch.take(slice(start, start + _ROWS_AT_ONCE))
            yield Message(self._encode(rows), rows)

    def deliver(self, message: Message, timeout: float) -> None:
        """Raises SinkError."""
        self._writer.write(message.payload, timeout)

    def split(self, _message: Message) -> Iterator[Message]:
        """Never asked for."""
        return iter(())

    def close(self) -> None:
        """Standard output stays open."""
        self._writer.close()


class TableSink:
    """
    A live table.

    Args:
        name: For logs and counters.
        fd: Where to; standard output.
    """

    def __init__(self, name: str, fd: int = 1) -> None:
        self.name = name
        self._fd = fd
        self._writer = DescriptorWriter(fd)
        self._lock = threading.Lock()
        #: What rich has drawn and the terminal has not got yet.
        self._drawn = io.StringIO()
        self._live: Any = None

    def open(self) -> None:
        """Take over the lower part of the terminal."""
        # Imported here: only a terminal needs it.
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._drawn, force_terminal=os.isatty(self._fd))
        self._live = Live(
            "waiting for the first flows ...",
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._live.start(refresh=True)
        self._show()

    def encode(self, batch: FlowBatch) -> Iterator[Message]:
        """One message without octets: the table is drawn from the rows."""
        yield Message(b"", batch)

    def deliver(self, message: Message, timeout: float) -> None:  # noqa: ARG002 - its own patience
        """
        Draw the drain, unless the terminal has not taken an earlier one yet.

        Raises:
            SinkError: If there is no terminal any more, or it was closed meanwhile.
        """
        with self._lock:
            if self._live is None:
                raise SinkError("cancelled", "closed", retryable=True)
            if self._writer.behind:
                self._show()
            if not self._writer.behind:
                rows = max(self._live.console.size.height - _LINES_AROUND, 1)
                self._live.update(render(message.rows, rows), refresh=True)
                self._show()

    def split(self, _message: Message) -> Iterator[Message]:
        """Never asked for."""
        return iter(())

    def close(self) -> None:
        """Leave the last table on the screen, if the terminal takes it."""
        self._writer.stop()
        with self._lock:
            if self._live is None:
                return
            live, self._live = self._live, None
            if self._writer.behind:
                self._show()
            live.stop()
            if not self._writer.behind:
                self._show()
            self._writer.close()

    def _show(self) -> None:
        """Write what is drawn, or go on writing it; what the terminal does not take now waits."""
        drawn = self._drawn.getvalue()
        self._drawn.seek(0)
        self._drawn.truncate()
        try:
            self._writer.write(drawn.encode(), 0 if self._writer.behind else _PATIENCE)
        except SinkError as err:
            if err.reason != "slow":
                raise
