"""Spools that were damaged: what is lost is counted, what is not damaged is delivered, once."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.batch.batch import Totals
from exporter.fanout.config import QueueConfig, SpoolConfig
from exporter.fanout.queue import BatchQueue
from exporter.fanout.spool import frame
from exporter.fanout.spool.spool import Spool
from exporter.ledger import SinkCounts
from tests.unit.fanout.spool.test_machine import numbered, totals_of

#: Batches of three rows, so that each has a sum that no other has.
BATCHES, ROWS = 12, 3
ALL = [list(range(n * ROWS, (n + 1) * ROWS)) for n in range(BATCHES)]


def opened(directory: Path, rows: int = 1000) -> BatchQueue:
    spool = Spool(SpoolConfig(directory=directory), "sink")
    spool._segment_octets = lambda: 3000  # type: ignore[method-assign]
    queue = BatchQueue(QueueConfig(rows=rows), spool)
    queue.open()
    return queue


def filled(directory: Path, settled: int = 0) -> list[Path]:
    """A spool with all batches, some of them settled; its files."""
    queue = opened(directory)
    for number, rows in enumerate(ALL):
        batch = numbered(rows[0], len(rows))
        queue.put(batch, queue.store(batch))
        if number < settled:
            assert queue.take() is not None
            queue.delivered(batch.totals)
    queue.shut()
    return sorted((directory / "sink").glob("*.segment"))


def drained(queue: BatchQueue) -> tuple[list[list[int]], SinkCounts]:
    """All batches that come out, as row numbers, and the account then."""
    queue.close()
    found = []
    while (batch := queue.take()) is not None:
        assert batch.packet_count.tolist() == [1 << n for n in batch.src_port.tolist()]
        found.append(batch.src_port.tolist())
        queue.delivered(batch.totals)
    counts = queue.counts()
    queue.shut()
    assert counts.recovered + counts.queued == counts.delivered + counts.dropped_total
    return found, counts


@st.composite
def damages(draw: st.DrawFn) -> tuple[int, float, str, int]:
    kind = draw(st.sampled_from(("flip", "zeros", "cut")))
    return draw(st.integers(0, 3)), draw(st.floats(0, 1)), kind, draw(st.integers(0, 600))


def inflict(files: list[Path], damage: tuple[int, float, str, int]) -> bool:
    """Do it. Returns whether the end of the last file was reached."""
    which, where, kind, extent = damage
    path = files[which % len(files)]
    octets = bytearray(path.read_bytes())
    at = min(int(where * len(octets)), len(octets) - 1)
    if kind == "cut":
        del octets[at:]
    elif kind == "zeros":
        octets[at : at + extent] = bytes(len(octets[at : at + extent]))
    elif octets:
        octets[at] ^= 1 << extent % 8
    path.write_bytes(octets)
    return path == files[-1]


@settings(max_examples=100, deadline=None)
@given(st.lists(damages(), min_size=1, max_size=3), st.integers(0, BATCHES - 1))
def test_any_damage(damage: list[tuple[int, float, str, int]], settled: int) -> None:
    """
    Batches that are delivered are whole, in order and come once; of those that are missing each is
    counted to the row, but for whole ones at the very end, of which only octets are left.
    """
    directory = Path(tempfile.mkdtemp())
    try:
        files = filled(directory, settled)
        reached = [inflict(files, one) for one in damage]
        found, counts = drained(opened(directory))
        waiting = ALL[settled:]
        assert found == [rows for rows in waiting if rows in found]
        missing = [rows for rows in waiting if rows not in found]
        counted = counts.dropped.get("spool_corrupt", Totals())
        assert set(counts.dropped) <= {"spool_corrupt"}
        uncounted = sum((totals_of(rows) for rows in missing), Totals()) - counted
        if any(reached) and uncounted != Totals():
            # What nothing comes after: the last so many batches.
            suffixes = [waiting[n:] for n in range(len(waiting))]
            assert uncounted in [
                sum((totals_of(rows) for rows in rest), Totals()) for rest in suffixes
            ]
        else:
            assert uncounted == Totals()
        # It goes on: what is written now is there at the next start, and nothing else.
        queue = opened(directory)
        assert queue.counts().recovered == Totals()
        batch = numbered(50, 2)
        queue.put(batch, queue.store(batch))
        queue.shut()
        assert drained(opened(directory))[0] == [[50, 51]]
    finally:
        shutil.rmtree(directory)


def test_a_header_in_the_middle_is_destroyed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next header has the sums: the rows are counted, and the log says where and how many."""
    files = filled(tmp_path)
    octets = bytearray(files[1].read_bytes())
    at = octets.index(frame.MAGIC)
    octets[at : at + 20] = bytes(20)
    files[1].write_bytes(octets)
    found, counts = drained(opened(tmp_path))
    missing = [rows for rows in ALL if rows not in found]
    assert len(missing) == 1
    assert counts.dropped == {"spool_corrupt": totals_of(missing[0])}
    assert re.search(rf"{files[1].name}: \d+ octets at {at} are damaged", caplog.text)


