"""Writing to readers that stop, come back, go away; and to a disk that is full."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.batch.batch import Totals
from exporter.errors import SinkError
from exporter.fanout.config import QueueConfig, RetryConfig
from exporter.fanout.queue import BatchQueue
from exporter.fanout.worker import SinkWorker
from exporter.sinks.stdout.config import StdoutConfig
from exporter.sinks.stdout.deliver import DescriptorWriter
from exporter.sinks.stdout.sink import LineSink, TableSink, make
from exporter.testing import Row, make_batch

#: More than a pipe holds.
MUCH = b"".join(b"%09d\n" % n for n in range(200_000))


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Reading and writing end; whatever is still open is closed."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def read_all(fd: int, into: list[bytes]) -> threading.Thread:
    """Read until the end, in the background."""

    def read() -> None:
        while chunk := os.read(fd, 1 << 16):
            into.append(chunk)

    thread = threading.Thread(target=read)
    thread.start()
    return thread


def test_a_reader_gets_every_octet(pipe: tuple[int, int]) -> None:
    """Much more than a pipe holds arrives as it was."""
    reading, writing = pipe
    parts: list[bytes] = []
    reader = read_all(reading, parts)
    DescriptorWriter(writing).write(MUCH, 10)
    os.close(writing)
    reader.join(10)
    assert b"".join(parts) == MUCH


def test_a_reader_that_stops_and_resumes(pipe: tuple[int, int]) -> None:
    """Nobody reads: slow, after the timeout. The retry goes on where it stopped."""
    reading, writing = pipe
    writer = DescriptorWriter(writing)
    began = time.monotonic()
    with pytest.raises(SinkError, match="nobody reads") as caught:
        writer.write(MUCH, 0.3)
    assert 0.3 <= time.monotonic() - began < 3
    assert (caught.value.reason, caught.value.retryable) == ("slow", True)
    parts: list[bytes] = []
    reader = read_all(reading, parts)
    writer.write(MUCH, 10)
    writer.write(b"next\n", 10)
    os.close(writing)
    reader.join(10)
    assert b"".join(parts) == MUCH + b"next\n"


def test_a_slow_reader_is_not_a_stopped_one(pipe: tuple[int, int]) -> None:
    """As long as something is taken, the timeout begins anew."""
    reading, writing = pipe
    got: list[int] = []

    def read_slowly() -> None:
        while chunk := os.read(reading, 1 << 16):
            got.append(len(chunk))
            time.sleep(0.3)

    reader = threading.Thread(target=read_slowly)
    reader.start()
    # More than the timeout in all, less at a time.
    began = time.monotonic()
    DescriptorWriter(writing).write(MUCH[:400_000], 1)
    assert time.monotonic() - began > 1
    os.close(writing)
    reader.join(10)
    assert sum(got) == 400_000


def test_a_reader_that_goes_away(pipe: tuple[int, int]) -> None:
    """Nobody will ever read: closed, and no retry."""
    reading, writing = pipe
    os.close(reading)
    with pytest.raises(SinkError) as caught:
        DescriptorWriter(writing).write(b"x", 10)
    assert (caught.value.reason, caught.value.retryable) == ("closed", False)


def test_a_reader_that_goes_away_meanwhile(pipe: tuple[int, int]) -> None:
    """The same while a write waits: it does not wait until the timeout."""
    reading, writing = pipe
    threading.Timer(0.2, os.close, (reading,)).start()
    began = time.monotonic()
    with pytest.raises(SinkError, match="closed"):
        DescriptorWriter(writing).write(MUCH, 30)
    assert time.monotonic() - began < 5


def test_stopping_ends_a_write(pipe: tuple[int, int]) -> None:
    """Told to stop, a write that waits fails soon; one that need not wait still succeeds."""
    reading, writing = pipe
    writer = DescriptorWriter(writing)
    threading.Timer(0.2, writer.stop).start()
    began = time.monotonic()
    with pytest.raises(SinkError, match="slow"):
        writer.write(MUCH, 30)
    assert time.monotonic() - began < 5
    os.read(reading, 1 << 20)
    DescriptorWriter(writing).write(b"fits\n", 1)


def test_a_full_disk() -> None:
    """No room: failed, with the system's words, and worth another try."""
    with Path("/dev/full").open("wb", buffering=0) as full:
        writer = DescriptorWriter(full.fileno())
        for _ in range(2):
            with pytest.raises(SinkError, match="No space left on device") as caught:
                writer.write(b"x" * 10_000, 1)
            assert (caught.value.reason, caught.value.retryable) == ("failed", True)


def test_a_regular_file(tmp_path: Path) -> None:
    """A file takes all of it."""
    with (tmp_path / "flows.jsonl").open("wb") as file:
        DescriptorWriter(file.fileno()).write(MUCH, 1)
    assert (tmp_path / "flows.jsonl").read_bytes() == MUCH


def test_every_record_is_a_line_once(pipe: tuple[int, int]) -> None:
    """The sink in its thread, a reader that stops for a while: all records, each once, in order."""
    reading, writing = pipe
    queue = BatchQueue(QueueConfig())
    retry = RetryConfig(first=0.01, longest=0.01, timeout=0.1)
    worker = SinkWorker(LineSink("stdout", StdoutConfig(), writing), queue, retry)
    worker.start()
    rows = 3000
    queue.put(make_batch(*(Row(src_port=n) for n in range(rows))))
    while not worker.retries:
        time.sleep(0.01)
    parts: list[bytes] = []
    reader = read_all(reading, parts)
    worker.stop(30)
    os.close(writing)
    reader.join(10)
    ports = [json.loads(line)["source"]["port"] for line in b"".join(parts).splitlines()]
    assert ports == list(range(rows))
    assert queue.counts().delivered.flows == rows
    assert queue.counts().pending == Totals()


@pytest.mark.parametrize(
    ("format_name", "terminal", "kind"),
    [
        ("auto", True, TableSink),
        ("auto", False, LineSink),
        ("json", True, LineSink),
        ("table", False, TableSink),
    ],
)
def test_what_standard_output_is(
    format_name: str, terminal: bool, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table on a terminal, lines in a pipe, unless told otherwise."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    config = StdoutConfig.model_validate({"format": format_name})
    assert isinstance(make("stdout", config), kind)
