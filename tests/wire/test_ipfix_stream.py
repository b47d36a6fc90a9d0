"""IPFIX over TCP and TLS: what is delivered, repeated and refused, whatever happens to the peer."""

from __future__ import annotations

import shutil
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.batch.batch import FlowBatch, Interface, Observer, Point
from exporter.errors import ConfigError, SinkError
from exporter.fanout.config import QueueConfig, RetryConfig
from exporter.fanout.queue import BatchQueue
from exporter.fanout.worker import SinkWorker
from exporter.sinks.ipfix.config import IpfixConfig
from exporter.sinks.ipfix.sink import IpfixSink
from exporter.testing import Row, make_batch
from tests.certificates import Authority, Pair
from tests.wire.flows import by_family, expected
from tests.wire.stream_collector import RECEIVE_BUFFER, StreamCollector, free_port, wait_until

POINT = Point(0, 2, 0)
ROWS = (
    Row(points=(POINT,)),
    Row(points=(POINT,), src_addr="2001:db8::1", dst_addr="2001:db8::2", ip_protocol=17),
    Row(points=(POINT,), ip_protocol=1, src_port=0, dst_port=0x0800, vlan_id=7),
)
OBSERVER = Observer("192.0.2.7", "node-1")


def some(first_port: int = 1, rows: int = 1) -> FlowBatch:
    """Flows that differ in their source port, and one of each kind."""
    numbered = [Row(points=(POINT,), src_port=first_port + number) for number in range(rows)]
    return make_batch(*numbered, *ROWS, interfaces={POINT: Interface("eth0")}, observer=OBSERVER)


@contextmanager
def sink(target: str, **section: Any) -> Iterator[IpfixSink]:
    made = IpfixSink("ipfix", IpfixConfig(target=target, transport="tcp", **section))
    made.open()
    try:
        yield made
    finally:
        made.close()


@contextmanager
def worker(target: str, **section: Any) -> Iterator[SinkWorker]:
    """A sink with its queue and thread, as the agent has it; impatient."""
    config = IpfixConfig(
        target=target, transport="tcp", retry=RetryConfig(first=0.02, longest=0.1, timeout=5),
        **section,
    )  # fmt: skip
    made = SinkWorker(
        IpfixSink("ipfix", config), BatchQueue(QueueConfig(rows=10_000_000)), config.retry
    )
    made.start()
    try:
        yield made
    finally:
        made.stop(0)


def deliver(made: IpfixSink, batch: FlowBatch, timeout: float = 5.0) -> None:
    for message in made.encode(batch):
        made.deliver(message, timeout)


def refused(target: str, timeout: float = 5.0, **section: Any) -> SinkError:
    """The error of a delivery that must fail."""
    with sink(target, **section) as made, pytest.raises(SinkError) as caught:
        deliver(made, some(), timeout)
    assert caught.value.retryable
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def test_what_arrives_is_what_was_sent(tmp_path: Path) -> None:
    """Every field of every row, in few long messages, templates once; delivered means arrived."""
    batch = some(rows=5000)
    with StreamCollector(tmp_path / "kept") as collector, sink(collector.target) as made:
        deliver(made, batch)
        deliver(made, some())
        wait_until(lambda: len(collector.flows()) == 5007, "all is read")
        (session,) = collector.read()
    assert collector.flows()[:5003] == expected(by_family(batch))
    assert [message.templates for message in session if message.templates] == [[256, 257, 258, 259]]
    assert {message.domain for message in session} == {0xC0000207}
    assert max(message.octets for message in session) > 65_000
    assert abs(session[0].export_time - time.time()) < 60


def test_nobody_is_there() -> None:
    """A port without a listener is refused at once, in one line, and may be tried again."""
    port = free_port(socket.SOCK_STREAM)
    assert str(refused(f"127.0.0.1:{port}")) == f"refused: 127.0.0.1:{port}: Connection refused"


def test_a_name_that_is_none() -> None:
    """A name without an address is one clear line."""
    error = refused("collector.invalid:4739")
    assert error.reason == "unresolved"
    assert str(error).startswith("unresolved: collector.invalid:4739: ")