def test_a_torn_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The last batch was not written to its end: it is cut off, said, and counted."""
    files = filled(tmp_path)
    size = files[-1].stat().st_size
    with files[-1].open("r+b") as file:
        file.truncate(size - 5)
    found, counts = drained(opened(tmp_path))
    assert found == ALL[:-1]
    assert counts.dropped == {"spool_corrupt": totals_of(ALL[-1])}
    assert "cut off" in caplog.text
    assert "a batch of 3 rows is torn" in caplog.text


def test_a_file_is_gone(tmp_path: Path) -> None:
    """Its rows are counted."""
    files = filled(tmp_path)
    files[1].unlink()
    found, counts = drained(opened(tmp_path))
    missing = sum((totals_of(rows) for rows in ALL if rows not in found), Totals())
    assert missing.flows
    assert counts.dropped == {"spool_corrupt": missing}


def test_a_foreign_file_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is no segment of ours is moved aside, not deleted."""
    (tmp_path / "sink").mkdir()
    foreign = tmp_path / "sink" / "00000000000000000001.segment"
    foreign.write_bytes(b"something else altogether, of a later version perhaps")
    queue = opened(tmp_path)
    assert queue.counts().recovered == Totals()
    queue.shut()
    assert foreign.with_suffix(".damaged").read_bytes().startswith(b"something else")
    assert "holds no batch that can be read" in caplog.text


def test_no_cursor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Everything that is there comes again: once too often is better than never."""
    filled(tmp_path, settled=8)
    (tmp_path / "sink" / "cursor").write_bytes(b"garbage")
    found, counts = drained(opened(tmp_path))
    assert found == [rows for rows in ALL if rows in found]
    assert found[-4:] == ALL[8:]
    assert counts.dropped == {}
    assert "no cursor" in caplog.text


def test_an_orderly_end_leaves_no_segment(tmp_path: Path) -> None:
    """Nothing waits: the directory holds the cursor alone, and numbers go on."""
    filled(tmp_path, settled=BATCHES)
    assert [path.name for path in (tmp_path / "sink").iterdir()] == ["cursor"]
    queue = opened(tmp_path)
    assert queue.store(numbered(0, 1)) == BATCHES + 1
    queue.shut()


def test_one_of_two_places_of_the_cursor_is_torn(tmp_path: Path) -> None:
    """The other one counts: one batch comes again."""
    filled(tmp_path, settled=5)
    cursor = tmp_path / "sink" / "cursor"
    octets = bytearray(cursor.read_bytes())
    # The beginning went to the second place, so the fifth to the first.
    octets[30] ^= 1
    cursor.write_bytes(octets)
    found, _ = drained(opened(tmp_path))
    assert found == ALL[4:]


def test_the_log_of_a_clean_start_is_empty(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is damaged, nothing is said."""
    caplog.set_level(logging.DEBUG)
    filled(tmp_path, settled=3)
    assert drained(opened(tmp_path))[0] == ALL[3:]
    assert caplog.records == []
