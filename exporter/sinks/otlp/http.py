"""
OTLP over HTTP/1.1 with protobuf: one POST per request, on a connection that is kept.

The standard library's client: it has timeouts, keep-alive and TLS contexts, and follows no
redirect, which could lead a token elsewhere.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import zlib
from typing import Any

from exporter import __version__
from exporter.errors import ConfigError, SinkError
from exporter.quantities import split_host_port
from exporter.sinks.otlp.answer import from_http, retry_after, words
from exporter.sinks.otlp.deliver import Headers, Throttle, certificates
from exporter.sinks.otlp.environment import Destination

_TYPE = "application/x-protobuf"
#: Octets of an answer that are read.
_LARGEST = 1 << 20
#: Level 1: half the time of the default for a tenth more octets is not what a node is for.
GZIP_LEVEL = 1
#: ``zlib``'s notation of gzip's header and largest window.
GZIP = 31
#: What a connection that was idle for too long fails with.
_STALE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)


class _TlsConnection(http.client.HTTPConnection):
    """As HTTPSConnection, but the certificate may be another name's than the host's."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, server_name: str) -> None:
        super().__init__(host, port)
        self._context = context
        self._server_name = server_name

    def connect(self) -> None:
        super().connect()
        assert self.sock is not None
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self._server_name)


class HttpClient:
    """
    A collector over HTTP.

    Args:
        destination: Where to and how.
        headers: Sent with each request.
    """

    def __init__(self, destination: Destination, headers: Headers) -> None:
        self._destination = destination
        self._headers = headers
        self._throttle = Throttle()
        self._certificates = certificates(destination)
        self._context: ssl.SSLContext | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._expired = False

    def open(self) -> None:
        """Read what files there are. Raises ConfigError if one cannot be used."""
        self._headers.load()
        self._read_certificates()

    def send(self, payload: bytes, timeout: float) -> bytes:
        """
        One request.

        Raises:
            SinkError: See ``answer`` for what codes mean; without an answer ``unavailable``,
                ``deadline_exceeded`` or ``tls``.
        """
        timeout = self._throttle.wait(timeout)
        headers = self._headers.current() | {
            "content-type": _TYPE,
            "user-agent": f"flow-exporter/{__version__}",
        }
        if self._certificates.changed():
            self._disconnect()
            try:
                self._read_certificates()
            except ConfigError as err:
                raise SinkError("credentials", str(err), retryable=True) from err
        if self._destination.gzip:
            payload = zlib.compress(payload, GZIP_LEVEL, GZIP)
            headers["content-encoding"] = "gzip"
        # A socket's own timeout is for each octet that comes: this one is for all of it.
        watchdog = threading.Timer(timeout, self._expire)
        watchdog.daemon = True
        self._expired = False
        watchdog.start()
        try:
            return self._exchange(payload, headers, timeout)
        except (OSError, http.client.HTTPException, ValueError) as err:
            # ValueError: it was closed by another thread meanwhile.
            self._disconnect()
            raise self._unanswered(err) from err
        finally:
            watchdog.cancel()

    def close(self) -> None:
        """Break off what is under way. Again is fine."""
        self._closed = True
        self._throttle.close()
        self._abort()

    def _expire(self) -> None:
        self._expired = True
        self._abort()

    def _exchange(self, payload: bytes, headers: dict[str, str], timeout: float) -> bytes:
        used = self._connection is not None
        try:
            return self._post(payload, headers, timeout)
        except _STALE:
            self._disconnect()
            if not used or self._closed or self._expired:
                raise
        # It was idle for longer than the other side keeps connections: not a failure yet.
        return self._post(payload, headers, timeout)

    def _post(self, payload: bytes, headers: dict[str, str], timeout: float) -> bytes:
        connection = self._connected(timeout)
        connection.request("POST", self._destination.path, payload, headers)
        response = connection.getresponse()
        body = self._headers.hide(response.read(_LARGEST))
        if self._expired or self._closed or (response.length and len(body) < _LARGEST):
            # Broken off: the library takes the end of the connection for the end of the answer.
            raise http.client.IncompleteRead(body)
        if response.read(1) or response.will_close:
            self._disconnect()
        if 200 <= response.status < 300:
            return body
        if response.status in (429, 503) and (after := response.getheader("Retry-After")):
            self._throttle.ask(retry_after(after))
        error = from_http(response.status, body, response.getheader("Content-Type") or "")
        if response.status in (401, 403) and self._headers.renew():
            # The token was replaced while this one was on its way.
            error.retryable = True
        raise SinkError(
            error.reason, f"{self._destination.target}: {error.detail}", retryable=error.retryable
        )

    def _connected(self, timeout: float) -> http.client.HTTPConnection:
        with self._lock:
            if self._closed:
                raise SinkError("cancelled", "closed", retryable=True)
            if self._connection is None:
                self._connection = self._make()
            connection = self._connection
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        return connection

    def _make(self) -> http.client.HTTPConnection:
        host, port = split_host_port(self._destination.target)
        if self._context is None:
            return http.client.HTTPConnection(host, port)
        assert self._destination.tls is not None
        name = self._destination.tls.name_of(host)
        return _TlsConnection(host, port, self._context, name)

    def _read_certificates(self) -> None:
        if self._destination.tls is not None:
            self._context = self._destination.tls.context()

    def _disconnect(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _abort(self) -> None:
        """Wake a thread that waits in the connection; closing alone does not."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is None:
            return
        connection.auto_open = 0
        sock: Any = connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                # Not SSLSocket's own, which takes the TLS state from under the other thread.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        connection.close()

    def _unanswered(self, err: Exception) -> SinkError:
        target = self._destination.target
        if self._closed:
            return SinkError("cancelled", "closed", retryable=True)
        if self._expired or isinstance(err, TimeoutError):
            return SinkError("deadline_exceeded", f"{target}: no answer in time", retryable=True)
        if isinstance(err, ssl.SSLCertVerificationError):
            return SinkError("tls", f"{target}: {words(err.verify_message)}", retryable=True)
        if isinstance(err, ssl.SSLError):
            return SinkError("tls", f"{target}: {words(str(err))}", retryable=True)
        said = words(str(err)) or type(err).__name__
        return SinkError("unavailable", f"{target}: {said}", retryable=True)
