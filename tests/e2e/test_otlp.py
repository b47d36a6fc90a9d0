"""
Logs and metrics to a real OpenTelemetry Collector: what it writes down is what was captured.

The Collector is version 0.164.0, built from the Go module proxy; one of its internal modules, which
words error answers over HTTP, is written in tools/otelcol.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.batch.attributes import Entities
from exporter.batch.batch import FlowBatch, Interface, Observer, Point, Totals, Window
from exporter.batch.record import FlowRecord, records
from exporter.config import load
from exporter.errors import SinkError
from exporter.fanout.config import QueueConfig, RetryConfig
from exporter.fanout.queue import BatchQueue
from exporter.fanout.worker import SinkWorker
from exporter.sinks.table import make
from exporter.testing import Row, make_batch
from tests.certificates import Authority
from tests.e2e.agent import Agent, wait_until
from tests.e2e.net import Network, connect, disconnect
from tests.e2e.otelcol import Otelcol, attributes, logs_of
from tests.e2e.test_exact import ADDRESSES, all_kinds, pair
from tests.strategies import ASN, COMMUNITY, NUMBER, POD, TEAM
from tests.unit.sinks.otlp.expected import attributes as expected

PROTOCOLS = ("grpc", "http")
QUICK = RetryConfig(first=0.05, longest=0.2, timeout=5)
_START = 1_700_000_000_000_000_000


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Otelcol]:
    """One for the module: plain text, with a token, and with three certificates."""

    def tls(name: str, names: str, *, expired: bool = False) -> dict[str, Any]:
        certificate, key = authority.issue(name, names, expired=expired)
        return {"tls": {"cert_file": str(certificate), "key_file": str(key)}}

    mutual = tls("mutual", "IP:127.0.0.1")
    mutual["tls"]["client_ca_file"] = str(authority.pem)

    receivers = {
        "plain": {},
        "token": {"auth": {"authenticator": "bearertokenauth"}},
        "good": tls("good", "IP:127.0.0.1"),
        "expired": tls("expired", "IP:127.0.0.1", expired=True),
        "other": tls("other", "DNS:other.test"),
        "mutual": mutual,
    }
    extensions = {"bearertokenauth": {"token": "right"}}
    directory = tmp_path_factory.mktemp("otelcol")
    with Otelcol(directory, receivers=receivers, extensions=extensions) as running:
        yield running


@contextmanager
def sending(
    collector: Otelcol, protocol: str, query: str = "", listener: str = "plain"
) -> Iterator[tuple[SinkWorker, BatchQueue]]:
    """A sink, as its URL on the command line makes it, at work."""
    port = collector.listeners[listener].port(protocol)
    url = f"otlp+{protocol}://127.0.0.1:{port}{query}"
    (config,) = load(None, {}, {"sinks": [url]}).sinks
    queue = BatchQueue(QueueConfig())
    worker = SinkWorker(make(config, (TEAM,)), queue, QUICK)
    worker.start()
    try:
        yield worker, queue
    finally:
        worker.stop(10)
    counts = queue.counts()
    assert counts.pending == Totals()
    assert counts.queued == counts.delivered + counts.dropped_total


def send(collector: Otelcol, protocol: str, query: str, *some: FlowBatch) -> None:
    """Deliver batches, all of them."""
    with sending(collector, protocol, query) as (_, queue):
        for batch in some:
            queue.put(batch)
        assert queue.wait_empty(20), collector.log
        assert queue.counts().delivered.flows == sum(len(batch) for batch in some)


POINTS = (Point(0, 2, 0), Point(1, 7, 1))
NAMES = {POINTS[0]: Interface("eth0"), POINTS[1]: Interface("veth-ü", "pod-1")}


def every_kind() -> FlowBatch:
    """TCP, UDP, SCTP, ICMP and others of both families; VLANs, flags, reasons, no MAC, marked."""
    rows = [
        Row(src_addr=source, dst_addr=destination, ip_protocol=protocol, src_port=1000 + number,
            dst_port=0x0801 if protocol in (1, 58) else 443, vlan_id=vlan, inner_vlan_id=inner,
            packet_count=number + 1, octet_count_l2=10**number, octet_count_l3=10**number // 2,
            flow_start_ns=_START + number, flow_end_ns=_START + 10**9 + number, dscp=number,
            tcp_control_bits=0x1FF, tcp_flag_sets=3, flow_end_reason=number % 6,
            sampling_interval=number % 3 + 1, duplicate=number == 4, direction=number % 2,
            src_mac="00:00:00:00:00:00" if number == 5 else "02:00:00:00:00:01",
            points=POINTS[: number % 2 + 1])
        for number, (source, destination, protocol, vlan, inner) in enumerate((
            ("192.0.2.1", "198.51.100.255", 6, 0, 0),
            ("2001:db8::1", "fe80::ff:fe00:1", 6, 7, 0),
            ("10.0.0.1", "0.0.0.0", 17, 4094, 12),
            ("::", "::1", 17, 0, 0),
            ("127.0.0.1", "255.255.255.255", 1, 0, 0),
            ("2001:db8:0:1:1:1:1:1", "ff02::1:ff00:1", 58, 0, 0),
            ("10.1.1.1", "10.2.2.2", 132, 0, 0),
            ("1:0:0:2::3", "1::2:0:0:3:4", 47, 9, 0),
        ))
    ]  # fmt: skip
    batch = make_batch(
        *rows,
        interfaces=NAMES,
        observer=Observer("192.0.2.7", "node-1"),
        window=Window(_START, _START + 5 * 10**9),
    )
    return added_to(batch)


def added_to(batch: FlowBatch) -> FlowBatch:
    """What enrichment may have added: both ends, texts and integers, known and not."""
    rows = np.arange(len(batch), dtype=np.uint32)
    entities = (
        Entities(rows % 3, {POD.of("source"): (None, "web-0", 'größe="1"'),
                            ASN.of("source"): (None, 4_200_000_000, None)}),
        Entities(rows % 2, {POD.of("destination"): (None, "x" * 200)}),
        Entities(rows % 2, {TEAM: (None, "blue")}),
    )  # fmt: skip
    ids = rows.astype(np.uint64) << np.uint64(60)
    texts = np.array([b"" if n % 3 else b"1:abc=" for n in rows.tolist()], "S6")
    return replace(batch, entities=entities, added={NUMBER: ids, COMMUNITY: texts})


def canonical(flat: dict[str, Any]) -> str:
    return json.dumps(flat, sort_keys=True)


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("schema", ["otel", "obi", "netobserv"])
def test_every_attribute(collector: Otelcol, schema: str, protocol: str, compression: str) -> None:
    """All kinds of flows, every schema: the Collector has every attribute, and no other."""
    batch, mark = every_kind(), collector.mark()
    send(collector, protocol, f"?schema={schema}&compression={compression}", batch)
    found = collector.logs(mark)
    wanted = {record.time_flow_end_ns: record for record in records(batch)}
    assert len(found) == len(batch)
    for log in found:
        says = attributes(log)
        if schema == "netobserv":
            assert says.pop("TimeReceived") == batch.window.end_ns // 10**9
        assert says == expected(wanted.pop(int(log["timeUnixNano"])), schema)
        assert int(log["observedTimeUnixNano"]) == batch.window.end_ns
        assert (log["severityNumber"], log["eventName"]) == (9, "network.flow")
    assert not wanted
    resources = [r["resourceLogs"][0]["resource"] for r in collector.requests(mark)]
    for resource in map(attributes, resources):
        assert resource["service.name"] == "flow-exporter"
        assert (resource["host.name"], resource["host.ip"]) == ("node-1", ["192.0.2.7"])


#: What OpenTelemetry's programs are told by; the endpoint is added.
ENVIRONMENT = {
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20right",
    "OTEL_SERVICE_NAME": "flows",
    "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,team=a%20b",
}


@pytest.mark.parametrize("told_by", ["url", "environment"])
def test_what_arrives_is_what_was_captured(
    network: Network, tmp_path: Path, told_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A real agent under TCP, UDP and ICMP of both families: every record and every attribute as it
    printed them, packets and octets as the interface counted them. It is told where to by a URL,
    over gRPC, or by OTEL_* variables alone, over HTTP, with a token and a resource.
    """
    one, other = pair(network)
    receivers = {"plain": {}, "token": {"auth": {"authenticator": "bearertokenauth"}}}
    extensions = {"bearertokenauth": {"token": "right"}}
    with Otelcol(tmp_path, one.netns, receivers, extensions) as collector:
        url = f"otlp+grpc://127.0.0.1:{collector.listeners['plain'].grpc}"
        if told_by == "environment":
            url, port = "otlp", collector.listeners["token"].http
            for name, value in ENVIRONMENT.items():
                monkeypatch.setenv(name, value)
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        arguments = ["--interfaces", one.device, "--drain-interval", "0.2s", "--sink", "stdout"]
        with Agent(one.netns, tmp_path, *arguments, "--sink", url) as agent:
            connect(one, other, ADDRESSES)
            all_kinds(one, other)
            counters = disconnect(one)
            agent.wait_drained()
            assert agent.stop() == 0, agent.log
        received, printed = [attributes(log) for log in collector.logs()], agent.records()
    assert Counter(map(_from_log, received)) == Counter(map(_from_json, printed))
    assert sum(one["flow.packets"] for one in received) == (
        counters.rx_packets + counters.tx_packets
    )
    assert sum(one["flow.bytes"] for one in received) == counters.rx_octets + counters.tx_octets
    transports = {one["network.transport"] for one in received}
    assert transports >= {"tcp", "udp", "icmp", "ipv6-icmp"}
    for request in collector.requests():
        about = attributes(request["resourceLogs"][0]["resource"])
        said = {"service.name": "flows", "deployment.environment.name": "test", "team": "a b"}
        usual = {"service.name": "flow-exporter"}
        assert (said if told_by == "environment" else usual).items() <= about.items()
        assert "Bearer" not in str(request)
    assert "Bearer" not in agent.log


