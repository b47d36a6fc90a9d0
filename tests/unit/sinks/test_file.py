"""Files: what is in them, when one ends, and what is left when something goes wrong."""

from __future__ import annotations

import gzip
import json
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from exporter.errors import ConfigError, SinkError
from exporter.fanout.contract import Message
from exporter.sinks.encodings.arrow import ArrowColumns
from exporter.sinks.file.config import FileConfig
from exporter.sinks.file.sink import FileSink
from exporter.sinks.url import parse_sink
from exporter.testing import Row, make_batch

Open = Callable[..., FileSink]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Makes sinks that are closed after the test."""
    made: list[FileSink] = []

    def make(path: Path, **keys: Any) -> FileSink:
        sink = FileSink("file", FileConfig.model_validate({"path": path, **keys}))
        sink.open()
        made.append(sink)
        return sink

    yield make
    for sink in made:
        sink.close()


def message(sink: FileSink, first: int, rows: int = 10) -> Message:
    """Flows whose source ports count up from ``first``."""
    (made,) = sink.encode(make_batch(*(Row(src_port=first + n) for n in range(rows))))
    return made


def deliver(sink: FileSink, *firsts: int) -> None:
    for first in firsts:
        sink.deliver(message(sink, first), 10)


def finished(directory: Path) -> list[Path]:
    """Finished files, oldest first."""
    return sorted(p for p in directory.iterdir() if "-" in p.name and not p.name.startswith("."))


def ports(files: Iterable[Path]) -> list[int]:
    """Source ports in files, in order."""
    found: list[int] = []
    for path in files:
        if path.suffix == ".parquet":
            found += pq.read_table(path)["src_port"].to_pylist()
            continue
        octets = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        found += [json.loads(line)["source"]["port"] for line in octets.splitlines()]
    return found


def everything(directory: Path) -> list[int]:
    """Source ports in all files, in the order in which they were written."""
    active = directory / "flows.jsonl"
    return ports([*finished(directory), *([active] if active.exists() else [])])


def until(condition: Callable[[], Any]) -> None:
    """Wait for what will be so soon."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _has_finished(directory: Path, files: int) -> bool:
    return len(finished(directory)) == files


@pytest.mark.parametrize("compression", ["auto", "gzip"])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rotation_loses_and_repeats_nothing(
    tmp_path: Path, opened: Open, suffix: str, compression: str
) -> None:
    """Many files of a few messages each: every record once, in order; nothing else is left."""
    size = len(message(opened(tmp_path / f"x.{suffix}"), 10_000).payload)
    directory = tmp_path / "made"
    sink = opened(
        directory / f"flows.{suffix}", rotate={"octets": 4 * size}, compression=compression
    )
    deliver(sink, *range(10_000, 12_000, 10))
    sink.close()
    assert everything(directory) == list(range(10_000, 12_000))
    files = finished(directory)
    assert 49 <= len(files) <= 100
    active = ["flows.jsonl"] if suffix == "jsonl" else []
    assert sorted(p.name for p in directory.iterdir() if p not in files) == active
    if (suffix, compression) == ("jsonl", "gzip"):
        assert {path.suffix for path in files} == {".gz"}
    elif suffix == "jsonl":
        assert max(path.stat().st_size for path in files) <= 4 * size


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rotation_in_time(tmp_path: Path, opened: Open, suffix: str) -> None:
    """A file ends so long after its first record, although no other record comes."""
    sink = opened(tmp_path / f"flows.{suffix}", rotate={"every": "300ms"})
    for number in (1, 2):
        deliver(sink, 1000 * number)
        until(partial(_has_finished, tmp_path, number))
    assert everything(tmp_path) == [*range(1000, 1010), *range(2000, 2010)]
    # An empty file never ends.
    time.sleep(0.5)
    assert len(finished(tmp_path)) == 2


