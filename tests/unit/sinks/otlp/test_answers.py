"""What a collector may answer, over real connections, and what is made of it."""

from __future__ import annotations

import base64
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as PackedAny
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from exporter.batch.batch import FlowBatch, Totals
from exporter.errors import ConfigError, SinkError
from exporter.fanout.config import QueueConfig, RetryConfig
from exporter.fanout.contract import Message
from exporter.fanout.queue import BatchQueue
from exporter.fanout.worker import SinkWorker
from exporter.sinks.otlp.answer import retry_after, words
from exporter.sinks.otlp.config import OtlpConfig
from exporter.sinks.otlp.deliver import Throttle
from exporter.sinks.otlp.sink import OtlpSink
from exporter.testing import Row, make_batch
from tests.unit.sinks.otlp.servers import Answer, grpc_collector, http_collector

PROTOBUF = {"content-type": "application/x-protobuf"}


def some(rows: int) -> FlowBatch:
    return make_batch(*(Row(src_port=n, packet_count=n + 1) for n in range(rows)))


@contextmanager
def opened(endpoint: str, **options: Any) -> Iterator[tuple[OtlpSink, Message]]:
    """A sink that is open, and a message of ten flows."""
    sink = OtlpSink("otlp", OtlpConfig(endpoint=endpoint, **options), {})
    sink.open()
    try:
        (message,) = sink.encode(some(10))
        yield sink, message
    finally:
        sink.close()
        sink.close()


def refusal(sink: OtlpSink, message: Message, timeout: float = 5) -> SinkError:
    with pytest.raises(SinkError) as found:
        sink.deliver(message, timeout)
    return found.value


def status(text: str) -> bytes:
    encoded: bytes = status_pb2.Status(code=3, message=text).SerializeToString()
    return encoded


@pytest.mark.parametrize(
    ("code", "reason", "retryable"),
    [
        (400, "invalid_argument", False),
        (401, "unauthenticated", False),
        (403, "permission_denied", False),
        (404, "not_found", False),
        (405, "http_4xx", False),
        (413, "too_large", False),
        (429, "throttled", True),
        (500, "http_5xx", False),
        (502, "unavailable", True),
        (503, "unavailable", True),
        (504, "unavailable", True),
        (301, "http_3xx", False),
    ],
)
def test_http_codes(code: int, reason: str, retryable: bool) -> None:
    """As the specification has it; a redirect is not followed; the collector's words are told."""
    moved = {"location": "http://192.0.2.1/"} if code == 301 else {}
    answer = Answer(code, status("it is\nso"), PROTOBUF | moved)
    with http_collector(answer) as (endpoint, came), opened(endpoint, protocol="http") as (s, m):
        error = refusal(s, m)
        s.deliver(m, 5)
    assert (error.reason, error.retryable) == (reason, retryable)
    assert str(error) == f"{reason}: {endpoint}: HTTP {code} it is so"
    assert len(came) == 2


def test_http_requests() -> None:
    """One connection, the signal's path, protobuf, what was configured as headers."""
    with (
        http_collector() as (endpoint, came),
        opened(endpoint, protocol="http", headers={"X-Scope-OrgID": "7"}) as (sink, message),
    ):
        sink.deliver(message, 5)
        sink.deliver(message, 5)
    assert [one.path for one in came] == ["/v1/logs"] * 2
    assert [one.body for one in came] == [message.payload] * 2
    assert len({one.peer for one in came}) == 1, "the connection is kept"
    headers = came[0].headers
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["x-scope-orgid"] == "7"
    assert headers["user-agent"].startswith("flow-exporter/")
    assert "content-encoding" not in headers


def test_http_compression_and_path() -> None:
    """What is inflated is what was encoded; a path that was given is the whole path."""
    with (
        http_collector() as (endpoint, came),
        opened(endpoint, protocol="http", compression="gzip", path="/otlp/x") as (sink, message),
    ):
        sink.deliver(message, 5)
    assert came[0].headers["content-encoding"] == "gzip"
    assert gzip.decompress(came[0].body) == message.payload
    assert len(came[0].body) < len(message.payload) / 4
    assert came[0].path == "/otlp/x"