def _from_log(flat: dict[str, Any]) -> str:
    # Printed times are text, with the digits of the numbers.
    return canonical({k: v for k, v in flat.items() if k != "network.interface.name"})


def _from_json(nested: dict[str, Any]) -> str:
    flat = dict(_flatten("", nested))
    interfaces = flat.pop("flow.interfaces")
    for name in ("name", "index", "direction", "kind", "mac"):
        flat[f"flow.interfaces.{name}"] = [one[name] for one in interfaces]
    for key in ("time.start", "time.end"):
        seconds, _, fraction = flat[key].removesuffix("Z").partition(".")
        whole = int(np.datetime64(seconds, "s").astype(np.int64))
        flat[key] = whole * 10**9 + int(fraction)
    return canonical({k: v for k, v in flat.items() if not k.startswith("observer.")})


def _flatten(prefix: str, nested: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from _flatten(f"{prefix}{key}.", value)
        else:
            yield prefix + key, value


def some(rows: int, first: int = 0, window: int = 0) -> FlowBatch:
    """Rows that differ in source port and in their counts."""
    start = _START + window * 10**9
    return replace(
        make_batch(
            *(
                Row(src_port=first + n, packet_count=n + 1, octet_count_l2=100 * (n + 1),
                    octet_count_l3=86 * (n + 1), points=POINTS[:1])
                for n in range(rows)
            ),
            interfaces=NAMES,
        ),
        window=Window(start, start + 10**9),
    )  # fmt: skip


Sums = dict[tuple[str, tuple[tuple[str, Any], ...]], int]


def sums(collector: Otelcol, mark: int, temporality: int) -> list[Sums]:
    """Of each request: (metric, attributes) -> value."""
    found: list[Sums] = []
    for name, metric in collector.metrics(mark):
        assert metric["aggregationTemporality"] == temporality
        assert metric["isMonotonic"] is True
        if name.endswith("bytes"):
            found.append({})
        for point in metric["dataPoints"]:
            assert int(point["startTimeUnixNano"]) <= int(point["timeUnixNano"])
            key = (name, tuple(sorted(attributes(point).items())))
            assert key not in found[-1], "a series twice"
            found[-1][key] = int(point["asInt"])
    return found


def by_transport(*some: FlowBatch) -> Sums:
    """What flows add up to, by transport, direction and team, without the code under test."""
    total: Counter[Any] = Counter()
    for batch in some:
        for record in records(batch):
            if not record.duplicate:
                _count(total, record)
    return dict(total)


def _count(total: Counter[Any], record: FlowRecord) -> None:
    said = expected(record, "otel")
    names = ("flow.direction", "labels.team", "network.transport")
    key = tuple((name, said[name]) for name in names if name in said)
    total["network.flow.bytes", key] += record.octets_l2
    total["network.flow.packets", key] += record.packets


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_sums_are_exact(
    collector: Otelcol, temporality: str, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Three drains: what each request says is what the flows add up to, so far or in its drain;
    duplicates are counted once. What enrichment does not know of a flow is no attribute.
    """
    monkeypatch.setattr("exporter.config.attributes_of", lambda _enrich, _agent: (TEAM,))
    batches = [every_kind(), some(500), replace(every_kind(), window=Window(_START, _START + 1))]
    mark = collector.mark()
    send(
        collector, protocol,
        "?signal=metrics&metrics.attributes=flow_direction,ip_protocol,labels_team"
        f"&metrics.temporality={temporality}",
        *batches,
    )  # fmt: skip
    found = sums(collector, mark, 2 if temporality == "cumulative" else 1)
    if temporality == "delta":
        assert found == [by_transport(batch) for batch in batches]
    else:
        assert found == [by_transport(*batches[: n + 1]) for n in range(3)]


def test_overflow_and_expiry(collector: Otelcol) -> None:
    """
    Ten series at most, of which one is for the rest, and says so; series that are idle are told no
    more, and come back from zero with a later start.
    """
    mark = collector.mark()
    query = "?signal=metrics&metrics.attributes=src_port&metrics.limit=10&metrics.idle=0.3s"
    overflow = ("network.flow.packets", (("otel.metric.overflow", True),))

    def port(number: int) -> tuple[str, Any]:
        return ("network.flow.packets", (("source.port", number),))

    with sending(collector, "grpc", query) as (_, queue):
        queue.put(some(25))
        assert queue.wait_empty(10)
        time.sleep(0.5)
        queue.put(some(2, first=0, window=5))
        assert queue.wait_empty(10)
    first, second = sums(collector, mark, 2)
    assert first[overflow] == sum(range(10, 26))
    assert [first[port(n)] for n in range(9)] == list(range(1, 10))
    assert len(first) == 20
    assert second == {
        port(0): 1, port(1): 2, ("network.flow.bytes", (("source.port", 0),)): 100,
        ("network.flow.bytes", (("source.port", 1),)): 200,
    }  # fmt: skip
    starts = [
        {int(point["startTimeUnixNano"]) for point in metric["dataPoints"]}
        for _, metric in collector.metrics(mark)
    ]
    assert starts == [{_START}, {_START}, {_START + 5 * 10**9}, {_START + 5 * 10**9}]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_certificates(
    collector: Otelcol, authority: Authority, tmp_path: Path, protocol: str
) -> None:
    """
    The right authority: delivered. Another authority, an expired certificate, another name:
    refused, with the reason, and nothing is lost while it is.
    """
    stranger = Authority(tmp_path, "stranger")
    for listener, ca, reason in (
        ("good", stranger.pem, ("self-signed", "unable to get local issuer", "verify failed")),
        ("expired", authority.pem, ("expired",)),
        ("other", authority.pem, ("mismatch", "not valid for", "Hostname", "Peer name")),
    ):
        mark = collector.mark()
        query = f"?tls.ca={ca}"
        with sending(collector, protocol, query, listener) as (worker, queue):
            queue.put(some(3))
            _wait_for_retries(worker, 2)
            assert not worker.healthy
            assert queue.counts().pending.flows == 3
            worker.stop(0)
        assert queue.counts().dropped == {"shutdown": some(3).totals}
        assert collector.logs(mark) == []
        _assert_refused(collector, protocol, query, listener, reason)
    mark = collector.mark()
    with sending(collector, protocol, f"?tls.ca={authority.pem}", "good") as (_, queue):
        queue.put(some(3))
        assert queue.wait_empty(10)
        assert queue.counts().delivered.flows == 3
    with sending(
        collector, protocol, f"?tls.ca={authority.pem}&tls.server_name=other.test", "other"
    ) as (_, queue):
        queue.put(some(3))
        assert queue.wait_empty(10)
        assert queue.counts().delivered.flows == 3
    assert len(collector.logs(mark)) == 6


def _wait_for_retries(worker: SinkWorker, count: int) -> None:
    wait_until(lambda: worker.retries >= count, "it is tried again")


def _assert_refused(
    collector: Otelcol, protocol: str, query: str, listener: str, reasons: tuple[str, ...]
) -> None:
    """The sink's own words say why."""
    port = collector.listeners[listener].port(protocol)
    url = f"otlp+{protocol}://127.0.0.1:{port}{query}"
    (config,) = load(None, {}, {"sinks": [url]}).sinks
    sink = make(config)
    sink.open()
    try:
        (message,) = sink.encode(some(1))
        with pytest.raises(SinkError) as found:
            sink.deliver(message, 5)
    finally:
        sink.close()
    assert found.value.retryable
    assert any(reason.lower() in str(found.value).lower() for reason in reasons), found.value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_authority_that_is_replaced(
    collector: Otelcol, authority: Authority, tmp_path: Path, protocol: str
) -> None:
    """A CA file that is put right is used without a restart, and what waited is delivered."""
    ca = tmp_path / "ca.pem"
    ca.write_bytes(Authority(tmp_path, "stranger").pem.read_bytes())
    mark = collector.mark()
    with sending(collector, protocol, f"?tls.ca={ca}", "good") as (worker, queue):
        queue.put(some(5))
        _wait_for_retries(worker, 1)
        fresh = tmp_path / "fresh.pem"
        fresh.write_bytes(authority.pem.read_bytes())
        fresh.rename(ca)
        assert queue.wait_empty(10)
        assert queue.counts().delivered.flows == 5
    assert len(collector.logs(mark)) == 5


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_client_certificates(
    collector: Otelcol, authority: Authority, tmp_path: Path, protocol: str
) -> None:
    """
    Where one is asked for: none, or one of another authority, is refused, and nothing is lost while
    it is. The right one, put in the same files, is used without a restart, as is any other.
    """
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def use(issuer: Authority, name: str) -> None:
        for made, target in zip(issuer.issue(name, f"DNS:{name}.test"), (certificate, key),
                                strict=True):  # fmt: skip
            fresh = tmp_path / "fresh"
            fresh.write_bytes(made.read_bytes())
            fresh.rename(target)

    mark = collector.mark()
    ca = f"?tls.ca={authority.pem}"
    with sending(collector, protocol, ca, "mutual") as (worker, queue):
        queue.put(some(3))
        _wait_for_retries(worker, 2)
        assert queue.counts().pending.flows == 3
        worker.stop(0)
    stranger = Authority(tmp_path, "stranger")
    use(stranger, "client")
    own = f"{ca}&tls.certificate={certificate}&tls.key={key}"
    with sending(collector, protocol, own, "mutual") as (worker, queue):
        queue.put(some(3))
        _wait_for_retries(worker, 2)
        assert queue.counts().pending.flows == 3
        assert collector.logs(mark) == []
        use(authority, "client")
        assert queue.wait_empty(10)
        use(stranger, "other")
        refused = worker.retries
        queue.put(some(2))
        _wait_for_retries(worker, refused + 1)
        use(authority, "later")
        assert queue.wait_empty(10)
        assert queue.counts().delivered.flows == 5
    assert len(collector.logs(mark)) == 5


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tokens(
    collector: Otelcol, tmp_path: Path, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    """
    A wrong token: refused, counted, said without showing it. The right one in the same file later:
    delivered, without a restart.
    """
    token = tmp_path / "token"
    token.write_text("s3cret-but-wrong\n")
    mark = collector.mark()
    with sending(collector, protocol, f"?bearer={token}", "token") as (worker, queue):
        queue.put(some(4))
        assert queue.wait_empty(10)
        assert queue.counts().dropped == {"unauthenticated": some(4).totals}
        assert not worker.healthy
        assert collector.logs(mark) == []
        fresh = tmp_path / "fresh"
        fresh.write_text("right\n")
        fresh.rename(token)
        queue.put(some(2))
        assert queue.wait_empty(10)
        assert queue.counts().delivered == some(2).totals
        assert worker.healthy
    assert len(collector.logs(mark)) == 2
    assert "unauthenticated" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_collector_that_is_killed(tmp_path: Path, protocol: str) -> None:
    """
    Killed with -9 while batches come, away for a while, and back: no flow is missing, and at most
    the messages in flight when it was killed are there twice.
    """
    with Otelcol(tmp_path) as collector:
        # Messages of 50 flows: many deliveries, one of them when it is killed.
        with sending(collector, protocol, "?max_flows=50") as (worker, queue):
            for number in range(40):
                queue.put(some(200, first=200 * number))
                if number == 10:
                    wait_until(lambda: queue.counts().delivered.flows > 1000, "it delivers")
                    collector.kill()
                    _wait_for_retries(worker, 3)
                if number == 30:
                    assert not worker.healthy
                    collector.start()
            assert queue.wait_empty(30)
            assert queue.counts().dropped == {}
            assert queue.counts().delivered.flows == 8000
        received = Counter(attributes(log)["source.port"] for log in collector.logs())
    assert set(received) == set(range(8000))
    assert sum(received.values()) - 8000 <= 50


def test_messages_that_are_too_large_are_split(collector: Otelcol) -> None:
    """
    We are told 32 MiB, the Collector takes 4 MiB over gRPC: each flow arrives, and arrives once.
    """
    mark = collector.mark()
    batches = [some(12_000, first=0), some(12_000, first=12_000)]
    send(collector, "grpc", "?max_octets=32MiB&max_flows=1000000", *batches)
    # Reading 20 MB of JSON is most of this test: once.
    requests = collector.requests(mark)
    received = Counter(attributes(log)["source.port"] for log in logs_of(requests))
    assert received == Counter(range(24_000))
    assert len(requests) >= 4
