"""
What the agent says of itself over HTTP: on the metrics address, and on a Unix socket for commands.

``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for probes, ``/ledger`` as JSON, and on
the Unix socket ``/observe`` and ``/top``, which go on for as long as somebody reads. With
``metrics.page`` a page for people, which ``exporter.page`` makes, at ``/``. Read-only. The address
speaks TLS with ``metrics.tls``.
Bound to what the configuration names; the Unix socket is for root alone.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import io
import ipaddress
import json
import logging
import os
import platform
import re
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from exporter.errors import CaptureError, ConfigError, ControlError

log = logging.getLogger(__name__)

RUN_DIRECTORY = Path("/run/flow-exporter")
_TIMEOUT = 10

#: What a browser may do with an answer: read it as what it says it is, load what is served here,
#: and show it in no frame of another's.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

#: Path -> (status, content type, body).
Answer = tuple[int, str, bytes]
Routes = Mapping[str, Callable[[], Answer]]
#: What is spoken over the next connection.
Tls = Callable[[], ssl.SSLContext]
#: Path -> what the query asks for, piece by piece; raises ConfigError for a query that cannot be.
Streams = Mapping[str, Callable[[str], Generator[bytes]]]


def text(status: int, body: str) -> Answer:
    """A plain-text answer."""
    return status, "text/plain; charset=utf-8", body.encode()


def as_json(body: Any) -> Answer:
    """A JSON answer."""
    return 200, "application/json", json.dumps(body).encode()


def is_own_name(host: str) -> bool:
    """
    Whether a browser's ``Host`` is an address, localhost, or what this host is called.

    Any other name may be one of somebody who lets it point here: their page would read what is
    served here with the browser of who opened it (DNS rebinding).
    """
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    own = platform.node().lower()
    return name.lower().removesuffix(".") in ("localhost", own, own.partition(".")[0])


class _Handler(http.server.BaseHTTPRequestHandler):
    server_version = "flow-exporter"
    sys_version = ""
    timeout = _TIMEOUT
    routes: Routes = MappingProxyType({})
    streams: Streams = MappingProxyType({})
    for_people: Collection[str] = ()

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path in self.for_people and not self._is_meant():
            self._answer(text(403, "open this page by an address, as localhost, or by this host's "
                                   "name\n"))  # fmt: skip
            return
        if path in self.streams:
            self._stream(self.streams[path], query)
            return
        route = self.routes.get(self.path.split("?", 1)[0])
        if route is None:
            answer = text(404, f"one of: {' '.join(self.routes)}\n")
        else:
            try:
                answer = route()
            except Exception:
                log.exception("answering %s", self.path)
                answer = text(500, "an error, see the log\n")
        self._answer(answer)

    def _is_meant(self) -> bool:
        """Over TLS the browser has found the name in the certificate, which nobody else has."""
        secured = getattr(self.server, "tls", None) is not None
        return secured or is_own_name(self.headers.get("Host", ""))

    def _stream(self, stream: Callable[[str], Generator[bytes]], query: str) -> None:
        try:
            pieces = stream(query)
        except ConfigError as err:
            self._answer(text(400, f"{err}\n"))
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        # Who has stopped their terminal goes on later: the watcher's own bound holds meanwhile.
        self.connection.settimeout(None)
        with contextlib.closing(pieces), contextlib.suppress(ConnectionError):
            for piece in pieces:
                self.wfile.write(piece)

    def _answer(self, answer: Answer) -> None:
        status, kind, body = answer
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return (
            "local" if isinstance(self.client_address, (str, bytes)) else super().address_string()
        )

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base's name
        log.debug(format, *arguments)


class _TcpServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    #: TLS for the next connection; ``None`` is plain text.
    tls: Tls | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In a thread of the connection's own, so that a slow handshake delays no other."""
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        try:
            request.settimeout(_TIMEOUT)
            with self.tls().wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)
                # Told before it is closed, so that what is on its way is not cut off.
                secured.shutdown(socket.SHUT_WR)
        except OSError as err:
            # Strangers, and clients that do not believe us: they say so on their side.
            log.debug("%s: %s", client_address[0], err)


class _Tcp6Server(_TcpServer):
    address_family = socket.AF_INET6


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


