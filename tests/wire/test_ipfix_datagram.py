"""IPFIX over UDP: at most once, counted when it is known that nobody listens, never too long."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest

from exporter.batch.batch import FlowBatch, Observer, Point
from exporter.errors import SinkError
from exporter.fanout.config import QueueConfig, RetryConfig
from exporter.fanout.queue import BatchQueue
from exporter.fanout.worker import SinkWorker
from exporter.sinks.ipfix.config import IpfixConfig
from exporter.sinks.ipfix.sink import IpfixSink
from exporter.sinks.ipfix.template import flow_template
from exporter.testing import Row, make_batch
from tests.wire.ipfix import Read, Reader
from tests.wire.stream_collector import free_port, wait_until

POINT = Point(0, 2, 0)
#: Python has no name for it: include/uapi/asm-generic/socket.h.
_SO_RCVBUFFORCE = 33


class Receiver:
    """A socket that keeps datagrams; a Reader of each session, which is a sender's port."""

    def __init__(self, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> None:
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        # Root may have more than the system's limit, which all datagrams of a test need not fit.
        with suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
        self._socket.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
        self._socket.settimeout(0.5)
        self.port = int(self._socket.getsockname()[1])
        self.readers: dict[Any, Reader] = {}
        self.datagrams: list[bytes] = []

    def close(self) -> None:
        self._socket.close()

    def messages(self, records: int) -> list[Read]:
        """Messages until there are so many records of flows, or half a second is quiet."""
        found: list[Read] = []
        while len(flows(found)) < records:
            try:
                octets, sender = self._socket.recvfrom(65_536)
            except TimeoutError:
                break
            self.datagrams.append(octets)
            found.append(self.readers.setdefault(sender, Reader()).message(octets))
        return found


@contextmanager
def receiver(port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> Iterator[Receiver]:
    made = Receiver(port, family)
    try:
        yield made
    finally:
        made.close()


def flows(found: list[Read]) -> list[dict[str, Any]]:
    return [r for read in found for number, r in read.records if number in (256, 257)]


def many(rows: int, first: int = 0) -> FlowBatch:
    """Rows that differ in their count of octets."""
    batch = make_batch(Row(points=(POINT,)), observer=Observer("192.0.2.7")).take(
        np.zeros(rows, np.int64)
    )
    batch.octet_count_l2[...] = np.arange(first, first + rows)
    return batch


@contextmanager
def sink(port: int, host: str = "127.0.0.1", **section: Any) -> Iterator[IpfixSink]:
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    made = IpfixSink("ipfix", IpfixConfig(target=target, **section))
    made.open()
    try:
        yield made
    finally:
        made.close()


def deliver(made: IpfixSink, batch: FlowBatch) -> None:
    for message in made.encode(batch):
        made.deliver(message, 5)


def numbers(found: list[Read]) -> list[int]:
    return [flow["layer2OctetDeltaCount"] for flow in flows(found)]


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_many_records_go_in_a_message(family: socket.AddressFamily, host: str) -> None:
    """As many as a jumbo frame takes, in order, each once; the sequence numbers miss nothing."""
    with receiver(family=family) as there, sink(there.port, host) as made:
        deliver(made, many(3000))
        found = there.messages(3000)
    assert numbers(found) == list(range(3000))
    head = 28 if family == socket.AF_INET else 48
    sizes = {read.octets for read in found if read.records}
    assert 9000 - head - 110 < max(sizes) <= 9000 - head
    (reader,) = there.readers.values()
    assert reader.missing == 0


@pytest.mark.parametrize("limit", [512, 1400, 65_507])
def test_the_configured_length_is_kept(limit: int) -> None:
    """Messages are as long as they may be, and never longer."""
    with receiver() as there, sink(there.port, max_octets=limit) as made:
        deliver(made, many(2000))
        found = there.messages(2000)
    assert numbers(found) == list(range(2000))
    assert limit - 110 < max(read.octets for read in found) <= limit


def test_templates_come_again_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every so many seconds, before the records that come then."""
    began = now = time.monotonic()
    monkeypatch.setattr("exporter.sinks.ipfix.session.time.monotonic", lambda: now)
    with receiver() as there, sink(there.port, template_interval=60) as made:
        for number, later in enumerate((0, 59, 60)):
            now = began + later
            deliver(made, many(1, number))
        found = there.messages(3)
    told = [(bool(read.templates), len(flows([read]))) for read in found]
    assert told == [(True, 0), (False, 1), (False, 1), (True, 0), (False, 1)]


def test_nobody_listens() -> None:
    """
    The collector's host says so, and no record is lost: what waits is delivered, once, when there
    is a collector, after the templates.
    """
    port = free_port(socket.SOCK_DGRAM)
    with sink(port) as made:
        (message,) = made.encode(many(500))
        for _ in range(3):
            with pytest.raises(SinkError, match=r"refused: 127\.0\.0\.1:.*: ") as caught:
                made.deliver(message, 5)
            assert caught.value.retryable
        with receiver(port) as there:
            made.deliver(message, 5)
            found = there.messages(500)
    assert numbers(found) == list(range(500))
    assert found[0].templates == [256, 257, 258, 259]


def test_a_collector_that_goes_and_comes_back() -> None:
    """
    What was on its way when it went is lost, a datagram of each session; nothing comes twice, and
    everything is counted.
    """
    port = free_port(socket.SOCK_DGRAM)
    with receiver(port) as first:
        config = IpfixConfig(
            target=f"127.0.0.1:{port}", max_octets=1400,
            retry=RetryConfig(first=0.02, longest=0.05),
        )  # fmt: skip
        worker = SinkWorker(
            IpfixSink("ipfix", config), BatchQueue(QueueConfig(rows=10_000)), config.retry
        )
        worker.start()
        worker.queue.put(many(1000))
        # All of it is sent: the quiet after it is its end, however slow the machine is.
        assert worker.queue.wait_empty(30)
        found = first.messages(1000)
    try:
        for drain in range(1, 5):
            worker.queue.put(many(1000, 1000 * drain))
        wait_until(lambda: not worker.healthy, "it is known that nobody listens")
        pending = worker.queue.counts().pending.flows
        assert pending > 3900
        with receiver(port) as second:
            wait_until(lambda: worker.healthy, "somebody listens again")
            assert worker.queue.wait_empty(30)
            found += second.messages(4000)
    finally:
        worker.stop(0)
    received = numbers(found)
    assert len(received) == len(set(received))
    assert set(received[:1000]) == set(range(1000))
    a_datagram = (1400 - 20) // flow_template(4, "milliseconds").octets
    assert 5000 - a_datagram <= len(received)
    counts = worker.queue.counts()
    assert counts.queued.flows == counts.delivered.flows == 5000


def test_what_does_not_fit_while_nobody_listens() -> None:
    """A queue that is too small drops and counts: delivered, dropped and pending are all."""
    config = IpfixConfig(
        target=f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}", retry=RetryConfig(first=0.02)
    )
    worker = SinkWorker(
        IpfixSink("ipfix", config), BatchQueue(QueueConfig(rows=1000)), config.retry
    )
    worker.start()
    for drain in range(10):
        worker.queue.put(many(500, 500 * drain))
    wait_until(lambda: worker.retries > 1, "it was tried again")
    before = worker.queue.counts()
    worker.stop(0)
    after = worker.queue.counts()
    assert before.dropped["queue_full"].flows == 4000
    assert before.pending.flows == 1000
    assert {reason: lost.flows for reason, lost in after.dropped.items()} == {
        "queue_full": 4000, "shutdown": 1000,
    }  # fmt: skip
    assert after.delivered.flows == 0


def test_the_pace_is_kept() -> None:
    """A burst is spread over time."""
    with receiver() as there, sink(there.port, pace="1MB", max_octets=1400) as made:
        began = time.monotonic()
        deliver(made, many(5000))
        took = time.monotonic() - began
        found = there.messages(5000)
    octets = sum(read.octets for read in found)
    assert numbers(found) == list(range(5000))
    assert octets / 1e6 - 0.01 < took < octets / 1e6 + 2


def test_a_name_that_is_none() -> None:
    """One clear line, and worth another try."""
    with sink(4739, "collector.invalid") as made, pytest.raises(SinkError) as caught:
        deliver(made, many(1))
    assert str(caught.value).startswith("unresolved: collector.invalid:4739: ")
    assert caught.value.retryable


def test_after_closing_nothing_is_sent() -> None:
    """Closing twice is fine; delivering then is an error that says so."""
    with receiver() as there, sink(there.port) as made:
        deliver(made, many(1))
        made.close()
        made.close()
        with pytest.raises(SinkError, match="cancelled"):
            deliver(made, many(1))


def test_another_address_is_another_domain() -> None:
    """An agent whose address changes begins a new session under its new number."""
    with receiver() as there, sink(there.port) as made:
        deliver(made, many(1))
        for address in ("192.0.2.8", "192.0.2.8"):
            deliver(made, make_batch(Row(points=(POINT,)), observer=Observer(address)))
        found = there.messages(3)
    assert [(read.domain, bool(read.templates)) for read in found] == [
        (0xC0000207, True), (0xC0000207, False),
        (0xC0000208, True), (0xC0000208, False), (0xC0000208, False),
    ]  # fmt: skip
