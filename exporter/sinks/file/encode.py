"""Flow records as what is appended to a file: lines, or Arrow record batches for Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from exporter.batch.attributes import Attribute
from exporter.batch.batch import FlowBatch
from exporter.errors import ConfigError
from exporter.fanout.contract import Message
from exporter.sinks.encodings import jsonl
from exporter.sinks.file.config import FileConfig

#: Records in one message: some MB, so that what has to be taken back on a full disk is little.
_ROWS = {"jsonl": 8192, "parquet": 16_384}


@dataclass(frozen=True)
class Part(Message):
    """
    What is appended at once.

    Args:
        header: What the file that it goes to begins with; in another file it cannot be read.
    """

    header: bytes = b""


class Encoder(Protocol):
    """One format."""

    def encode(self, batch: FlowBatch) -> Part:
        """All rows, in order."""


class Lines:
    """
    JSON lines.

    Args:
        config: Which keys.
    """

    def __init__(self, config: FileConfig) -> None:
        self._shape = jsonl.SHAPES[config.schema_name]

    def encode(self, batch: FlowBatch) -> Part:
        """An object and a newline for each row."""
        return Part(jsonl.encode(batch, self._shape), batch)


class RecordBatches:
    """
    The parts of an Arrow IPC stream: the schema, then one record batch after the other.

    The schema has what the enrichers add. Should a batch have more, as one from a spool of an agent
    that was configured otherwise, the schema has that too from then on, in another file.

    Args:
        config: How addresses are written.
        added: What enrichment adds.

    Raises:
        ConfigError: Without pyarrow.

    Source: https://arrow.apache.org/docs/format/Columnar.html, IPC streaming format.
    """

    def __init__(self, config: FileConfig, added: Sequence[Attribute] = ()) -> None:
        # Imported here: 40 MB that only Parquet needs.
        from exporter.sinks.encodings.arrow import ArrowColumns

        self._addresses = config.addresses
        try:
            self._columns = ArrowColumns(config.addresses, added)
        except ImportError as err:
            raise ConfigError(
                "Parquet needs pyarrow: install flow-exporter[parquet], or write JSON lines"
            ) from err

    def encode(self, batch: FlowBatch) -> Part:
        """One encapsulated message, after those of its dictionaries."""
        from exporter.sinks.encodings.arrow import ArrowColumns

        added = batch.attributes()
        if not set(added) <= set(self._columns.added):
            self._columns = ArrowColumns(self._addresses, (*self._columns.added, *added))
        return Part(self._columns.messages(batch), batch, self._columns.header)


def encoder(config: FileConfig, added: Sequence[Attribute] = ()) -> Encoder:
    """The one for a configuration. Raises ConfigError if something is not installed."""
    return RecordBatches(config, added) if config.written_as == "parquet" else Lines(config)


def messages(encoder: Encoder, batch: FlowBatch, config: FileConfig) -> Iterator[Part]:
    """A batch as messages; every row is in exactly one, in order."""
    rows = _ROWS[config.written_as]
    for start in range(0, len(batch), rows):
        yield encoder.encode(batch.take(slice(start, start + rows)))