class StatusServer:
    """
    Serves routes on one address.

    Args:
        routes: What to answer.
        streams: What to answer for as long as somebody reads.
        for_people: Those of the routes that are for browsers.
    """

    def __init__(
        self,
        routes: Routes,
        streams: Streams = MappingProxyType({}),
        for_people: Collection[str] = (),
    ) -> None:
        what = {"routes": routes, "streams": streams, "for_people": for_people}
        self._handler = type("Handler", (_Handler,), what)
        self._server: socketserver.BaseServer | None = None
        self._thread: threading.Thread | None = None
        self._path: Path | None = None

    def listen(self, host: str, port: int, tls: Tls | None = None) -> None:
        """
        Serve on a TCP address.

        Args:
            host: An address; empty for all of IPv4.
            port: A number.
            tls: Asked for each connection; ``None`` is plain text.

        Raises:
            CaptureError: If the address cannot be had.
        """
        kind = _Tcp6Server if ":" in host else _TcpServer
        try:
            server = kind((host, port), self._handler)
        except OSError as err:
            reason = os.strerror(err.errno) if err.errno and err.errno > 0 else err.strerror
            raise CaptureError(f"cannot serve metrics on {host}:{port}: {reason}") from err
        server.tls = tls
        self._start(server)

    def listen_unix(self, path: Path) -> None:
        """
        Serve on a Unix socket, for the owner alone; sockets of dead agents beside it are removed.

        Raises:
            OSError: If it cannot be made.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for other in path.parent.glob("*.sock"):
            _alive(other)
        path.unlink(missing_ok=True)
        mask = os.umask(0o077)
        try:
            server = _UnixServer(str(path), self._handler)
        finally:
            os.umask(mask)
        self._path = path
        self._start(server)

    def close(self) -> None:
        """Stop serving and remove the socket. Again is fine."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None

    def _start(self, server: socketserver.BaseServer) -> None:
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, args=(0.2,), name="status", daemon=True
        )
        self._thread.start()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(str(self._path))


def ask(path: Path, route: str) -> bytes:
    """
    GET a route of a running agent.

    Args:
        path: Its socket.
        route: Such as ``/ledger``.

    Raises:
        ControlError: If it does not answer, or not with 200.
    """
    connection = _UnixConnection(path)
    try:
        connection.request("GET", route)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as err:
        raise ControlError(f"the agent at {path} does not answer: {err}") from err
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise ControlError(f"the agent at {path} answers {response.status}")
    return body


class Lines:
    """Lines of a stream as they come. ``fileno`` can be waited for before :meth:`some`."""

    def __init__(self, response: io.BufferedIOBase) -> None:
        self._response = response
        self._rest = b""

    def fileno(self) -> int:
        """Its descriptor."""
        return self._response.fileno()

    def some(self) -> list[bytes] | None:
        """Whole lines out of what has come; waits for something. ``None`` at the end."""
        came = self._response.read1(1 << 20)
        if not came:
            return None
        *lines, self._rest = (self._rest + came).split(b"\n")
        return [line + b"\n" for line in lines]

    def __iter__(self) -> Iterator[bytes]:
        while (lines := self.some()) is not None:
            yield from lines


@contextlib.contextmanager
def listen(path: Path, route: str) -> Iterator[Lines]:
    """
    Read a stream of a running agent, line by line, for as long as it goes on.

    Args:
        path: Its socket.
        route: Such as ``/observe?port=443``.

    Raises:
        ControlError: If it does not answer.
        ConfigError: If it does not know what is asked for.
    """
    connection = _UnixConnection(path)
    try:
        try:
            connection.request("GET", route)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as err:
            raise ControlError(f"the agent at {path} does not answer: {err}") from err
        if response.status == http.HTTPStatus.BAD_REQUEST:
            raise ConfigError(response.read().decode(errors="replace").strip())
        if response.status != http.HTTPStatus.OK:
            raise ControlError(f"the agent at {path} answers {response.status}")
        yield Lines(response)
    finally:
        connection.close()


def find_agent(pid: int | None, directory: Path = RUN_DIRECTORY) -> Path:
    """
    The socket of the running agent, or of the one with a process id.

    Raises:
        ControlError: If there is none, or several and no ``pid``.
    """
    try:
        found = sorted(path for path in directory.glob("*.sock") if _alive(path))
    except PermissionError as err:
        raise ControlError(f"{directory} may not be read: run as root") from err
    if pid is not None:
        found = [path for path in found if path.stem == str(pid)]
    if not found:
        which = f" with process id {pid}" if pid is not None else ""
        raise ControlError(f"no agent{which} is running here: start one with 'flow-exporter run'")
    if len(found) > 1:
        pids = ", ".join(path.stem for path in found)
        raise ControlError(f"several agents are running: choose one with --pid ({pids})")
    return found[0]


def _alive(path: Path) -> bool:
    """Whether somebody listens; the socket of an agent that is dead is removed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            # Refused is also who has bound and does not listen yet.
            if not Path("/proc", path.stem).exists():
                path.unlink(missing_ok=True)
            return False
        except OSError:
            return False
        return True
