"""A real terminal that nobody reads, is stopped with Ctrl-S, or goes away."""

from __future__ import annotations

import os
import select
import termios
import threading
import time
from collections.abc import Iterator

import pytest

from exporter.batch.batch import Totals
from exporter.errors import SinkError
from exporter.fanout.config import QueueConfig, RetryConfig
from exporter.fanout.queue import BatchQueue
from exporter.fanout.worker import SinkWorker
from exporter.sinks.stdout.config import StdoutConfig
from exporter.sinks.stdout.sink import LineSink, TableSink
from exporter.testing import Row, make_batch
from tests.patience import LONGEST

Terminal = tuple[int, int]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """Both ends of a pty: the screen's and ours."""
    screen, ours = os.openpty()
    yield screen, ours
    for end in (screen, ours):
        try:
            os.close(end)
        except OSError:
            continue


def seen(screen: int) -> bytes:
    """What has come to the screen, until nothing more comes."""
    text = b""
    while select.select([screen], [], [], 0.5)[0]:
        text += os.read(screen, 1 << 16)
    return text


def seen_until(screen: int, wanted: bytes, times: int = 1) -> bytes:
    """What has come to the screen, until this is in it so many times."""
    text = b""
    while text.count(wanted) < times:
        assert select.select([screen], [], [], LONGEST)[0], text[-1000:]
        text += os.read(screen, 1 << 16)
    return text


def stop(screen: int, ours: int) -> None:
    """As Ctrl-S does."""
    os.write(screen, b"\x13")
    # The line discipline takes it when it runs; until then a write would pass.
    deadline = time.monotonic() + 5
    while select.select([], [ours], [], 0)[1]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_table_is_drawn(terminal: Terminal) -> None:
    """The whole table; the cursor is shown again at the end."""
    screen, ours = terminal
    sink = TableSink("stdout", ours)
    sink.open()
    (message,) = sink.encode(make_batch(Row()))
    sink.deliver(message, 10)
    seen_until(screen, b"192.0.2.1:40000")
    sink.close()
    seen_until(screen, b"\x1b[?25h")


@pytest.mark.parametrize("how", ["stopped", "not read"])
def test_a_terminal_that_takes_nothing(terminal: Terminal, how: str) -> None:
    """
    Drains count as delivered all the same, and the sink stops in time; once the terminal goes on,
    the table is drawn as a whole.
    """
    screen, ours = terminal
    queue = BatchQueue(QueueConfig())
    worker = SinkWorker(TableSink("stdout", ours), queue, RetryConfig())
    if how == "stopped":
        stop(screen, ours)
    worker.start()
    for _ in range(200):
        queue.put(make_batch(*(Row(src_port=number) for number in range(20))))
    began = time.monotonic()
    worker.stop(30)
    assert time.monotonic() - began < 10
    assert queue.counts().delivered.flows == 200 * 20
    assert queue.counts().pending == Totals()


def test_a_terminal_that_goes_on(terminal: Terminal) -> None:
    """Ctrl-Q: what was half drawn is finished first, and then the newest drain is drawn."""
    screen, ours = terminal
    sink = TableSink("stdout", ours)
    sink.open()
    seen(screen)
    stop(screen, ours)
    for port in (1111, 2222, 3333):
        (message,) = sink.encode(make_batch(Row(src_port=port)))
        sink.deliver(message, 10)
    os.write(screen, b"\x11")
    (message,) = sink.encode(make_batch(Row(src_port=4444)))
    sink.deliver(message, 10)
    text = seen_until(screen, b"192.0.2.1:4444")
    assert [b"192.0.2.1:%d" % port in text for port in (1111, 2222, 3333, 4444)] == [
        *(True, False, False, True),
    ]
    sink.close()


def test_lines_to_a_terminal_that_stops(terminal: Terminal) -> None:
    """Lines wait, and every record comes once when somebody reads again; our end still blocks."""
    screen, ours = terminal
    mode = termios.tcgetattr(ours)
    mode[1] &= ~termios.OPOST
    termios.tcsetattr(ours, termios.TCSANOW, mode)
    queue = BatchQueue(QueueConfig())
    retry = RetryConfig(first=0.01, longest=0.01, timeout=0.1)
    config = StdoutConfig.model_validate({"format": "keyvalue"})
    worker = SinkWorker(LineSink("stdout", config, ours), queue, retry)
    worker.start()
    queue.put(make_batch(*(Row(src_port=number) for number in range(3000))))
    while not worker.retries:
        time.sleep(0.01)
    assert os.get_blocking(ours)
    parts: list[bytes] = []
    reader = threading.Thread(target=lambda: parts.append(seen_until(screen, b"\n", 3000)))
    reader.start()
    worker.stop(30)
    reader.join(30)
    ports = [line.split(b"source.port=")[1].split()[0] for line in parts[0].splitlines()]
    assert ports == [b"%d" % number for number in range(3000)]


def test_a_terminal_that_goes_away(terminal: Terminal) -> None:
    """Its window was closed: nobody will ever read."""
    screen, ours = terminal
    sink = TableSink("stdout", ours)
    sink.open()
    os.close(screen)
    (message,) = sink.encode(make_batch(Row()))
    with pytest.raises(SinkError) as caught:
        sink.deliver(message, 10)
    assert (caught.value.reason, caught.value.retryable) == ("closed", False)