def test_a_collector_that_ends_the_connection(tmp_path: Path) -> None:
    """A peer that is gone is noticed before anything is written: the next message goes to its
    successor, with the templates."""
    with StreamCollector(tmp_path / "kept") as collector, sink(collector.target) as made:
        deliver(made, some(1))
        wait_until(lambda: len(collector.flows()) == 4, "the first is read")
        collector.kill()
        collector.start()
        deliver(made, some(2))
        wait_until(lambda: len(collector.flows()) == 8, "the second is read")
        first, second = collector.read()
    for session in (first, second):
        assert session[0].templates == [256, 257, 258, 259]
        assert session[0].sequence == 0
    assert collector.flows() == expected(by_family(some(1))) + expected(by_family(some(2)))


def test_killed_and_restarted(tmp_path: Path) -> None:
    """
    A collector that is killed and started again under load: every session begins with the
    templates; what is missing is less than its receive buffer held, and what came twice is less
    than a message for each time.
    """
    drains, rows, largest = 60, 1000, 500
    with (
        StreamCollector(tmp_path / "kept", delay=0.001) as collector,
        worker(collector.target, max_flows=largest) as made,
    ):
        last = struct.pack(">Q", drains * rows - 1)
        for drain in range(drains):
            made.queue.put(many(drain, rows))
            if drain % 20 == 10:
                time.sleep(0.1)
                collector.kill()
                time.sleep(0.1)
                collector.start()
        assert made.queue.wait_empty(30)
        counts = made.queue.counts()
        wait_until(lambda: last in collector.connections()[-1][-1000:], "the last is read")
        received = Counter(flow["layer2OctetDeltaCount"] for flow in collector.flows())
        sessions = collector.read()
    assert counts.delivered.flows == drains * rows
    assert counts.dropped == {}
    assert made.retries > 0
    # One that was killed before it had read a message kept none.
    begun = [session[0] for session in sessions if session]
    assert 2 <= len(begun) <= 4
    assert all(first.templates == [256, 257, 258, 259] for first in begun)
    sent = Counter(range(drains * rows))
    missing, twice = sent - received, received - sent
    record = 100
    # What the kernel holds for a reader, and what the reader had in its hands when it was killed.
    assert missing.total() <= 3 * (4 * RECEIVE_BUFFER + 16_384) / record
    assert twice.total() <= 3 * largest
    assert max(received.values()) <= 2


def many(drain: int, rows: int) -> FlowBatch:
    """Rows that differ in their count of octets, over all drains."""
    batch = make_batch(Row(points=(POINT,)), observer=OBSERVER).take(np.zeros(rows, np.int64))
    batch.octet_count_l2[...] = np.arange(drain * rows, (drain + 1) * rows)
    return batch


def test_a_collector_that_does_not_read(tmp_path: Path) -> None:
    """When its buffer is full a delivery ends in time, and the connection with it."""
    with (
        StreamCollector(tmp_path / "kept", delay=30) as collector,
        sink(collector.target, max_flows=200_000) as made,
    ):
        began = time.monotonic()
        with pytest.raises(SinkError, match="deadline") as caught:
            deliver(made, many(0, 100_000), timeout=0.5)
        assert time.monotonic() - began < 15
        assert caught.value.retryable