@pytest.mark.parametrize("code", [429, 503])
def test_retry_after(code: int) -> None:
    """Nothing is sent for as long as it asks, and it is asked no sooner."""
    answer = Answer(code, b"", {"retry-after": "1"})
    with http_collector(answer) as (endpoint, came), opened(endpoint, protocol="http") as (s, m):
        began = time.monotonic()
        assert refusal(s, m).retryable
        early = refusal(s, m, timeout=0.1)
        assert (early.reason, early.retryable) == ("throttled", True)
        assert len(came) == 1
        s.deliver(m, 5)
        assert 1 <= time.monotonic() - began < 3
    assert len(came) == 2


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [("0", 0, 0), ("7", 7, 7), ("999999999", 300, 300), ("-1", 0, 0), ("soon", 0, 0),
     ("٣", 0, 0), (formatdate(0, usegmt=True), 0, 0)],
)  # fmt: skip
def test_retry_after_header(header: str, low: float, high: float) -> None:
    """A number or a date; nonsense is nothing; an absurd one is cut."""
    assert low <= retry_after(header) <= high


def test_retry_after_a_date() -> None:
    """Seconds until then."""
    assert 50 <= retry_after(formatdate(time.time() + 100, usegmt=True)) <= 101


def test_a_throttle_ends_when_closed() -> None:
    """Whoever waits is woken."""
    throttle = Throttle()
    throttle.ask(60)
    threading.Timer(0.05, throttle.close).start()
    began = time.monotonic()
    with pytest.raises(SinkError, match="cancelled"):
        throttle.wait(30)
    assert time.monotonic() - began < 10


def trailing(delay: float | None) -> tuple[tuple[str, bytes], ...]:
    if delay is None:
        return ()
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(int(delay * 1000))
    packed = PackedAny()
    packed.Pack(info)
    full = status_pb2.Status(code=8, message="x", details=[packed])
    return (("grpc-status-details-bin", full.SerializeToString()),)


@pytest.mark.parametrize(
    ("code", "delay", "retryable"),
    [
        ("CANCELLED", None, True),
        ("DEADLINE_EXCEEDED", None, True),
        ("ABORTED", None, True),
        ("OUT_OF_RANGE", None, True),
        ("UNAVAILABLE", None, True),
        ("UNAVAILABLE", 0.4, True),
        ("DATA_LOSS", None, True),
        ("RESOURCE_EXHAUSTED", 0.4, True),
        ("RESOURCE_EXHAUSTED", None, False),
        ("INVALID_ARGUMENT", None, False),
        ("UNAUTHENTICATED", None, False),
        ("PERMISSION_DENIED", None, False),
        ("UNIMPLEMENTED", None, False),
        ("INTERNAL", None, False),
        ("UNKNOWN", None, False),
    ],
)
def test_grpc_codes(code: str, delay: float | None, retryable: bool) -> None:
    """As the specification has it; RESOURCE_EXHAUSTED only with the time to wait, which is kept."""
    answer = (grpc.StatusCode[code], "it is\nso", trailing(delay))
    with grpc_collector(answer) as (endpoint, came), opened(endpoint) as (sink, message):
        began = time.monotonic()
        error = refusal(sink, message)
        sink.deliver(message, 5)
        took = time.monotonic() - began
    assert (error.reason, error.retryable) == (code.lower(), retryable)
    assert str(error) == f"{code.lower()}: {endpoint}: it is so"
    assert took >= (delay or 0)
    assert [payload for _, payload in came] == [message.payload] * 2


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize(
    ("signal", "rejected", "lost"),
    [
        ("logs", 0, 0),
        ("logs", 3, 3),
        ("logs", 10, 10),
        ("logs", 99, 10),
        ("spans", 3, 3),
        ("metrics", 1, 5),
    ],
)
def test_partial_success(protocol: str, signal: str, rejected: int, lost: int) -> None:
    """
    What is rejected of a message that is taken is counted as dropped, never sent again; a data
    point stands for its share of the flows.
    """
    if signal == "logs":
        answer = ExportLogsServiceResponse(
            partial_success=ExportLogsPartialSuccess(
                rejected_log_records=rejected, error_message="no room"
            )
        ).SerializeToString()
    elif signal == "spans":
        answer = ExportTraceServiceResponse(
            partial_success=ExportTracePartialSuccess(
                rejected_spans=rejected, error_message="no room"
            )
        ).SerializeToString()
    else:
        answer = ExportMetricsServiceResponse(
            partial_success=ExportMetricsPartialSuccess(
                rejected_data_points=rejected, error_message="no room"
            )
        ).SerializeToString()
    server: Any = (
        grpc_collector(answer) if protocol == "grpc" else http_collector(Answer(200, answer))
    )
    with server as (endpoint, came):
        config = OtlpConfig(endpoint=endpoint, protocol=protocol, signal=signal)
        queue = BatchQueue(QueueConfig())
        worker = SinkWorker(OtlpSink("otlp", config, {}), queue, RetryConfig(first=0.001))
        worker.start()
        queue.put(some(10))
        assert queue.wait_empty(10)
        worker.stop(5)
    counts = queue.counts()
    assert len(came) == 1
    assert counts.delivered.flows == 10 - lost
    assert counts.dropped.get("rejected", Totals()).flows == lost
    assert counts.queued == counts.delivered + counts.dropped_total == some(10).totals


