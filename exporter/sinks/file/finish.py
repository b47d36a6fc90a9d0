"""
What makes a finished file of one that is full: compression, and Parquet out of what was collected.

A finished file is written under another name and renamed when all of it is there, so that nobody
reads a part of one. What it was made of is removed last: a process that is killed in between leaves
that behind, and the next one finishes it, once.
"""

from __future__ import annotations

import errno
import gzip
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

from exporter.batch.schema import COLUMNS
from exporter.sinks.file.append import AppendFile
from exporter.sinks.file.names import Names

#: Rows of a row group: what a reader skips or reads at once, and what is in memory here, 30 MB.
_GROUP = 131_072
#: Values that hardly repeat: a dictionary of them costs twice the time and gains nothing (measured,
#: with zstd 45 instead of 39 octets for a flow).
_WITHOUT_DICTIONARY = frozenset(
    {"flow_start_ns", "flow_end_ns", "packet_count", "octet_count_l2", "octet_count_l3"}
)


class Stopped(Exception):
    """Told to stop before it was done; what was full is still there."""


class Finish(Protocol):
    """How a full file becomes a finished one."""

    def __call__(self, full: AppendFile, stopped: Callable[[], bool]) -> Path:
        """
        Finish a file, or find that it is.

        Args:
            full: Locked. Removed when it is done, if it is not the finished file itself.
            stopped: Asked now and then.

        Returns:
            The finished file.

        Raises:
            OSError: Of the file system; the full file is as it was.
            Stopped: Likewise.
        """


class Plain:
    """Finished as it is."""

    def __call__(self, full: AppendFile, stopped: Callable[[], bool]) -> Path:  # noqa: ARG002
        """Nothing to do."""
        return full.path


class Gzip:
    """
    Compressed.

    Args:
        names: Of the files.
        sync: Whether to wait until the disk has it.
    """

    def __init__(self, names: Names, *, sync: bool) -> None:
        self._names = names
        self._sync = sync

    def __call__(self, full: AppendFile, stopped: Callable[[], bool]) -> Path:
        """Lines are compressed at level 6, gzip's own."""
        stamp = self._names.stamp_of(full.path)
        finished = self._names.finished(stamp, ".gz")
        if not finished.exists():
            part = self._names.unfinished(stamp, ".gz")
            with _removed_on_failure(part), full.path.open("rb") as source:
                with gzip.GzipFile(part, "wb", compresslevel=6) as target:
                    while block := source.read(1 << 20):
                        target.write(block)
                        if stopped():
                            raise Stopped
                _publish(full.path, part, finished, sync=self._sync)
        full.path.unlink()
        return finished


class Parquet:
    """
    An Arrow IPC stream as a Parquet file.

    Args:
        names: Of the files.
        compression: As pyarrow calls it.
        sync: Whether to wait until the disk has it.
    """

    def __init__(
        self, names: Names, compression: Literal["none", "gzip", "snappy", "zstd"], *, sync: bool
    ) -> None:
        self._names = names
        self._compression = compression
        self._sync = sync

    def __call__(self, full: AppendFile, stopped: Callable[[], bool]) -> Path:
        """Row groups of 130,000 flows."""
        stamp = self._names.stamp_of(full.path)
        finished = self._names.finished(stamp)
        if not finished.exists():
            part = self._names.unfinished(stamp)
            with _removed_on_failure(part):
                self._write(full.path, part, stopped)
                _publish(full.path, part, finished, sync=self._sync)
        full.path.unlink()
        return finished

    def _write(self, source: Path, target: Path, stopped: Callable[[], bool]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            # Not mapped: all of it would count as this process's memory.
            with pa.OSFile(str(source)) as journal:
                reader = pa.ipc.open_stream(journal)
                repeats = [name for name in reader.schema.names if name not in _WITHOUT_DICTIONARY]
                with pq.ParquetWriter(
                    target, reader.schema, compression=self._compression, use_dictionary=repeats
                ) as writer:
                    for group in _groups(_batches(reader)):
                        if stopped():
                            raise Stopped
                        # Each message has dictionaries of its own, a row group one of each.
                        table = pa.Table.from_batches(group, reader.schema).unify_dictionaries()
                        writer.write_table(table, row_group_size=len(table))
        except pa.ArrowException as err:
            raise OSError(errno.EIO, f"what was collected cannot be read: {err}") from err


def whole_messages(path: Path) -> tuple[int, int]:
    """
    What is in the journal that a killed process left.

    Returns:
        Flows in whole messages; 0 if there are none.
        Where these end.

    Raises:
        OSError: If it cannot be read.
    """
    import pyarrow as pa

    flows = end = 0
    with pa.OSFile(str(path)) as journal:
        try:
            reader = pa.ipc.open_stream(journal)
            end = journal.tell()
            while True:
                flows += len(reader.read_next_batch())
                end = journal.tell()
        except (StopIteration, pa.ArrowException, OSError):
            return flows, end


def _batches(reader: Any) -> Iterator[Any]:
    while True:
        try:
            yield reader.read_next_batch()
        except StopIteration:
            return


def _groups(batches: Iterator[Any]) -> Iterator[list[Any]]:
    """Batches in order, together as large as a row group may be."""
    group: list[Any] = []
    rows = 0
    for batch in batches:
        if group and rows + len(batch) > _GROUP:
            yield group
            group, rows = [], 0
        group.append(batch)
        rows += len(batch)
    if group:
        yield group


class _removed_on_failure:  # noqa: N801 - reads as what it does
    """Within it, a file is written that must not stay if that fails."""

    def __init__(self, part: Path) -> None:
        self._part = part

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._part.unlink(missing_ok=True)


def _publish(source: Path, part: Path, finished: Path, *, sync: bool) -> None:
    """Give a file that is complete its name."""
    shutil.copymode(source, part)
    if sync:
        _sync(part)
    part.rename(finished)
    if sync:
        _sync(finished.parent)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


assert {column.name for column in COLUMNS} >= _WITHOUT_DICTIONARY