@pytest.mark.parametrize(
    ("keep", "left"),
    [({"files": 3}, 3), ({"octets": 13_000}, 2), ({"age": "1h"}, 10), ({"age": "1ms"}, 1)],
)
def test_old_files_go(tmp_path: Path, opened: Open, keep: dict[str, Any], left: int) -> None:
    """The oldest go, when there are too many, too much or too old ones; the others stay whole."""
    (tmp_path / "flows-of-mine.jsonl").write_text("not ours")
    sink = opened(tmp_path / "flows.jsonl", rotate={"octets": 1}, keep=keep)
    for first in range(1000, 1110, 10):
        deliver(sink, first)
        time.sleep(0.01)
    sink.close()
    (tmp_path / "flows-of-mine.jsonl").unlink()
    assert len(finished(tmp_path)) <= left
    found = everything(tmp_path)
    assert found == list(range(1110 - len(found), 1110))
    assert len(found) >= 10 * min(left, 2)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_the_clock_was_set_back(tmp_path: Path, opened: Open, suffix: str) -> None:
    """Files that are called after a later time are the oldest all the same: they go first."""
    path, options = tmp_path / f"flows.{suffix}", {"rotate": {"octets": 1}, "keep": {"files": 3}}
    sink = opened(path, **options)
    deliver(sink, 1000, 1010)
    sink.close()
    for number, file in enumerate(finished(tmp_path)):
        file.rename(tmp_path / f"flows-20991231T23595{number}.000000Z.{suffix}")
    assert any("2099" in file.name for file in finished(tmp_path))
    sink = opened(path, **options)
    deliver(sink, 2000, 2010, 2020, 2030)
    sink.close()
    assert len(finished(tmp_path)) == 3
    assert set(everything(tmp_path)) >= set(range(2010, 2040))
    assert not [file for file in finished(tmp_path) if "2099" in file.name]


def test_lines_go_on_after_a_restart(tmp_path: Path, opened: Open) -> None:
    """A file of lines that is not full is continued."""
    for first in (1000, 2000):
        sink = opened(tmp_path / "flows.jsonl")
        deliver(sink, first)
        sink.close()
    assert finished(tmp_path) == []
    assert everything(tmp_path) == [*range(1000, 1010), *range(2000, 2010)]
    assert (tmp_path / "flows.jsonl").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("how", ["rename", "unlink", "truncate"])
def test_somebody_else_rotates(tmp_path: Path, opened: Open, how: str) -> None:
    """logrotate's ways: what comes afterwards is in a new file, and in no other."""
    sink = opened(tmp_path / "flows.jsonl")
    deliver(sink, 1000)
    active, away = tmp_path / "flows.jsonl", tmp_path / "flows.jsonl.1"
    if how == "rename":
        active.rename(away)
    elif how == "unlink":
        active.unlink()
    else:
        os.truncate(active, 0)
    deliver(sink, 2000, 3000)
    assert ports([active]) == [*range(2000, 2010), *range(3000, 3010)]
    if how == "rename":
        assert ports([away]) == list(range(1000, 1010))


