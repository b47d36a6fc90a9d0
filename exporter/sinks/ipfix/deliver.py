"""What both transports have in common: names, addresses, errors of the socket."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

from exporter.errors import SinkError
from exporter.quantities import split_host_port

#: Family and address, as a socket wants them.
Address = tuple[socket.AddressFamily, tuple[Any, ...]]

#: What can be wrong between here and the collector, in a bounded number of words.
_REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "closed_by_peer",
    errno.EPIPE: "closed_by_peer",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.ETIMEDOUT: "deadline",
    errno.EAGAIN: "deadline",
    errno.EMSGSIZE: "too_large",
    errno.EPERM: "forbidden",
    errno.EACCES: "forbidden",
}


def failure(target: str, err: OSError) -> SinkError:
    """What a socket's error means. Everything but a wrong size may be better next time."""
    if isinstance(err, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return SinkError("closed_by_peer", f"{target}: it ended the connection", retryable=True)
    if isinstance(err, ssl.SSLError):
        return SinkError("tls", f"{target}: {_tls_words(err)}", retryable=True)
    if isinstance(err, TimeoutError):
        return SinkError("deadline", f"{target}: it takes too long", retryable=True)
    reason = _REASONS.get(err.errno or 0, "unavailable")
    words = err.strerror or str(err)
    return SinkError(reason, f"{target}: {words}", retryable=reason != "too_large")


def cancelled() -> SinkError:
    """The sink is being closed."""
    return SinkError("cancelled", "closed", retryable=True)


def _tls_words(err: ssl.SSLError) -> str:
    if isinstance(err, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {err.verify_message}"
    return f"TLS failed: {(err.reason or str(err)).lower().replace('_', ' ')}"


def resolve(target: str, kind: socket.SocketKind, timeout: float) -> list[Address]:
    """
    Addresses of a target.

    The C library's look-up cannot be interrupted, and takes as long as the name servers let it; so
    it is done aside.

    Raises:
        SinkError: If there are none, or not in time.
    """
    found: list[Address] = []
    problem: list[OSError] = []
    host, port = split_host_port(target)

    def look_up() -> None:
        try:
            for family, _, _, _, address in socket.getaddrinfo(host, port, type=kind):
                found.append((family, address))
        except OSError as err:
            problem.append(err)

    thread = threading.Thread(target=look_up, name="name look-up", daemon=True)
    thread.start()
    thread.join(timeout)
    if problem:
        detail = f"{target}: {problem[0].strerror or problem[0]}"
        raise SinkError("unresolved", detail, retryable=True) from problem[0]
    if thread.is_alive() or not found:
        raise SinkError("unresolved", f"{target}: no answer for the name", retryable=True)
    return found


def connect(
    target: str, kind: socket.SocketKind, timeout: float, prepare: Callable[[socket.socket], None]
) -> socket.socket:
    """
    A socket that is connected to the first of a target's addresses that will have it.

    Args:
        target: ``host:port``.
        kind: Datagram or stream.
        timeout: Seconds, for each address; it stays the socket's.
        prepare: Called before connecting.

    Raises:
        SinkError: With what the last address said.
    """
    last = SinkError("unresolved", target, retryable=True)
    for family, address in resolve(target, kind, timeout):
        made = socket.socket(family, kind)
        try:
            made.settimeout(timeout)
            prepare(made)
            made.connect(address)
        except OSError as err:
            made.close()
            last = failure(target, err)
            continue
        return made
    raise last
