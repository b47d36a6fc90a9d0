"""
Flow records to files: JSON lines or Parquet.

At least once, with nothing twice as long as the process lives: a message counts as delivered when
all of it is in the file (with ``fsync: message``, on the disk), and a part of one is taken back. Of
a message that is under way when the process is killed, some whole lines may stay, and a spool then
brings it again. Blocks while the disk does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exporter.batch.attributes import Attribute
from exporter.batch.batch import FlowBatch
from exporter.fanout.contract import Message
from exporter.sinks.file.config import FileConfig
from exporter.sinks.file.deliver import RotatingFile
from exporter.sinks.file.encode import Encoder, Part, encoder, messages


class FileSink:
    """
    Files with rotation.

    Args:
        name: For logs and counters.
        config: Where, which format, when a file ends.
        added: What enrichment adds.
    """

    def __init__(self, name: str, config: FileConfig, added: Sequence[Attribute] = ()) -> None:
        self.name = name
        self._added = added
        self._config = config
        self._encoder: Encoder | None = None
        self._files: RotatingFile | None = None

    def open(self) -> None:
        """Raises ConfigError if something that the format needs is not installed."""
        self._encoder = encoder(self._config, self._added)
        self._files = RotatingFile(self.name, self._config)
        self._files.open()

    def encode(self, batch: FlowBatch) -> Iterator[Message]:
        """Messages of some thousand records."""
        assert self._encoder is not None
        return messages(self._encoder, batch, self._config)

    def deliver(self, message: Message, timeout: float) -> None:
        """Raises SinkError."""
        assert self._files is not None
        assert isinstance(message, Part)
        self._files.append(message.payload, timeout, message.header)

    def split(self, _message: Message) -> Iterator[Message]:
        """Never asked for."""
        return iter(())

    def close(self) -> None:
        """Finish what is collected for Parquet; a file of lines stays to be continued."""
        if self._files is not None:
            self._files.close()
