"""
The two requests that are made of an API server: list in pages, and watch.

The standard library's HTTP client, one connection for each resource; docs/decisions/0017 has what
other clients cost. A proxy is used as the environment says (``HTTPS_PROXY``, ``NO_PROXY``).

Source: Kubernetes API concepts: "Efficient detection of changes", "Retrieving large results sets in
chunks", "Watch bookmarks".
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from exporter import __version__
from exporter.enrich.kubernetes.access import Access

#: Seconds to wait for an answer to begin, and for the next octets of one.
ANSWER = 30.0
#: Seconds without anything at all, after which a watch is taken for dead. Bookmarks come every
#: minute or so. Source: k8s.io/apiserver cacher, bookmarkFrequency.
SILENCE = 150.0
#: Seconds after which the server ends a watch by itself.
WATCH = 300
#: Octets of an error's text that are shown.
_SHOWN = 300
#: Octets of a line of a watch: etcd's limit for an object is 1.5 MB.
_LONGEST = 8 << 20
#: Octets of a part of a list.
_LARGEST = 1 << 28
_METADATA = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1,application/json"


class Away(Exception):
    """The server did not answer, or not with what was asked for. Trying again may help."""


class Refused(Exception):
    """
    The server answered with an error.

    Args:
        code: HTTP status.
        retry_after: Seconds, if it said so; else 0.
    """

    def __init__(self, code: int, text: str, retry_after: float = 0.0) -> None:
        self.code = code
        self.retry_after = retry_after
        super().__init__(f"HTTP {code}: {text}")


@dataclass(frozen=True)
class Resource:
    """
    What is listed and watched.

    Args:
        kind: Of its objects.
        path: Of the collection.
        fields: Selector, for less than everything.
        metadata: Only the metadata is asked for.
    """

    kind: str
    path: str
    fields: str = ""
    metadata: bool = False

    def accept(self, suffix: str) -> str:
        """The form to ask for."""
        return _METADATA.format(suffix) if self.metadata else "application/json"


class Client:
    """
    One connection. For one thread; ``close`` is for any.

    Args:
        access: Where to and how.
        caught_up: Called with the time (Unix ns) when a watch has nothing more to say for now.
        connected: Called when somebody listens again, before anything is said.
    """

    def __init__(
        self,
        access: Access,
        caught_up: Callable[[int], None],
        connected: Callable[[], None] = lambda: None,
    ) -> None:
        self._access = access
        self._caught_up = caught_up
        self._on_connected = connected
        self._files = access.watched()
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()
        self._closed = False

    def page(self, resource: Resource, limit: int, more: str) -> bytes:
        """
        A part of a list.

        Raises:
            Away, Refused, ConfigError: Without an answer, or with another one.
        """
        query = {"limit": limit, "fieldSelector": resource.fields, "continue": more}
        with self._broken_off():
            octets = self._get(resource, "List", query).read(_LARGEST)
            if len(octets) == _LARGEST:
                raise ValueError(f"a list of more than {_LARGEST} octets: set page to less")
            return octets

    def watch(self, resource: Resource, version: str) -> Iterator[bytes]:
        """
        Lines with events, until the server ends it.

        Raises:
            Away, Refused, ConfigError: Without an answer, or with another one.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": WATCH,
            "fieldSelector": resource.fields,
        }
        with self._broken_off():
            response = self._get(resource, "", query)
            begun = False
            while line := self._line(response, begun=begun):
                begun = True
                yield line

    def close(self) -> None:
        """Break off what is under way, for good."""
        self._closed = True
        with self._lock:
            if self._connection is not None and self._connection.sock is not None:
                with contextlib.suppress(OSError):
                    self._connection.sock.shutdown(socket.SHUT_RDWR)

    def disconnect(self) -> None:
        """The next request opens another connection."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextlib.contextmanager
    def _broken_off(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError) as err:
            self.disconnect()
            text = str(err) or type(err).__name__
            raise Away(f"{self._access.server}: {text}") from err
        except BaseException:
            # A generator that is closed, or an error's rest that nobody read.
            self.disconnect()
            raise

    def _get(
        self, resource: Resource, suffix: str, query: Mapping[str, object]
    ) -> http.client.HTTPResponse:
        if self._files.changed():
            self.disconnect()
        headers = {
            "accept": resource.accept(suffix),
            "user-agent": f"flow-exporter/{__version__}",
            **self._access.headers(),
        }
        asked = urlencode({key: value for key, value in query.items() if value})
        target = f"{self._access.url.path}{resource.path}?{asked}"
        fresh = self._connection is None
        try:
            return self._ask(target, headers)
        except (OSError, http.client.HTTPException):
            self.disconnect()
            if fresh or self._closed:
                raise
        # It was idle for longer than the other side keeps connections.
        return self._ask(target, headers)

    def _ask(self, target: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        connection = self._connected()
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            text = response.read(_SHOWN).decode(errors="replace")
            after = response.headers.get("retry-after", "")
            raise Refused(response.status, text, float(after) if after.isdigit() else 0.0)
        return response

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            connection = _connection(self._access)
            connection.connect()
            _keep_alive(connection.sock)
            self._on_connected()
            with self._lock:
                self._connection = connection
        if self._closed:
            raise ConnectionAbortedError("closed")
        return self._connection

    def _line(self, response: http.client.HTTPResponse, *, begun: bool) -> bytes:
        """The next one; empty at the end."""
        self._wait(response, begun=begun)
        line = response.readline(_LONGEST)
        if line and not line.endswith(b"\n"):
            raise http.client.IncompleteRead(line[:0])
        return line

    def _wait(self, response: http.client.HTTPResponse, *, begun: bool) -> None:
        """
        Until there is something, noting whenever there is nothing.

        Before the first word that is only so after a second: what was missed, or that it is
        forgotten, comes some time after the head of the answer.
        """
        sock = self._connection.sock if self._connection else None
        if sock is None:
            # The answer has the only reference, for it is the last one on this connection.
            return
        silent = time.monotonic()
        while not _readable(sock, response):
            if begun:
                self._caught_up(time.time_ns())
            if select.select([sock], [], [], 1.0)[0]:
                return
            begun = True
            if self._closed or time.monotonic() - silent > SILENCE:
                raise TimeoutError("nothing heard for too long")


def _readable(sock: socket.socket, response: http.client.HTTPResponse) -> bool:
    """Whether an event waits: in the library's buffer, in TLS's, or in the socket's."""
    waiting = b""
    sock.setblocking(False)
    try:
        # Asks the socket only if its own buffer is empty.
        waiting = response.fp.peek(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        pass
    finally:
        sock.settimeout(SILENCE)
    # The end of the last event's chunk is no event.
    if waiting.strip(b"\r\n") or (isinstance(sock, ssl.SSLSocket) and sock.pending()):
        return True
    return bool(select.select([sock], [], [], 0)[0])


def _connection(access: Access) -> http.client.HTTPConnection:
    """Not connected yet; through the environment's proxy if it names one."""
    url = access.url
    context = access.context()
    assert url.hostname is not None
    port = url.port or (443 if context else 80)
    proxy = None
    if not urllib.request.proxy_bypass(f"{url.hostname}:{port}"):
        proxy = urllib.request.getproxies().get(url.scheme)
    via = urlsplit(proxy if "//" in proxy else f"//{proxy}") if proxy else None
    host, at = (via.hostname or "", via.port or 80) if via else (url.hostname, port)
    connection = _Connection(host, at, context, access.server_name or url.hostname)
    if via:
        connection.set_tunnel(url.hostname, port)
    return connection


class _Connection(http.client.HTTPConnection):
    """TLS inside of a tunnel, if there is one, and under a name that may not be the host's."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None, name: str) -> None:
        super().__init__(host, port, timeout=ANSWER)
        self._context = context
        self._name = name

    def connect(self) -> None:
        super().connect()
        if self._context is not None:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self._name)


def _keep_alive(sock: socket.socket) -> None:
    """A server that lost power says no goodbye: known after half a minute."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
