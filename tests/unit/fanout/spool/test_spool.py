"""What a spool holds, for how long, and in which order; who may read it."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.batch.batch import (
    Details,
    FlowBatch,
    Interface,
    Observer,
    Peer,
    Point,
    Totals,
    Window,
)
from exporter.errors import ConfigError
from exporter.fanout.config import QueueConfig, SpoolConfig
from exporter.fanout.queue import BatchQueue
from exporter.fanout.spool import body, layout, spool
from exporter.fanout.spool.age import AgeClock, Stamp
from exporter.fanout.spool.layout import OWN, Layout
from exporter.fanout.spool.segment import Segment
from exporter.fanout.spool.spool import Spool
from exporter.fanout.spool.sync import Syncer
from exporter.testing import Row, make_batch
from tests.patience import LONGEST, wait_until
from tests.unit.fanout.spool.test_machine import numbered, totals_of

SECOND = 10**9


def queue_in(directory: Path, rows: int = 1000, **config: Any) -> BatchQueue:
    made = BatchQueue(
        QueueConfig(rows=rows), Spool(SpoolConfig(directory=directory, **config), "sink")
    )
    made.open()
    return made


def put(queue: BatchQueue, batch: FlowBatch) -> int:
    number = queue.store(batch)
    queue.put(batch, number)
    return number


def deliver_all(queue: BatchQueue) -> list[int]:
    """Everything that waits, as row numbers."""
    queue.close()
    rows = []
    while (batch := queue.take()) is not None:
        rows += batch.src_port.tolist()
        queue.delivered(batch.totals)
    return rows


def balanced(queue: BatchQueue) -> bool:
    c = queue.counts()
    return c.queued + c.recovered == c.delivered + c.dropped_total + c.pending + c.spooled


KNOWN = Details("veth", "02:00:00:00:00:01", 4026531840, Peer("eth0", 2), "c1", "p1")


def large(first: int, rows: int = 2000) -> FlowBatch:
    """Rows whose columns cannot be narrowed: about 100 octets each."""
    rng = np.random.default_rng(first)
    batch = make_batch(*(Row(src_port=first + n) for n in range(rows)))
    return dataclasses.replace(
        batch,
        packet_count=rng.integers(1 << 40, 1 << 41, rows, np.uint64),
        octet_count_l2=rng.integers(1 << 40, 1 << 41, rows, np.uint64),
    )


def test_a_batch_comes_back_as_it_was(tmp_path: Path) -> None:
    """Every column, points, names that are no UTF-8, observer and window."""
    point, other = Point(0, 2, 0), Point(3, 4_000_000_000, 1)
    batch = make_batch(
        Row(points=(point, other), src_addr="2001:db8::1", dst_addr="::1", duplicate=True),
        Row(points=(point,), packet_count=(1 << 64) - 1, octet_count_l2=0, sampling_interval=0),
        Row(points=(point, other), vlan_id=4095, dscp=63, src_mac="ff:ff:ff:ff:ff:ff"),
        window=Window(5, (1 << 64) - 1),
        interfaces={point: Interface("eth\udcff0"), other: Interface("é", "blue", KNOWN)},
        observer=Observer("2001:db8::9", "host"),
    )
    queue = queue_in(tmp_path)
    put(queue, batch.take(slice(0, 1)))
    put(queue, batch.take(np.array([2, 1])))
    queue.shut()
    queue = queue_in(tmp_path)
    for rows in ([0], [2, 1]):
        found = queue.take()
        assert found is not None
        expected = batch.take(np.array(rows))
        for column in dataclasses.fields(FlowBatch):
            one, two = getattr(found, column.name), getattr(expected, column.name)
            if isinstance(two, np.ndarray):
                assert one.dtype == two.dtype, column.name
                assert one.flags.writeable
                np.testing.assert_array_equal(one, two)
            else:
                assert one == two, column.name
        queue.delivered(found.totals)
    queue.shut()


def test_a_batch_of_a_version_without_details() -> None:
    """Interfaces have their names, and nothing else is known."""
    point = Point(0, 2, 0)
    described = body._describe(
        make_batch(Row(points=(point,)), interfaces={point: Interface("eth0", "blue", KNOWN)})
    )
    del described["details"]
    assert body._undescribe(described)["interfaces"] == {point: Interface("eth0", "blue")}


def test_only_interfaces_that_are_used_are_written(tmp_path: Path) -> None:
    """An agent on a host with thousands of interfaces does not write them all for each batch."""
    points = [Point(0, n, 0) for n in range(5000)]
    batch = make_batch(
        Row(points=(points[7],)), interfaces={p: Interface(f"veth{p.ifindex}") for p in points}
    )
    assert body.body_of(batch).octets < 1000
    queue = queue_in(tmp_path)
    put(queue, batch)
    queue.shut()
    queue = queue_in(tmp_path)
    found = queue.take()
    assert found is not None
    assert found.interfaces == {points[7]: Interface("veth7")}
    queue.shut()


def test_what_does_not_fit_in_memory_is_read_back(tmp_path: Path) -> None:
    """In order, whatever was in memory and what was not; nothing is dropped."""
    queue = queue_in(tmp_path, rows=6)
    for n in range(10):
        put(queue, numbered(n * 4, 4))
    counts = queue.counts()
    assert (counts.pending.flows, counts.spooled.flows) == (4, 36)
    assert counts.safe == counts.pending
    assert deliver_all(queue) == list(range(40))
    assert queue.counts().dropped == {}
    queue.shut()


def test_the_size_is_kept(tmp_path: Path) -> None:
    """
    The oldest batches go, whole files of them; what is being delivered stays, also on disk; the
    files never take more than configured.
    """
    cap = 2 << 20
    queue = queue_in(tmp_path, octets=cap, rows=3000)
    put(queue, large(0))
    held = queue.take()
    assert held is not None
    numbers = list(range(1, 30))
    for n in numbers:
        put(queue, large(n))
        used = sum(path.stat().st_size for path in (tmp_path / "sink").glob("*.segment"))
        assert used <= cap
        assert balanced(queue)
    counts = queue.counts()
    gone = counts.dropped["spool_full"].flows // 2000
    assert 0 < gone < 25
    assert list(counts.dropped) == ["spool_full"]
    # Killed now: the held batch comes again, and then what was not dropped.
    queue.shut()
    again = queue_in(tmp_path, octets=cap)
    recovered = again.counts().recovered
    assert recovered == counts.pending + counts.spooled
    firsts = []
    again.close()
    while (batch := again.take()) is not None:
        firsts.append(int(batch.src_port[0]))
        again.delivered(batch.totals)
    assert firsts == [0, *numbers[gone:]]
    assert again.counts().dropped == {}
    again.shut()


def test_the_held_batch_is_settled_after_others_were_dropped(tmp_path: Path) -> None:
    """Its delivery settles those that were dropped behind it, too."""
    queue = queue_in(tmp_path, octets=1 << 20)
    put(queue, large(0))
    held = queue.take()
    assert held is not None
    for n in range(1, 12):
        put(queue, large(n))
    queue.delivered(held.totals)
    assert queue.counts().dropped["spool_full"].flows
    assert balanced(queue)
    kept = queue.counts().pending + queue.counts().spooled
    queue.shut()
    again = queue_in(tmp_path)
    assert again.counts().recovered == kept
    deliver_all(again)
    assert again.counts().dropped == {}
    again.shut()


def test_a_batch_that_is_larger_than_the_spool(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits in memory, and drops nothing of what is in the spool."""
    queue = queue_in(tmp_path, octets=1 << 20, rows=50_000)
    put(queue, large(0))
    assert put(queue, large(1, 16_000)) == 0
    assert queue.counts().dropped == {}
    assert "too many for spool.octets" in caplog.text
    assert len(deliver_all(queue)) == 18_000
    queue.shut()


