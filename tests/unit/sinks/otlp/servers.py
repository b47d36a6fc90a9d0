"""Collectors that answer what they are told, over real connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc


@dataclass
class Answer:
    """Over HTTP: code, body and headers."""

    code: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: threading.Event | None = None


@dataclass
class Received:
    """A request: path, headers in lower case, body; and the connection it came on."""

    path: str
    headers: dict[str, str]
    body: bytes
    peer: Any


@contextmanager
def http_collector(*answers: Answer) -> Iterator[tuple[str, list[Received]]]:
    """Gives the answers in order, then 200. Its ``host:port``, and what came."""
    left, came = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            came.append(Received(self.path, headers, body, self.client_address))
            answer = left.pop(0) if left else Answer()
            if answer.delay is not None:
                answer.delay.wait(10)
            self.send_response(answer.code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer.body)))
            # The other side may be gone.
            with suppress(OSError):
                self.end_headers()
                self.wfile.write(answer.body)

        def log_message(self, *_: Any) -> None:
            """Nothing on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", came
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def grpc_collector(*answers: Any) -> Iterator[tuple[str, list[tuple[dict[str, Any], bytes]]]]:
    """
    Gives the answers in order, then an empty one: octets, or (status, words, trailing metadata).

    Its ``host:port``, and what came: metadata and octets.
    """
    left, came = list(answers), []

    def export(request: bytes, context: Any) -> bytes:
        came.append((dict(context.invocation_metadata()), request))
        answer = left.pop(0) if left else b""
        if isinstance(answer, bytes):
            return answer
        status, words, trailing = answer
        context.set_trailing_metadata(trailing)
        context.abort(status, words)
        raise AssertionError

    handler = grpc.unary_unary_rpc_method_handler(export)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    for signal in ("logs", "trace", "metrics"):
        name = f"opentelemetry.proto.collector.{signal}.v1.{signal.capitalize()}Service"
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, {"Export": handler}),)
        )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", came
    finally:
        server.stop(None).wait()
