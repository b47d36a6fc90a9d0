"""Events through a perf event array: every one accounted for, in order, and nothing left open."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from exporter.ebpf import perf
from exporter.ebpf.cpus import online_cpus
from exporter.ebpf.errors import BpfError
from exporter.ebpf.perf import PerfBuffer, PerfCounts
from tests.kernel.events import build, event, length_of, number_of, sending


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The object that sends."""
    return build(tmp_path_factory.mktemp("perf"))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_every_event_in_order(program: Path) -> None:
    """A hundred events from each CPU arrive, with their CPU, in order, and cut to their length."""
    with (
        sending(program, "send_perf", length=61) as sender,
        PerfBuffer(sender.maps["events"], event(61)) as buffer,
    ):
        assert buffer.cpus == online_cpus()
        expected = []
        for cpu in buffer.cpus:
            expected += [(cpu, number) for number in range(sender.sent, sender.sent + 100)]
            sender.send(100, cpu)
        samples = buffer.take()
        assert [(sample.cpu, number_of(sample.data)) for sample in samples] == expected
        assert {len(sample.data) for sample in samples} == {61}
        assert buffer.counts == PerfCounts(received=100 * len(buffer.cpus))
        assert buffer.take() == []


def test_in_bulk(program: Path) -> None:
    """The same in one array, a copy that outlives the buffer and may be changed."""
    with sending(program, "send_perf") as sender:
        with PerfBuffer(sender.maps["events"], event()) as buffer:
            for cpu in buffer.cpus:
                sender.send(100, cpu)
            cpus = buffer.cpus
            events = buffer.read()
            assert buffer.counts.received == sender.sent == len(events)
            assert len(buffer.read()) == 0
        assert events["number"].tolist() == list(range(sender.sent))
        assert events["cpu"].tolist() == np.repeat(cpus, 100).tolist()
        events["number"] = 0


@pytest.mark.parametrize("octets", [1, 4096, 8192, 12288, 20480, 100_000])
def test_any_size(program: Path, octets: int) -> None:
    """Buffers of any size work: what the kernel would refuse is rounded up."""
    with (
        sending(program, "send_perf") as sender,
        PerfBuffer(sender.maps["events"], octets=octets) as buffer,
    ):
        assert octets <= buffer.size < max(2 * octets, 8192)
        sender.send(1)
        assert len(buffer.take()) == 1


@pytest.mark.parametrize("bulk", [False, True])
def test_what_is_lost_is_counted(program: Path, bulk: bool) -> None:
    """What one page has no room for is lost and counted: received and lost are what was sent."""
    cpu = online_cpus()[-1]
    with (
        sending(program, "send_perf") as sender,
        PerfBuffer(sender.maps["events"], event(), octets=1) as buffer,
    ):
        received = []
        for burst in (1000, 1, 500, 1):
            sender.send(burst, cpu)
            if bulk:
                received += buffer.read()["number"].tolist()
            else:
                received += [number_of(sample.data) for sample in buffer.take()]
        assert sender.sent == 1502
        counts = buffer.counts
        assert counts.received + counts.lost == 1502
        assert counts.received == len(received)
        assert counts.lost == sender.refused > 1000
        assert counts.unknown == 0
        assert received == sorted(received)
        assert {1000, 1501} <= set(received)


def test_records_that_wrap_around(program: Path) -> None:
    """Samples of many sizes come out whole wherever the end of the buffer cuts them."""
    with (
        sending(program, "send_perf", length=12, growth=7, longest=128) as sender,
        PerfBuffer(sender.maps["events"], octets=4096) as buffer,
    ):
        for _ in range(100):
            sender.send(10, buffer.cpus[0])
            for sample in buffer.take():
                octets = length_of(sample.data)
                # What the kernel fills up with cannot be told from what was sent.
                assert octets <= len(sample.data) < octets + 8
                assert not any(sample.data[12:octets])
        assert buffer.counts == PerfCounts(received=1000)


def test_another_size_is_refused(program: Path) -> None:
    """A sample that cannot be of the given type is an error, not garbage, in bulk or singly."""
    with (
        sending(program, "send_perf", length=24) as sender,
        PerfBuffer(sender.maps["events"], event(64)) as buffer,
    ):
        sender.send(3)
        with pytest.raises(ValueError, match="cannot be one of 64"):
            buffer.read()
        with pytest.raises(ValueError, match="cannot be one of 64"):
            buffer.take()
        assert buffer.counts == PerfCounts()


def test_bulk_wants_a_type(program: Path) -> None:
    """Without a dtype there is no bulk reading."""
    with (
        sending(program, "send_perf") as sender,
        PerfBuffer(sender.maps["events"]) as buffer,
        pytest.raises(ValueError, match="without a dtype"),
    ):
        buffer.read()


def test_waiting(program: Path) -> None:
    """Waiting ends with the time, with an event, and at once while one waits to be read."""
    with (
        sending(program, "send_perf") as sender,
        PerfBuffer(sender.maps["events"]) as buffer,
    ):
        assert not buffer.wait(0.01)
        timer = threading.Timer(0.1, sender.send, (1,))
        timer.start()
        assert buffer.wait(10)
        timer.join()
        assert buffer.wait(0)
        assert buffer.wait(0)
        assert len(buffer.take()) == 1
        assert not buffer.wait(0)