def test_too_old(tmp_path: Path) -> None:
    """Exactly what is older than configured is dropped, whoever sets the wall clock."""
    now = [1000 * SECOND]
    clock = AgeClock(lambda: now[0], lambda: b"a" * 16)
    made = Spool(SpoolConfig(directory=tmp_path, age=100), "sink", clock)
    queue = BatchQueue(QueueConfig(), made)
    queue.open()
    for n in range(5):
        put(queue, numbered(n, 1))
        now[0] += 30 * SECOND
    queue.close()
    batch = queue.take()
    assert batch is not None
    assert batch.src_port.tolist() == [2]
    assert queue.counts().dropped == {"spool_expired": totals_of([0, 1])}
    queue.shut()


def test_the_wall_clock_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten years forward and ten back: nothing is too old, nothing is kept for too long."""
    queue = queue_in(tmp_path, age=3600)
    put(queue, numbered(0, 2))
    real = time.time
    for step in (315e6, -315e6):
        monkeypatch.setattr(time, "time", lambda step=step: real() + step)
        monkeypatch.setattr(time, "time_ns", lambda step=step: int((real() + step) * 1e9))
        queue.shut()
        queue = queue_in(tmp_path, age=3600)
        assert queue.counts().recovered == totals_of([0, 1])
    assert deliver_all(queue) == [0, 1]
    queue.shut()


def test_age_goes_on_after_a_restart_and_a_reboot() -> None:
    """Within a boot by its clock; another boot adds its uptime, and the time between is nothing."""
    now, boot = [50], [b"a" * 16]
    first = AgeClock(lambda: now[0], lambda: boot[0])
    first.resume(Stamp())
    begun = first.now()
    now[0] += 10
    last = first.now()
    assert last.age_ns - begun.age_ns == 10
    now[0] += 7
    again = AgeClock(lambda: now[0], lambda: boot[0])
    again.resume(last)
    assert again.now().age_ns - last.age_ns == 7
    now[0], boot[0] = 3, b"b" * 16
    after = AgeClock(lambda: now[0], lambda: boot[0])
    after.resume(last)
    assert after.now().age_ns - last.age_ns == 3


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """
    One line; batches wait in memory by the memory's rules, those on disk make room for them; once
    there is room on the disk it goes on. In order all the while.
    """
    caplog.set_level(logging.INFO)
    queue = queue_in(tmp_path, rows=6)
    put(queue, numbered(0, 3))
    put(queue, numbered(3, 3))
    with monkeypatch.context() as patched:
        patched.setattr(Segment, "_write", full)
        for n in range(6, 16, 2):
            assert put(queue, numbered(n, 2)) == 0
            assert balanced(queue)
    counts = queue.counts()
    assert counts.dropped == {"queue_full": totals_of([6, 7, 8, 9])}
    assert (counts.spooled, counts.safe) == (totals_of(list(range(6))), Totals())
    assert put(queue, numbered(16, 2))
    assert queue.spool_errors == 5
    assert deliver_all(queue) == [*range(6), *range(10, 18)]
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "a batch cannot be written, it waits in memory: No space left on device",
        "batches are written again",
    ]
    queue.shut()


def test_a_disk_with_room_for_a_file_and_not_for_its_first_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The next file has the same name as the empty one: what is written into it later is still there
    when all before it is settled.
    """
    queue = queue_in(tmp_path)
    put(queue, numbered(0, 2))
    write, calls = Segment._write, iter(range(9))

    def second_fails(segment: Segment, buffers: Any) -> int:
        return full() if next(calls) in (0, 2) else write(segment, buffers)

    with monkeypatch.context() as patched:
        # The open file takes no more, and of the next one only the head is written.
        patched.setattr(Segment, "_write", second_fails)
        assert put(queue, numbered(2, 2)) == 0
        assert put(queue, numbered(4, 2)) == 0
    assert put(queue, numbered(6, 2))
    for _ in range(3):
        found = queue.take()
        assert found is not None
        queue.delivered(found.totals)
    queue.shut()
    queue = queue_in(tmp_path)
    assert queue.counts().recovered == totals_of([6, 7])
    assert deliver_all(queue) == [6, 7]
    queue.shut()


