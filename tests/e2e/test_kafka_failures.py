"""What can go wrong between a Kafka sink and its brokers: each with its reason, nothing lost."""

from __future__ import annotations

import gc
import logging
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from exporter._pb import flow_pb2
from exporter.batch.batch import Interface, Point
from exporter.batch.record import records
from exporter.errors import SinkError
from exporter.fanout.contract import Message
from exporter.sinks.kafka.config import KafkaConfig
from exporter.sinks.kafka.sink import KafkaSink
from exporter.testing import Row, make_batch
from tests.certificates import Authority
from tests.e2e import traffic
from tests.e2e.agent import Agent, wait_until
from tests.e2e.broker import PASSWORD, USER, Broker, Second
from tests.e2e.net import Network, connect, disconnect
from tests.e2e.test_exact import ADDRESSES, V4, pair
from tests.e2e.test_kafka import client, config, decoded, multiset, running, some_flows
from tests.e2e.topic import read
from tests.unit.sinks.test_pbflow import expected

__all__ = ["client"]

# kafka-python leaves the sockets of failed connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <(ssl|socket):ResourceWarning")

#: So many interfaces that a record of them is larger than 3000 octets.
POINTS = tuple(Point(0, number, 0) for number in range(150))

RETRY = {"timeout": 2, "first": 0.05, "longest": 0.2}


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Those sockets are collected here, not in another test."""
    yield
    for thread in threading.enumerate():
        if thread.name.endswith(" connects"):
            # The library may hang in a handshake that was broken off: nine minutes, as a daemon.
            thread.join(10)
    gc.collect()


@contextmanager
def opened(made: KafkaConfig) -> Iterator[KafkaSink]:
    """A sink without its worker."""
    sink = KafkaSink(made.name, made)
    sink.open()
    try:
        yield sink
    finally:
        sink.close()


def message(sink: KafkaSink, rows: int = 4) -> Message:
    """One to deliver."""
    (made,) = sink.encode(some_flows(rows))
    return made


def reason(sink: KafkaSink, what: Message, timeout: float = 1.2) -> SinkError:
    """Why it cannot be delivered."""
    with pytest.raises(SinkError) as found:
        sink.deliver(what, timeout)
    return found.value


def tls(broker: Broker, ca: Path | None = None, *, own: bool = False) -> dict[str, Any]:
    """Options for TLS, with a certificate of our own or without."""
    options: dict[str, Any] = {"ca": str(ca or broker.authority.pem)}
    if own:
        pem, key = broker.authority.issue("client", "DNS:client.test")
        options |= {"certificate": str(pem), "key": str(key)}
    return {"tls": options}


def sasl(directory: Path, mechanism: str, password: str = PASSWORD) -> dict[str, Any]:
    """Options for a password in a file."""
    path = directory / "password"
    path.write_text(password + "\n")
    return {"sasl": {"mechanism": mechanism, "username": USER, "password_file": str(path)}}


@pytest.mark.parametrize(
    ("listener", "mechanism"),
    [
        ("tls", ""),
        ("mutual", ""),
        ("sasl", "PLAIN"),
        ("sasl", "SCRAM-SHA-256"),
        ("sasltls", "SCRAM-SHA-512"),
    ],
)
def test_secured_listeners(
    broker: Broker, client: str, listener: str, mechanism: str, tmp_path: Path
) -> None:
    """Over TLS, with certificates on both sides, and with passwords: all records arrive."""
    topic, batch = broker.topic(partitions=2), some_flows(200)
    options: dict[str, Any] = sasl(tmp_path, mechanism) if mechanism else {}
    if listener != "sasl":
        options |= tls(broker, own=listener == "mutual")
    with running(config(broker, topic, listener, client=client, **options)) as sink:
        sink.put(batch)
        assert sink.settled().delivered == batch.totals
    found = [flow_pb2.Record.FromString(m.value) for m in read(broker, topic, client)]
    assert multiset(found) == multiset([expected(record) for record in records(batch)])


@pytest.mark.parametrize("wrong", ["authority", "expired", "othername", "no certificate"])
def test_a_certificate_that_is_not_right_is_refused(
    broker: Broker, client: str, wrong: str, tmp_path: Path
) -> None:
    """Of another authority, expired, or with another name; or none where one is asked for."""
    topic = broker.topic()
    ca = Authority(tmp_path).pem if wrong == "authority" else None
    listener = {"authority": "tls", "no certificate": "mutual"}.get(wrong, wrong)
    with opened(
        config(broker, topic, listener, client=client, retry=RETRY, **tls(broker, ca))
    ) as sink:
        err = reason(sink, message(sink))
    assert (err.reason, err.retryable) == ("tls", True), err
    assert read(broker, topic) == []


def test_a_wrong_password_is_replaced(
    broker: Broker, client: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused, not shown; and the right one is used once it is in the file, without a restart."""
    caplog.set_level(logging.DEBUG)
    topic = broker.topic()
    options = sasl(tmp_path, "SCRAM-SHA-512", "wr0ng-passw0rd") | tls(broker)
    with opened(config(broker, topic, "sasltls", client=client, retry=RETRY, **options)) as sink:
        what = message(sink)
        for _ in range(2):
            err = reason(sink, what)
            assert (err.reason, err.retryable) == ("authentication", True), err
            assert "wr0ng" not in str(err)
        sasl(tmp_path, "", PASSWORD)
        sink.deliver(what, 5)
    assert len(read(broker, topic)) == 4
    assert "wr0ng" not in caplog.text
    assert PASSWORD not in caplog.text