def test_closing_interrupts(tmp_path: Path) -> None:
    """Closed while a delivery waits, it fails at once and the queue is given up."""
    with StreamCollector(tmp_path / "kept", delay=30) as collector:
        with worker(collector.target, max_flows=200_000) as made:
            made.queue.put(many(0, 100_000))
            time.sleep(0.3)
            began = time.monotonic()
            made.stop(0)
            assert time.monotonic() - began < 15
        assert list(made.queue.counts().dropped) == ["shutdown"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Authorities and certificates, good and bad."""
    directory = tmp_path_factory.mktemp("certificates")
    good, other = Authority(directory, "good"), Authority(directory, "other")
    good.issue("server", "IP:127.0.0.1")
    good.issue("expired", "IP:127.0.0.1", expired=True)
    good.issue("misnamed", "DNS:elsewhere.test")
    other.issue("foreign", "IP:127.0.0.1")
    good.issue("client", "DNS:client.test")
    other.issue("stranger", "DNS:client.test")
    return directory


def pair(files: Path, name: str) -> Pair:
    return Pair(files / f"{name}.pem", files / f"{name}.key")


def tls(files: Path, client: str = "", ca: str = "good", **section: Any) -> dict[str, Any]:
    own = {"certificate": files / f"{client}.pem", "key": files / f"{client}.key"} if client else {}
    return {"ca": files / f"{ca}.pem", **own, **section}


def test_tls(files: Path, tmp_path: Path) -> None:
    """Everything arrives over TLS; a certificate for another name will do if that name is given."""
    with (
        StreamCollector(tmp_path / "a", pair(files, "server")) as one,
        StreamCollector(tmp_path / "b", pair(files, "misnamed")) as other,
        sink(one.target, tls=tls(files)) as first,
        sink(other.target, tls=tls(files, server_name="elsewhere.test")) as second,
    ):
        for collector, made in ((one, first), (other, second)):
            deliver(made, some(rows=2000))
            wait_until(partial(_has, collector, 2003), "all is read")
            assert collector.flows() == expected(by_family(some(rows=2000)))


def _has(collector: StreamCollector, count: int) -> bool:
    return len(collector.flows()) == count


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("foreign", "unable to get local issuer certificate"),
        ("expired", "certificate has expired"),
        ("misnamed", "IP address mismatch, certificate is not valid for '127.0.0.1'"),
    ],
)
def test_servers_that_are_refused(files: Path, tmp_path: Path, server: str, words: str) -> None:
    """Another authority's, an expired and another name's certificate: nothing is sent."""
    with StreamCollector(tmp_path / "kept", pair(files, server)) as collector:
        error = refused(collector.target, tls=tls(files))
        assert error.reason == "tls"
        assert words in str(error)
        assert collector.connections() == []


def test_a_server_without_tls(files: Path, tmp_path: Path) -> None:
    """Plain text where TLS was asked for is refused, and nothing is sent."""
    with StreamCollector(tmp_path / "kept") as collector:
        error = refused(collector.target, timeout=0.5, tls=tls(files))
        assert error.reason in ("tls", "deadline")
        assert b"\x00\x0a" not in b"".join(collector.connections())[:2]


@pytest.mark.parametrize("client", ["", "stranger"])
def test_clients_that_are_refused(files: Path, tmp_path: Path, client: str) -> None:
    """
    A server that wants another certificate, or any, says so after the handshake: nothing counts as
    delivered.
    """
    with StreamCollector(tmp_path / "kept", pair(files, "server"), files / "good.pem") as collector:
        assert refused(collector.target, tls=tls(files, client)).reason in ("tls", "closed_by_peer")
        assert collector.connections() == []


def test_mutual_tls(files: Path, tmp_path: Path) -> None:
    """With the right certificate everything arrives."""
    with (
        StreamCollector(tmp_path / "kept", pair(files, "server"), files / "good.pem") as collector,
        sink(collector.target, tls=tls(files, "client")) as made,
    ):
        deliver(made, some())
        wait_until(lambda: len(collector.flows()) == 4, "all is read")


def test_certificates_are_read_again(files: Path, tmp_path: Path) -> None:
    """
    An authority that is replaced takes effect without a restart; one that cannot be read for a
    moment is an error of that moment.
    """
    ca = tmp_path / "ca.pem"
    shutil.copy(files / "good.pem", ca)
    section = tls(files) | {"ca": ca}
    with (
        StreamCollector(tmp_path / "a", pair(files, "server")) as one,
        sink(one.target, tls=section) as made,
    ):
        deliver(made, some())
        one.kill()
        with StreamCollector(tmp_path / "b", pair(files, "foreign"), port=one.port) as other:
            with pytest.raises(SinkError, match="certificate is refused"):
                deliver(made, some())
            ca.write_text("half a file")
            with pytest.raises(SinkError, match="cannot use the certificates") as caught:
                deliver(made, some())
            assert caught.value.retryable
            shutil.copy(files / "other.pem", ca)
            deliver(made, some())
            wait_until(lambda: len(other.flows()) == 4, "all is read")


def test_certificates_that_never_worked() -> None:
    """A file that is not there when the agent starts is a mistake in the configuration."""
    section = {"ca": Path("/nonexistent/ca.pem")}
    config = IpfixConfig(target="127.0.0.1:1", transport="tcp", tls=section)
    with pytest.raises(ConfigError, match=r"cannot read /nonexistent/ca\.pem"):
        IpfixSink("ipfix", config).open()
