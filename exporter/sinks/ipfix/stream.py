"""
IPFIX over TCP and TLS.

Records are delivered when the collector's host has acknowledged every octet of them: a connection
that breaks before is followed by another, over which the same records come again, after the
templates. So:

- records are missing at the collector only if its process dies with octets unread that its host
  had acknowledged: what fits into that host's receive buffer;
- records come twice only if a connection breaks while they are on their way: those of one message
  of ``max_flows`` at most, for each time.

IPFIX has no acknowledgement of its own that could do better (RFC 7011 section 10.4).
"""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import ssl
import struct
import termios
import time

from exporter.credentials import Watched
from exporter.errors import ConfigError, SinkError
from exporter.quantities import split_host_port
from exporter.sinks.ipfix.config import LONGEST, IpfixConfig
from exporter.sinks.ipfix.deliver import connect
from exporter.sinks.ipfix.encode import (
    HEADER_OCTETS,
    SET_OCTETS,
    Flows,
    data_set,
)
from exporter.sinks.ipfix.session import Session
from exporter.sinks.ipfix.template import Template
from exporter.sinks.ipfix.transport import Transport, left

#: Milliseconds between two looks at what is acknowledged; the first comes at once.
_LOOK = 1
#: Seconds in which a server refuses a client's certificate.
_ALERT = 0.25


class StreamTransport(Transport):
    """
    One collector over TCP, with TLS or without.

    Args:
        config: Where to. Nothing is opened before :meth:`send`.
        templates: Of flow records.
    """

    def __init__(self, config: IpfixConfig, templates: tuple[Template, ...]) -> None:
        super().__init__(config, templates)
        self._watched = Watched(config.tls.files()) if config.tls else None

    def _send(self, flows: Flows, domain: int, deadline: float) -> None:
        """Send records and wait until the collector's host has them."""
        link, session = self._opened(domain, deadline)
        link.settimeout(left(deadline))
        link.sendall(self._framed(session, flows))
        _await_acknowledgement(link, deadline)

    def _opened(self, domain: int, deadline: float) -> tuple[socket.socket, Session]:
        if self._watched is not None and self._watched.changed():
            self._shut()
        if self._socket is not None and _is_closed_by_peer(self._socket):
            self._shut()
        if self._socket is None or self._session is None:
            self._socket = self._connected(deadline)
            # Templates stay valid as long as the connection: RFC 7011 section 8.
            self._session = Session(domain, self._templates, 0)
        return self._socket, self._session

    def _connected(self, deadline: float) -> socket.socket:
        target = self._config.target
        plain = connect(target, socket.SOCK_STREAM, left(deadline), self._prepare)
        # Where close() finds it while the handshake waits.
        self._socket = plain
        if self._config.tls is None:
            return plain
        name = self._config.tls.name_of(split_host_port(target)[0])
        try:
            context = self._config.tls.context()
        except ConfigError as err:
            # It could be read when the agent started: it is being replaced.
            self._shut()
            raise SinkError("tls", str(err), retryable=True) from err
        plain.settimeout(left(deadline))
        secured = context.wrap_socket(plain, server_hostname=name)
        self._socket = secured
        _await_alert(secured, deadline)
        return secured

    def _prepare(self, link: socket.socket) -> None:
        # Where close() finds it while it connects.
        self._socket = link
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def _framed(self, session: Session, flows: Flows) -> bytes:
        limit = self._config.max_octets or LONGEST
        parts: list[bytes | memoryview] = [octets for octets, _ in session.due(flows, limit)]
        octets, records = flows.template.octets, memoryview(flows.payload)
        step = (limit - HEADER_OCTETS - SET_OCTETS) // octets * octets
        now = int(time.time())
        for start in range(0, len(records), step):
            part = records[start : start + step]
            parts.append(session.header(SET_OCTETS + len(part), len(part) // octets, now))
            parts.append(data_set(flows.template, len(part)))
            parts.append(part)
        return b"".join(parts)


def _await_alert(link: ssl.SSLSocket, deadline: float) -> None:
    """
    Wait for what a server says that does not like the client's certificate, or that it has none.

    With TLS 1.3 the client is done with the handshake before the server has seen its certificate.
    A server that is content mostly sends session tickets then, so the wait is short.

    Raises:
        OSError: With the server's alert.
    """
    poll = select.poll()
    poll.register(link, select.POLLIN)
    poll.poll(1000 * min(_ALERT, left(deadline)))
    link.settimeout(0)
    try:
        if link.recv(4096) == b"":
            raise ConnectionResetError(errno.ECONNRESET, "it ended the connection at once")
    except ssl.SSLWantReadError:
        return


def _is_closed_by_peer(link: socket.socket) -> bool:
    """Whether the collector has ended the connection. It has nothing to say otherwise."""
    link.settimeout(0)
    try:
        return link.recv(4096) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


def _await_acknowledgement(link: socket.socket, deadline: float) -> None:
    """
    Wait until the other host's TCP has acknowledged everything.

    Raises:
        OSError: If the connection breaks before.
        TimeoutError: If it takes too long.

    Source: tcp(7), SIOCOUTQ, which is TIOCOUTQ.
    """
    poll = select.poll()
    poll.register(link, select.POLLRDHUP)
    while _unacknowledged(link):
        if time.monotonic() >= deadline:
            raise TimeoutError
        for _, event in poll.poll(_LOOK):
            if event & (select.POLLERR | select.POLLHUP):
                error = link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                raise ConnectionResetError(error, "the connection broke")
            # A collector that will send nothing more may still read.
            poll.modify(link, 0)


def _unacknowledged(link: socket.socket) -> int:
    answer = fcntl.ioctl(link.fileno(), termios.TIOCOUTQ, bytes(4))
    (octets,) = struct.unpack("@i", answer)
    return int(octets)