def test_a_certificate_is_rotated(broker: Broker, client: str, tmp_path: Path) -> None:
    """
    Files that are replaced are read again; half of a new pair is a clear error until the other half
    is there.
    """
    topic = broker.topic()
    pem, key = broker.authority.issue("mine", "DNS:mine.test")
    files = {name: tmp_path / name for name in ("ca", "certificate", "key")}
    for path, source in zip(files.values(), (broker.authority.pem, pem, key), strict=True):
        shutil.copy(source, path)
    made = config(
        broker, topic, "mutual", client=client, retry=RETRY,
        tls={name: str(path) for name, path in files.items()},
    )  # fmt: skip
    with opened(made) as sink:
        sink.deliver(message(sink), 5)
        newer = broker.authority.issue("newer", "DNS:newer.test")
        shutil.copy(newer[0], files["certificate"])
        what = message(sink)
        err = reason(sink, what)
        assert (err.reason, err.retryable) == ("credentials", True), err
        assert str(files["certificate"]) in str(err)
        shutil.copy(newer[1], files["key"])
        sink.deliver(what, 5)
    assert len(read(broker, topic)) == 8


def test_a_missing_topic_is_waited_for(broker: Broker, client: str) -> None:
    """It is named, and records arrive, once, when somebody makes it."""
    topic = f"missing-{client}"
    with running(config(broker, topic, client=client, retry=RETRY)) as sink:
        sink.put(some_flows(10))
        wait_until(lambda: not sink.worker.healthy, "it is missed")
        broker.create(topic, 2, {})
        assert sink.settled().delivered.flows == 10
    assert len(read(broker, topic)) == 10


def test_the_reason_names_the_topic(broker: Broker, client: str) -> None:
    """A missing one."""
    with opened(config(broker, "nowhere", client=client, retry=RETRY)) as sink:
        err = reason(sink, message(sink), 1)
    assert (err.reason, err.retryable) == ("topic_missing", True), err
    assert "nowhere" in str(err)


@pytest.mark.parametrize(
    ("address", "expected_reason"),
    [("no-such-host.invalid:9092", "unresolved"), ("127.0.0.1:1", "unavailable")],
)
def test_nobody_there(broker: Broker, client: str, address: str, expected_reason: str) -> None:
    """A name that is none, and a port where nobody listens."""
    made = config(broker, "t", client=client, retry=RETRY).model_copy(
        update={"brokers": (address,)}
    )
    with opened(made) as sink:
        began = time.monotonic()
        err = reason(sink, message(sink), 1)
        assert time.monotonic() - began < 4
    assert (err.reason, err.retryable) == (expected_reason, True), err
    assert address.partition(":")[0] in str(err)


def test_closing_interrupts_a_delivery(broker: Broker, client: str) -> None:
    """From another thread, while nothing listens: at once, not when the time is up."""
    made = config(broker, "t", client=client).model_copy(update={"brokers": ("127.0.0.1:1",)})
    with opened(made) as sink:
        threading.Timer(0.5, sink.close).start()
        began = time.monotonic()
        err = reason(sink, message(sink), 30)
        assert time.monotonic() - began < 15
        assert (err.reason, err.retryable) == ("cancelled", True)
        assert reason(sink, message(sink), 30).reason == "cancelled"


@pytest.mark.parametrize("layout", ["netobserv", "packed"])
def test_messages_that_are_too_large(broker: Broker, client: str, layout: str) -> None:
    """
    A topic that takes less than is configured: batches are made smaller until they fit, each record
    arrives once, and the one that can never fit is dropped and counted.
    """
    topic = broker.topic(max_message_bytes=3000)
    batch = make_batch(*(Row(src_port=n) for n in range(300)))
    names = {point: Interface("eth0123456789ab") for point in POINTS}
    huge = make_batch(Row(src_port=9999, points=POINTS), interfaces=names)
    with running(config(broker, topic, client=client, layout=layout)) as sink:
        for one in (batch, huge, batch):
            sink.put(one)
        counts = sink.settled()
    assert counts.dropped == {"too_large": huge.totals}
    assert counts.delivered == batch.totals + batch.totals
    found = [record for m in read(broker, topic, client) for record in decoded(m, layout)]
    assert multiset(found) == multiset([expected(r) for r in records(batch)] * 2)