def test_a_write_that_stops_half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full within a batch: nothing of it is left, and the next one stands whole."""
    queue = queue_in(tmp_path)
    put(queue, numbered(0, 3))
    real = os.pwritev

    def short(fd: int, buffers: list[Any], offset: int) -> int:
        if len(buffers) < 3:
            return full()
        return real(fd, buffers[:2], offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", short)
        assert put(queue, numbered(3, 3)) == 0
    assert put(queue, numbered(6, 3)) == 2
    queue.abandon("shutdown")
    assert queue.counts().dropped == {"shutdown": totals_of([3, 4, 5])}
    queue.shut()
    again = queue_in(tmp_path)
    assert deliver_all(again) == [0, 1, 2, 6, 7, 8]
    again.shut()


def test_one_agent_at_a_time(tmp_path: Path) -> None:
    """The second is refused; when the first has ended it may."""
    first = queue_in(tmp_path)
    with pytest.raises(ConfigError, match="another agent uses the spool"):
        queue_in(tmp_path)
    first.shut()
    queue_in(tmp_path).shut()


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    """One line with the path and the system's reason."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"the spool .*file/sink cannot be used: Not a directory"):
        queue_in(tmp_path / "file")


def test_a_sink_may_have_any_name(tmp_path: Path) -> None:
    """Its directory is below the one that is configured."""
    for name in ("..", ".", "a/../../b", "é\n"):
        path = Spool(SpoolConfig(directory=tmp_path), name).path
        assert path.resolve().parent == tmp_path.resolve()
        assert path.name.isprintable()


