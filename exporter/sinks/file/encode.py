"""Flow records as what is appended to a file: lines, or Arrow record batches for Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from exporter.batch.batch import FlowBatch
from exporter.errors import ConfigError
from exporter.fanout.contract import Message
from exporter.sinks.encodings import jsonl
from exporter.sinks.file.config import FileConfig

#: Records in one message: some MB, so that what has to be taken back on a full disk is little.
_ROWS = {"jsonl": 8192, "parquet": 16_384}


class Encoder(Protocol):
    """One format. ``header`` comes before the first message of every file."""

    header: bytes

    def encode(self, batch: FlowBatch) -> bytes:
        """All rows, in order."""


class Lines:
    """
    JSON lines.

    Args:
        config: Which keys.
    """

    header = b""

    def __init__(self, config: FileConfig) -> None:
        self._shape = jsonl.SHAPES[config.schema_name]

    def encode(self, batch: FlowBatch) -> bytes:
        """An object and a newline for each row."""
        return jsonl.encode(batch, self._shape)


class RecordBatches:
    """
    The parts of an Arrow IPC stream: the schema, then one record batch after the other.

    Args:
        config: How addresses are written.

    Raises:
        ConfigError: Without pyarrow.

    Source: https://arrow.apache.org/docs/format/Columnar.html, IPC streaming format.
    """

    def __init__(self, config: FileConfig) -> None:
        # Imported here: 40 MB that only Parquet needs.
        from exporter.sinks.encodings.arrow import ArrowColumns

        try:
            self._columns = ArrowColumns(config.addresses)
        except ImportError as err:
            raise ConfigError(
                "Parquet needs pyarrow: install flow-exporter[parquet], or write JSON lines"
            ) from err
        self.header: bytes = self._columns.schema.serialize().to_pybytes()

    def encode(self, batch: FlowBatch) -> bytes:
        """One encapsulated message."""
        octets: bytes = self._columns.record_batch(batch).serialize().to_pybytes()
        return octets


def encoder(config: FileConfig) -> Encoder:
    """The one for a configuration. Raises ConfigError if something is not installed."""
    return RecordBatches(config) if config.written_as == "parquet" else Lines(config)


def messages(encoder: Encoder, batch: FlowBatch, config: FileConfig) -> Iterator[Message]:
    """A batch as messages; every row is in exactly one, in order."""
    rows = _ROWS[config.written_as]
    for start in range(0, len(batch), rows):
        part = batch.take(slice(start, start + rows))
        yield Message(encoder.encode(part), part)