def test_a_partial_success_is_explained() -> None:
    """How many of how many, and the collector's words; nonsense instead of an answer is none."""
    answer = ExportLogsServiceResponse(
        partial_success=ExportLogsPartialSuccess(rejected_log_records=2, error_message="a\nb")
    ).SerializeToString()
    answers = (Answer(200, answer), Answer(200, b"\xff\xff\xff"), Answer(200, b"<html>"))
    with http_collector(*answers) as (endpoint, _), opened(endpoint, protocol="http") as (s, m):
        error = refusal(s, m)
        s.deliver(m, 5)
        s.deliver(m, 5)
    assert str(error) == "rejected: 2 of 10 log records: a b"
    assert (error.rows, error.retryable) == (2, False)


@pytest.mark.parametrize(
    "text", ["grpc: received message larger than max (5 vs. 4)", "http: request body too large"]
)
def test_too_large_in_words(text: str) -> None:
    """As Go's servers say it, with codes that mean other things too."""
    with (
        grpc_collector((grpc.StatusCode.RESOURCE_EXHAUSTED, text, ())) as (endpoint, _),
        opened(endpoint) as (sink, message),
    ):
        assert refusal(sink, message).reason == "too_large"
    with (
        http_collector(Answer(400, status(text), PROTOBUF)) as (endpoint, _),
        opened(endpoint, protocol="http") as (sink, message),
    ):
        assert refusal(sink, message).reason == "too_large"
        assert [len(part.rows) for part in sink.split(message)] == [5, 5]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_secrets(protocol: str, tmp_path: Path) -> None:
    """
    Bearer, basic and other headers from files; one that is replaced is used with the next message;
    one that is empty is an error that shows nothing and is tried again.
    """
    basic, key = tmp_path / "basic", tmp_path / "key"
    basic.write_text("user:p\u00e4ss\n")
    key.write_text("k1\n")
    options = {"protocol": protocol, "basic": basic, "header_files": {"X-Api-Key": key}}
    server: Any = grpc_collector() if protocol == "grpc" else http_collector()
    with server as (endpoint, came), opened(endpoint, **options) as (sink, message):
        sink.deliver(message, 5)
        (tmp_path / "next").write_text("k2\n")
        (tmp_path / "next").rename(key)
        sink.deliver(message, 5)
        key.write_text("")
        error = refusal(sink, message)
        key.write_text("k3-\n")
        sink.deliver(message, 5)
    headers = [one[0] if protocol == "grpc" else one.headers for one in came]
    assert [h["x-api-key"] for h in headers] == ["k1", "k2", "k3-"]
    assert base64.b64decode(headers[0]["authorization"].removeprefix("Basic ")).decode() == (
        "user:p\u00e4ss"
    )
    assert (error.reason, error.retryable) == ("credentials", True)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("option", ["bearer", "basic", "header_files"])
def test_a_collector_that_repeats_a_secret(protocol: str, option: str, tmp_path: Path) -> None:
    """In a refusal, as text or as a message, or with a partial success: it is not shown."""
    path = tmp_path / "secret"
    path.write_text("user:s3cr3t")
    encoded = base64.b64encode(b"user:s3cr3t").decode()
    echo = f"no user:s3cr3t, no s3cr3t, no {encoded} of yours"
    partial = ExportLogsServiceResponse(
        partial_success=ExportLogsPartialSuccess(rejected_log_records=1, error_message=echo)
    ).SerializeToString()
    options: dict[str, Any] = {"protocol": protocol, option: path}
    if option == "header_files":
        options[option] = {"x-key": path}
    server: Any = (
        grpc_collector((grpc.StatusCode.UNAUTHENTICATED, echo, ()), partial)
        if protocol == "grpc"
        else http_collector(
            Answer(401, echo.encode()), Answer(200, partial), Answer(401, status(echo), PROTOBUF)
        )
    )
    with server as (endpoint, came), opened(endpoint, **options) as (sink, message):
        for _ in range(2 if protocol == "grpc" else 3):
            said = str(refusal(sink, message))
            assert "of yours" in said
            # Of basic it is the password alone, too, and what goes over the wire.
            secrets = ["s3cr3t", encoded] if option == "basic" else ["user:s3cr3t"]
            assert [one for one in secrets if one in said] == []
    assert len(came) == (2 if protocol == "grpc" else 3)