def test_following(program: Path) -> None:
    """
    Samples come as they are sent; what a reader that leaves early was not given waits for the next.
    """
    with (
        sending(program, "send_perf") as sender,
        PerfBuffer(sender.maps["events"], event()) as buffer,
    ):
        cpu = buffer.cpus[0]
        timer = threading.Timer(0.1, sender.send, (10, cpu))
        timer.start()
        seen = []
        for sample in buffer.follow():
            seen.append(number_of(sample.data))
            if len(seen) == 4:
                break
        timer.join()
        seen.append(number_of(next(buffer.follow()).data))
        sender.send(1, cpu)
        seen += buffer.read()["number"].tolist()
        assert seen == list(range(11))


@pytest.mark.parametrize("end", ["stop", "close"])
def test_ending_a_wait(program: Path, end: str) -> None:
    """Readers that wait return at once when another thread stops or closes, and wait no more."""
    with sending(program, "send_perf") as sender:
        buffer = PerfBuffer(sender.maps["events"])
        buffer.open()
        answers: list[bool] = []
        waiting = [
            threading.Thread(target=lambda: answers.append(buffer.wait())),
            threading.Thread(target=lambda: answers.extend(True for _ in buffer.follow())),
        ]
        for thread in waiting:
            thread.start()
        time.sleep(0.05)
        getattr(buffer, end)()
        for thread in waiting:
            thread.join(10)
            assert not thread.is_alive()
        assert answers == [False]
        buffer.close()


@pytest.mark.parametrize("end", ["stop", "close"])
def test_stopping_from_another_thread(program: Path, end: str) -> None:
    """A reader that has stopped reading is no deadlock: it is given nothing more."""
    with sending(program, "send_perf") as sender:
        buffer = PerfBuffer(sender.maps["events"], event())
        buffer.open()
        read: list[int] = []
        busy, go_on = threading.Event(), threading.Event()

        def reader() -> None:
            for sample in buffer.follow():
                read.append(number_of(sample.data))
                busy.set()
                assert go_on.wait(10)

        reading = threading.Thread(target=reader)
        reading.start()
        sender.send(5, buffer.cpus[0])
        assert busy.wait(10)
        getattr(buffer, end)()
        go_on.set()
        reading.join(10)
        assert not reading.is_alive()
        assert read == [0]
        assert not buffer.wait()
        assert list(buffer.follow()) == []
        buffer.close()
        buffer.stop()


def test_a_hundred_times(program: Path) -> None:
    """A hundred buffers opened and closed leave no descriptor, and nothing in the array."""
    with sending(program, "send_perf") as sender:
        buffer = PerfBuffer(sender.maps["events"], event())
        before = descriptors()
        for turn in range(100):
            with buffer:
                assert descriptors() > before
                sender.send(1)
                assert len(buffer.take()) == 1
            buffer.close()
            assert sender.refused == turn
            sender.send(1)
            assert sender.refused == turn + 1
        assert descriptors() == before


def test_opening_that_fails(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another kind of map, or a failure in the middle, is an error that leaves nothing open."""
    with sending(program, "send_perf") as sender:
        before = descriptors()
        with pytest.raises(BpfError, match=r"open map counts: .*EINVAL.*not a perf event array"):
            PerfBuffer(sender.maps["counts"]).open()

        def fails(_: object) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        buffer = PerfBuffer(sender.maps["events"])
        with monkeypatch.context() as patch:
            patch.setattr(perf, "Waiter", fails)
            with pytest.raises(BpfError, match=r"wait for events: .*EMFILE"):
                buffer.open()
        assert descriptors() == before
        sender.send(1)
        assert sender.refused == 1
        with buffer:
            sender.send(1)
            assert sender.refused == 1


def test_cpus_that_went_away(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that is gone when its turn comes is left out; their numbers need not be in a row."""
    cpu = online_cpus()[-1]
    opened = perf._CpuRing

    def opens(number: int, size: int) -> perf._CpuRing:
        if number != cpu:
            raise OSError(errno.ENODEV, "offline")
        return opened(number, size)

    monkeypatch.setattr(perf, "online_cpus", lambda: (cpu, 4095))
    monkeypatch.setattr(perf, "_CpuRing", opens)
    with (
        sending(program, "send_perf") as sender,
        PerfBuffer(sender.maps["events"]) as buffer,
    ):
        assert buffer.cpus == (cpu,)
        sender.send(3, cpu)
        assert [sample.cpu for sample in buffer.take()] == [cpu] * 3


def test_closing_that_fails(program: Path) -> None:
    """An array that is closed first is reported; the buffers are given back nevertheless."""
    with sending(program, "send_perf") as sender:
        before = descriptors()
        buffer = PerfBuffer(sender.maps["events"])
        buffer.open()
        sender.maps["events"].close()
        with pytest.raises(BpfError, match="EBADF"):
            buffer.close()
        buffer.close()
        assert descriptors() == before - 1