def test_a_torn_line_is_cut_off(
    tmp_path: Path, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """What a killed process left of a message: whole lines stay, the torn one goes, named."""
    sink = opened(tmp_path / "flows.jsonl")
    deliver(sink, 1000)
    sink.close()
    file = tmp_path / "flows.jsonl"
    with file.open("ab") as torn:
        torn.write(file.read_bytes()[: 100_000 // 50])
    whole = file.read_bytes().rfind(b"\n") + 1
    cut = file.stat().st_size - whole
    assert cut > 0
    sink = opened(tmp_path / "flows.jsonl")
    deliver(sink, 2000)
    found = everything(tmp_path)
    assert found[:10] == list(range(1000, 1010))
    assert found[-10:] == list(range(2000, 2010))
    assert f"{cut} octets cut off" in caplog.text


def test_a_journal_that_was_left(
    tmp_path: Path, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Of a Parquet file that was never finished, wherever the process was killed: all whole messages
    are in a file after the next start.
    """
    sink = opened(tmp_path / "a" / "flows.parquet")
    messages = [message(sink, first) for first in (1000, 2000, 3000)]
    parts = [ArrowColumns("text").header, *(one.payload for one in messages)]
    whole = b"".join(parts)
    ends = [sum(map(len, parts[: n + 1])) for n in range(4)]
    for end in {*range(0, len(whole), 61), *ends, *(e + 1 for e in ends), *(e - 1 for e in ends)}:
        directory = tmp_path / str(end)
        directory.mkdir()
        (directory / ".flows-20261121T000000.000001Z.journal").write_bytes(whole[:end])
        (directory / ".flows-20261121T000000.000001Z.parquet.tmp").write_bytes(b"PAR1")
        caplog.clear()
        sink = opened(directory / "flows.parquet")
        sink.close()
        whole_ones = sum(1 for at in ends[1:] if at <= end)
        expected = [first + n for first in (1000, 2000, 3000)[:whole_ones] for n in range(10)]
        assert everything(directory) == expected
        assert f"its {10 * whole_ones} flows are finished now" in caplog.text
        assert "flows-20261121T000000.000001Z.parquet.tmp, which was never" in caplog.text
        left = ["flows-20261121T000000.000001Z.parquet"] if whole_ones else []
        assert [path.name for path in directory.iterdir()] == left


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_killed_between_renaming_and_removing(tmp_path: Path, opened: Open, suffix: str) -> None:
    """The finished file and what it was made of are both there: the records count once."""
    sink = opened(tmp_path / f"flows.{suffix}", compression="gzip", rotate={"octets": 1})
    deliver(sink, 1000, 2000)
    sink.close()
    first = finished(tmp_path)[0]
    stamp = first.name.removeprefix("flows-").partition(f".{suffix}")[0]
    rest = f".flows-{stamp}.journal" if suffix == "parquet" else f"flows-{stamp}.jsonl"
    (tmp_path / rest).write_bytes(b"what it was made of\n")
    opened(tmp_path / f"flows.{suffix}", compression="gzip", rotate={"octets": 1}).close()
    assert not (tmp_path / rest).exists()
    assert everything(tmp_path) == [*range(1000, 1010), *range(2000, 2010)]


def test_one_writer(tmp_path: Path, opened: Open) -> None:
    """Another process has the file: a clear, retryable error, until it is done with it."""
    one, other = opened(tmp_path / "flows.jsonl"), opened(tmp_path / "flows.jsonl")
    deliver(one, 1000)
    with pytest.raises(SinkError, match="another process writes to it") as caught:
        deliver(other, 2000)
    assert (caught.value.reason, caught.value.retryable) == ("locked", True)
    one.close()
    deliver(other, 2000)
    assert everything(tmp_path) == [*range(1000, 1010), *range(2000, 2010)]


def test_two_writers_of_parquet(tmp_path: Path, opened: Open) -> None:
    """Each collects for itself; neither takes the other's for left behind."""
    one = opened(tmp_path / "flows.parquet")
    deliver(one, 1000)
    other = opened(tmp_path / "flows.parquet")
    deliver(other, 2000)
    deliver(one, 1010)
    other.close()
    one.close()
    assert sorted(everything(tmp_path)) == [*range(1000, 1020), *range(2000, 2010)]


def test_what_does_not_fit_is_taken_back(tmp_path: Path, opened: Open) -> None:
    """A write that ends in the middle of a message leaves nothing of it."""
    sink = opened(tmp_path / "flows.jsonl")
    deliver(sink, 1000)
    size = (tmp_path / "flows.jsonl").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 2000, limits[1]))
        with pytest.raises(SinkError, match="File too large") as caught:
            deliver(sink, 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert (caught.value.reason, caught.value.retryable) == ("failed", True)
    assert (tmp_path / "flows.jsonl").stat().st_size == size
    deliver(sink, 3000)
    assert everything(tmp_path) == [*range(1000, 1010), *range(3000, 3010)]


def test_a_directory_that_cannot_be_made(
    tmp_path: Path, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Said at once and with every message, until it can be."""
    (tmp_path / "file").write_text("")
    sink = opened(tmp_path / "file" / "flows.jsonl")
    assert "File exists" in caplog.text
    with pytest.raises(SinkError, match="File exists") as caught:
        deliver(sink, 1000)
    assert caught.value.retryable
    (tmp_path / "file").unlink()
    deliver(sink, 1000)
    assert everything(tmp_path / "file") == list(range(1000, 1010))


def test_no_time_to_finish(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An agent that is stopped does not wait for long; the next start finishes the file."""
    sink = opened(tmp_path / "flows.parquet")
    deliver(sink, 1000)
    monkeypatch.setattr("exporter.sinks.file.deliver._LAST", -1.0)
    sink.close()
    assert "the next start will" in caplog.text
    assert everything(tmp_path) == []
    monkeypatch.undo()
    opened(tmp_path / "flows.parquet").close()
    assert everything(tmp_path) == list(range(1000, 1010))


def test_a_mistake_does_not_end_it(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be finished for a reason that nobody thought of is tried again."""
    monkeypatch.setattr("exporter.sinks.file.deliver._AGAIN", 0.05)
    sink = opened(tmp_path / "flows.parquet", rotate={"octets": 1})
    with monkeypatch.context() as broken:
        broken.setattr("exporter.sinks.file.finish._publish", None)
        deliver(sink, 1000, 2000)
        until(lambda: "cannot finish" in caplog.text)
    until(partial(_has_finished, tmp_path, 1))
    sink.close()
    assert everything(tmp_path) == [*range(1000, 1010), *range(2000, 2010)]


@pytest.mark.parametrize(("fsync", "expected"), [("never", 0), ("rotate", 0), ("message", 3)])
def test_forced_to_the_disk(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch, fsync: str, expected: int
) -> None:
    """With ``message``, each before it counts as delivered."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_size))
    sink = opened(tmp_path / "flows.jsonl", fsync=fsync)
    for number in range(1, 4):
        deliver(sink, 1000 * number)
        if expected:
            assert synced[number - 1 :] == [(tmp_path / "flows.jsonl").stat().st_size]
    assert len(synced) == expected


@pytest.mark.parametrize("name", ["flows.jsonl", "flows.jsonl.gz", "flows.parquet"])
@pytest.mark.parametrize("fsync", ["never", "rotate"])
def test_finished_files_are_forced_to_the_disk(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch, fsync: str, name: str
) -> None:
    """With ``rotate``, each file whole, and where it has got another name that, too."""
    sync, synced = os.fsync, dict[int, int]()

    def watched(fd: int) -> None:
        synced[os.fstat(fd).st_ino] = os.fstat(fd).st_size
        sync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    path, zipped = tmp_path / name.removesuffix(".gz"), name.endswith(".gz")
    sink = opened(path, fsync=fsync, rotate={"octets": 1}, compression="gzip" if zipped else "auto")
    deliver(sink, 1000, 2000, 3000)
    sink.close()
    files = finished(tmp_path)
    assert len(files) >= 2
    if fsync == "never":
        assert synced == {}
        return
    for file in files:
        assert synced[file.stat().st_ino] == file.stat().st_size
    assert (tmp_path.stat().st_ino in synced) is (name != "flows.jsonl")


def test_closed(tmp_path: Path, opened: Open) -> None:
    """Closing again, or before opening, is fine; delivering fails then."""
    FileSink("file", FileConfig(path=tmp_path / "x.jsonl")).close()
    sink = opened(tmp_path / "flows.jsonl")
    late = message(sink, 1)
    sink.close()
    sink.close()
    assert list(sink.split(late)) == []
    with pytest.raises(SinkError, match="cancelled"):
        sink.deliver(late, 1)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"path": "/d/flows.txt"}, "ends in .jsonl or .parquet"),
        ({"path": "flows.jsonl"}, "absolute"),
        ({"path": "/d/flows.jsonl", "compression": "zstd"}, "one of auto, none, gzip"),
    ],
)
def test_configurations_that_cannot_be(keys: dict[str, Any], expected: str) -> None:
    """One line that says what would be right."""
    with pytest.raises(ValidationError, match=expected):
        FileConfig.model_validate(keys)


def test_urls() -> None:
    """Three slashes and a path; options as ever."""
    assert parse_sink("file:///d/my%20flows.parquet?rotate.every=1m") == {
        "type": "file",
        "path": "/d/my flows.parquet",
        "rotate": {"every": "1m"},
    }
    with pytest.raises(ConfigError, match="three slashes"):
        parse_sink("file://d/flows.jsonl")
    assert parse_sink("stdout://?format=json") == {"type": "stdout", "format": "json"}


def test_without_pyarrow(tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"install flow-exporter\[parquet\]"):
        opened(tmp_path / "flows.parquet")