def test_a_token_that_is_replaced_on_the_way(tmp_path: Path) -> None:
    """Refused with the old one, while the new one is there already: it is sent again."""
    token = tmp_path / "token"
    token.write_text("old")
    replaced = threading.Event()
    answer = Answer(401, b"", {}, replaced)
    with (
        http_collector(answer) as (endpoint, came),
        opened(endpoint, protocol="http", bearer=token) as (sink, message),
    ):

        def replace_it() -> None:
            token.write_text("newer")
            replaced.set()

        threading.Timer(0.1, replace_it).start()
        assert refusal(sink, message).retryable
        sink.deliver(message, 5)
    assert [one.headers["authorization"] for one in came] == ["Bearer old", "Bearer newer"]


@pytest.mark.parametrize("content", ["no-colon", "user:s3cret\nX-Other: 1"])
def test_secrets_that_are_none(content: str, tmp_path: Path) -> None:
    """One line that shows nothing of it; a line break is no way into other headers."""
    path = tmp_path / "secret"
    path.write_text(content)
    option = {"basic": path} if ":" not in content else {"bearer": path}
    sink = OtlpSink("otlp", OtlpConfig(endpoint="h:1", **option), {})
    with pytest.raises(ConfigError) as found:
        sink.open()
    assert "s3cret" not in str(found.value)
    sink.close()


def test_nobody_listens() -> None:
    """Both protocols say so, and try again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        for protocol in ("grpc", "http"):
            with opened(endpoint, protocol=protocol) as (sink, message):
                error = refusal(sink, message)
            assert (error.reason, error.retryable) == ("unavailable", True)
            assert endpoint in str(error)
            assert "refused" in str(error)


def test_a_name_that_does_not_resolve() -> None:
    """Said so, and tried again."""
    for protocol in ("grpc", "http"):
        with opened("nowhere.invalid:4317", protocol=protocol) as (sink, message):
            error = refusal(sink, message)
        assert error.retryable
        assert "nowhere.invalid:4317" in str(error)


def test_http_deadline_and_close() -> None:
    """An answer that does not come in time; closing wakes who waits for it."""
    never = threading.Event()
    answers = (Answer(delay=never), Answer(delay=never))
    with http_collector(*answers) as (endpoint, _), opened(endpoint, protocol="http") as (s, m):
        began = time.monotonic()
        error = refusal(s, m, timeout=0.2)
        assert (error.reason, error.retryable) == ("deadline_exceeded", True)
        threading.Timer(0.1, s.close).start()
        assert refusal(s, m, timeout=30).reason == "cancelled"
        assert time.monotonic() - began < 10
        assert refusal(s, m).reason == "cancelled"
        never.set()


def test_http_answers_octet_by_octet() -> None:
    """A server that keeps a socket's timeout from ever passing is cut off all the same."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not stop.wait(0.05):
                    try:
                        connection.sendall(b"X")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        with opened(endpoint, protocol="http") as (sink, message):
            error = refusal(sink, message, timeout=0.5)
        stop.set()
        thread.join()
    assert error.reason == "deadline_exceeded"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 abc\r\n\r\n",
     b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut"],
)  # fmt: skip
def test_http_from_something_else(answer: bytes) -> None:
    """What is no HTTP, or cut off, is an error of one line, and tried again."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
        with opened(endpoint, protocol="http") as (sink, message):
            error = refusal(sink, message)
        thread.join()
    assert (error.reason, error.retryable) == ("unavailable", True)
    assert "\n" not in str(error)


def test_an_idle_connection_that_was_closed() -> None:
    """The other side keeps connections for a while only: that is no failure."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        served: list[bytes] = []

        def serve() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    received = b""
                    while not received.endswith(message.payload):
                        received += connection.recv(1 << 16)
                    served.append(received)
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
        with opened(endpoint, protocol="http") as (sink, message):
            thread = threading.Thread(target=serve)
            thread.start()
            sink.deliver(message, 5)
            time.sleep(0.1)
            sink.deliver(message, 5)
            thread.join()
    assert len(served) == 2


def test_words() -> None:
    """One line, cut, nothing that a terminal would obey."""
    assert words("a\n\tb\x1b[31m c") == "a b?[31m c"
    assert len(words("x" * 10_000)) == 300
