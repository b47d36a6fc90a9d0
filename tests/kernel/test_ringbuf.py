"""Records through a ring buffer, in bulk and one by one."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from exporter.ebpf.ringbuf import RingBuffer
from tests.kernel.events import build, event, length_of, number_of, sending


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The object that sends."""
    return build(tmp_path_factory.mktemp("ringbuf"))


def test_records_of_many_sizes(program: Path) -> None:
    """Records of differing sizes come out whole, in order and at their true length."""
    with (
        sending(program, "send_ring", length=12, growth=7, longest=128) as sender,
        RingBuffer(sender.maps["ring"]) as ring,
    ):
        numbers = []
        for _ in range(200):
            sender.send(10)
            for record in ring.take():
                assert len(record) == length_of(record)
                assert not any(record[12:])
                numbers.append(number_of(record))
            assert ring.used() == 0
        assert numbers == list(range(2000))
        assert sender.refused == 0


@pytest.mark.parametrize("bulk", [False, True])
def test_discarded_records(program: Path, bulk: bool) -> None:
    """Records that the program discarded are passed over, also at either end."""
    with (
        sending(program, "send_ring", length=128, discard_every=3) as sender,
        RingBuffer(sender.maps["ring"], event(128)) as ring,
    ):
        numbers = []
        for _ in range(50):
            sender.send(10)
            if bulk:
                numbers += ring.read()["number"].tolist()
            else:
                numbers += [number_of(record) for record in ring.take()]
            assert ring.used() == 0
        assert numbers == [number for number in range(500) if number % 3]


def test_bulk_and_single_agree(program: Path) -> None:
    """A full ring read either way gives the same octets, and takes new records again."""
    plain = np.dtype("V64")
    with sending(program, "send_ring") as sender, RingBuffer(sender.maps["ring"], plain) as ring:
        contents = []
        for bulk in (True, False):
            sender.maps["counts"].update(bytes(4), bytes(8))
            sender.send(100)
            contents.append(ring.read().tobytes() if bulk else b"".join(ring.take()))
        assert contents[0] == contents[1]
        assert [len(content) for content in contents] == [56 * 64, 56 * 64]
        assert sender.refused == 2 * (100 - 56)


def test_peek_and_release(program: Path) -> None:
    """
    What was looked at stays and comes again, to a reader that comes later too, but for what it is
    told to leave out; what is released makes room.
    """
    with sending(program, "send_ring") as sender:
        ring = RingBuffer(sender.maps["ring"], event(64))
        sender.send(20)
        records, middle = ring.peek()
        assert records["number"].tolist() == list(range(20))
        sender.send(10)
        records, end = ring.peek()
        assert records["number"].tolist() == list(range(30))
        assert ring.used() == end == 30 * 72
        with RingBuffer(sender.maps["ring"], event(64)) as later:
            records, same = later.peek(after=middle)
            assert (records["number"].tolist(), same) == (list(range(20, 30)), end)
            assert later.peek(after=end)[0].tolist() == []
        ring.release(middle)
        ring.release(0)
        assert ring.used() == 10 * 72
        assert ring.read()["number"].tolist() == list(range(20, 30))
        assert ring.used() == 0
        # 56 have room: all of them again.
        sender.send(60)
        assert sender.refused == 4
        assert len(ring.peek()[0]) == 56
        ring.close()


def test_bulk_wants_a_type(program: Path) -> None:
    """Without a dtype there is no bulk reading."""
    with (
        sending(program, "send_ring") as sender,
        RingBuffer(sender.maps["ring"]) as ring,
        pytest.raises(ValueError, match="without a dtype"),
    ):
        ring.read()


def test_waiting(program: Path) -> None:
    """Waiting ends with the time, with a record, and at once while one waits to be read."""
    with sending(program, "send_ring") as sender, RingBuffer(sender.maps["ring"]) as ring:
        assert not ring.wait(0.01)
        timer = threading.Timer(0.1, sender.send, (1,))
        timer.start()
        assert ring.wait(10)
        timer.join()
        assert ring.wait(0)
        assert len(ring.take()) == 1
        assert not ring.wait(0)


def test_following(program: Path) -> None:
    """
    Records come as they are sent; what a reader that leaves early was not given waits for the next.
    """
    with sending(program, "send_ring") as sender, RingBuffer(sender.maps["ring"], event()) as ring:
        timer = threading.Timer(0.1, sender.send, (10,))
        timer.start()
        seen = []
        for record in ring.follow():
            seen.append(number_of(record))
            if len(seen) == 4:
                break
        timer.join()
        seen.append(number_of(next(ring.follow())))
        sender.send(1)
        seen += ring.read()["number"].tolist()
        assert seen == list(range(11))


@pytest.mark.parametrize("end", ["stop", "close"])
def test_ending_a_wait(program: Path, end: str) -> None:
    """Readers that wait return at once when another thread stops or closes, and wait no more."""
    with sending(program, "send_ring") as sender:
        ring = RingBuffer(sender.maps["ring"])
        answers: list[bool] = []
        waiting = [
            threading.Thread(target=lambda: answers.append(ring.wait())),
            threading.Thread(target=lambda: answers.extend(True for _ in ring.follow())),
        ]
        for thread in waiting:
            thread.start()
        time.sleep(0.05)
        getattr(ring, end)()
        for thread in waiting:
            thread.join(10)
            assert not thread.is_alive()
        assert answers == [False]
        ring.close()


@pytest.mark.parametrize("end", ["stop", "close"])
def test_stopping_from_another_thread(program: Path, end: str) -> None:
    """A reader that has stopped reading is no deadlock: it is given nothing more."""
    with sending(program, "send_ring") as sender:
        ring = RingBuffer(sender.maps["ring"])
        read: list[int] = []
        busy, go_on = threading.Event(), threading.Event()

        def reader() -> None:
            for record in ring.follow():
                read.append(number_of(record))
                busy.set()
                assert go_on.wait(10)

        reading = threading.Thread(target=reader)
        reading.start()
        sender.send(5)
        assert busy.wait(10)
        getattr(ring, end)()
        go_on.set()
        reading.join(10)
        assert not reading.is_alive()
        assert read == [0]
        ring.close()
        ring.stop()


def test_a_hundred_times(program: Path) -> None:
    """A hundred readers opened and closed leave no descriptor behind, waited for or not."""
    with sending(program, "send_ring") as sender:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for turn in range(100):
            with RingBuffer(sender.maps["ring"]) as ring:
                if turn % 2:
                    ring.wait(0)
                sender.send(1)
                assert [number_of(record) for record in ring.take()] == [turn]
            ring.close()
            ring.stop()
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