def test_one_of_many_is_too_large(broker: Broker, client: str) -> None:
    """Beside one record that never fits, all others of its message arrive, once."""
    topic = broker.topic(max_message_bytes=3000)
    rows = [Row(src_port=n, points=POINTS if n == 77 else POINTS[:1]) for n in range(200)]
    batch = make_batch(*rows, interfaces={p: Interface("eth0123456789ab") for p in POINTS})
    with running(config(broker, topic, client=client)) as sink:
        sink.put(batch)
        counts = sink.settled()
    assert {why: totals.flows for why, totals in counts.dropped.items()} == {"too_large": 1}
    found = [flow_pb2.Record.FromString(m.value) for m in read(broker, topic, client)]
    assert sorted(r.transport.src_port for r in found) == [n for n in range(200) if n != 77]


def test_killed_and_restarted_under_traffic(
    broker: Broker, network: Network, tmp_path: Path
) -> None:
    """
    The whole agent, a broker that is killed with -9 and started again while packets pass: nothing
    is missing, and nothing comes twice.

    With kafka-python. With confluent-kafka the agent of test_outage.py lives through the same, and
    that nothing comes twice when a broker dies is below.
    """
    client = "kafka-python"
    topic = broker.topic(partitions=3)
    one, other = pair(network)
    options = f"client={client}&max_flows=500&retry.longest=500ms&retry.timeout=1s"
    with Agent(None, tmp_path, "--netns", one.netns.name, "--interfaces", one.device,
               "--drain-interval", "0.1s",
               "--sink", f"kafka://{broker.address()}/{topic}?{options}") as agent:  # fmt: skip
        wait_until(lambda: agent.says("capturing on 2") or True, "attached")
        connect(one, other, ADDRESSES)
        sender = traffic.start(one.netns, "udp", "--host", V4[1], "--count", 200_000, "--flows",
                               1000, "--size", 64, "--first_port", 9)  # fmt: skip
        time.sleep(0.7)
        broker.kill()
        wait_until(partial(agent.says, "WARNING sink kafka: "), "the agent says so")
        broker.start()
        traffic.finish(sender)
        counters = disconnect(one)
        ledger = agent.wait_drained()
        assert agent.stop() == 0, agent.log
    sink = ledger["sinks"]["kafka"]
    assert sink["dropped"] == {}
    assert sink["delivered"] == sink["queued"] == ledger["published"]
    values = [m.value for m in read(broker, topic, client)]
    distinct = [flow_pb2.Record.FromString(value) for value in set(values)]
    assert sum(r.packets for r in distinct) == counters.rx_packets + counters.tx_packets
    assert sum(r.bytes for r in distinct) == counters.rx_octets + counters.tx_octets
    # The broker drops what it has already.
    assert len(values) == len(distinct)
    assert re.search(r"sink kafka: \w+", agent.log), "it was said"
    assert agent.says("delivers again")


def leader(admin: Any, topic: str) -> int:
    """The node that leads a topic's first partition."""
    (described,) = admin.describe_topics([topic])
    return int(described["partitions"][0]["leader_id"])


def test_the_leader_changes(broker: Broker, client: str, tmp_path: Path) -> None:
    """
    The node that leads a partition is killed while records come: the other one takes over, and each
    record is there once.
    """
    second = Second(broker, tmp_path)
    try:
        second.start()
        with broker.admin() as admin:
            topics: list[str] = []

            def led_by_second() -> bool:
                # It leads nothing that is made before it has caught up.
                topics.append(f"led-{client}-{len(topics)}")
                options = {"assignments": {0: [2, 1]}}
                admin.create_topics({topics[-1]: options}, wait_for_metadata=True)
                return leader(admin, topics[-1]) == 2

            wait_until(led_by_second, "the second node leads")
        topic = topics[-1]
        batches = [make_batch(*(Row(src_port=n, packet_count=k + 1) for n in range(100)))
                   for k in range(20)]  # fmt: skip
        with running(config(broker, topic, client=client, max_flows=50)) as sink:
            for number, batch in enumerate(batches):
                sink.put(batch)
                if number == 10:
                    second.kill()
                time.sleep(0.05)
            assert sink.settled().delivered.flows == 2000
        with broker.admin() as admin:
            assert leader(admin, topic) == 1
        found = [flow_pb2.Record.FromString(m.value) for m in read(broker, topic, client)]
    finally:
        second.kill()
    assert Counter((r.packets, r.transport.src_port) for r in found) == Counter(
        (k + 1, n) for k in range(20) for n in range(100)
    )