@pytest.mark.parametrize("policy", ["never", "batch", 0.05])
def test_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str | float) -> None:
    """Never, for each batch, or so often; at the end once more if it is configured at all."""
    calls = watched_fsync(monkeypatch)
    queue = queue_in(tmp_path, fsync=policy)
    for n in range(3):
        put(queue, numbered(n, 1))
        if policy == "batch":
            wait_until(lambda n=n: len(calls) > n, "the batch is synced")  # type: ignore[misc]
    queue.shut()
    assert {"never": 0, "batch": 4, 0.05: 1}[policy] <= len(calls)
    # Once for each batch and at the end: there is never more to sync.
    assert len(calls) <= (0 if policy == "never" else 4)


def test_fsync_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written while an fsync goes on has one of its own, also if that was the last."""
    began, go_on = threading.Event(), threading.Event()

    def slow(_fd: int) -> None:
        began.set()
        assert go_on.wait(LONGEST)

    calls = watched_fsync(monkeypatch, slow)
    file = (tmp_path / "file").open("wb")
    syncer = Syncer(0.0, lambda: os.dup(file.fileno()))
    syncer.start()
    syncer.written()
    assert began.wait(LONGEST)
    syncer.written()
    stop = threading.Thread(target=syncer.stop)
    stop.start()
    wait_until(syncer._stopped.is_set, "it is told to end")
    assert calls == []
    go_on.set()
    stop.join(LONGEST)
    file.close()
    assert len(calls) == 2


def watched_fsync(
    monkeypatch: pytest.MonkeyPatch, instead: Callable[[int], None] = os.fdatasync
) -> list[int]:
    """Those that have ended."""
    calls: list[int] = []

    def fdatasync(fd: int) -> None:
        instead(fd)
        calls.append(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    return calls


def other_layout(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Layout:
    """Write with other columns than this version has."""
    types = {**layout.TYPES, **changes}
    made = Layout({name: np.dtype(kind) for name, kind in types.items() if kind is not None})
    for module in (body, spool):
        monkeypatch.setattr(module, "OWN", made)
    monkeypatch.setattr("exporter.fanout.spool.segment.OWN", made)
    return made


def test_an_older_version_with_fewer_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it wrote is read; what it did not have is zero; narrower numbers are the same."""
    with monkeypatch.context() as patched:
        other_layout(patched, dscp=None, packet_count="<u4")
        queue = queue_in(tmp_path)
        put(queue, make_batch(Row(dscp=9, packet_count=7), Row(dscp=8, packet_count=1 << 31)))
        queue.shut()
    queue = queue_in(tmp_path)
    batch = queue.take()
    assert batch is not None
    assert batch.packet_count.tolist() == [7, 1 << 31]
    assert batch.packet_count.dtype == np.uint64
    assert batch.dscp.tolist() == [0, 0]
    assert batch.src_port.tolist() == [40000, 40000]
    queue.shut()


@pytest.mark.parametrize(
    ("changes", "column"),
    [({"tcp_control_bits": "<u4"}, "tcp_control_bits"), ({"points": "<f8"}, "points")],
)
def test_a_newer_version_with_wider_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], column: str
) -> None:
    """What this version cannot hold is not read at all: the file stays, and is named."""
    with monkeypatch.context() as patched:
        other_layout(patched, **changes)
        queue = queue_in(tmp_path)
        put(queue, numbered(0, 2))
        queue.shut()
    before = {path: path.read_bytes() for path in (tmp_path / "sink").glob("*.segment")}
    with pytest.raises(ConfigError, match=rf"another version .*column {column}"):
        queue_in(tmp_path)
    assert {path: path.read_bytes() for path in before} == before


def test_another_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version of the format itself is refused, too."""
    with monkeypatch.context() as patched:
        later = other_layout(patched)
        patched.setitem(later.__dict__, "text", OWN.text.replace(b'"version": 1', b'"version": 2'))
        patched.setitem(later.__dict__, "digest", b"later...")
        queue = queue_in(tmp_path)
        put(queue, numbered(0, 2))
        queue.shut()
    with pytest.raises(ConfigError, match=r"another version .*format 2"):
        queue_in(tmp_path)


def test_the_layout_is_that_of_a_batch() -> None:
    """Each column has the type that batches have, so nothing is converted on the way."""
    batch = make_batch(Row())
    for name, kind in layout.TYPES.items():
        column = getattr(batch, name)
        assert (column.dtype, column.shape[1:]) == (kind.base, kind.shape), name
    assert layout.parse(OWN.text).digest == OWN.digest
    # Another digest is another layout: whoever changes it makes old spools a case for conversion.
    assert OWN.digest.hex() == "13654d76b4998596"
