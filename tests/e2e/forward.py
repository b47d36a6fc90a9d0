"""A TCP port of this host, reachable from within a namespace that has no other way out."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.e2e.net import Netns


@contextmanager
def forwarded(netns: Netns, port: int) -> Iterator[None]:
    """127.0.0.1:port there is 127.0.0.1:port here."""
    with netns.entered():
        listener = socket.create_server(("127.0.0.1", port))
    connections: list[threading.Thread] = []

    def accept() -> None:
        # Ends with an error when the listener is shut down.
        with suppress(OSError):
            while True:
                inner, _ = listener.accept()
                connections.append(_thread(_join, inner, port))

    with listener:
        acceptor = _thread(accept)
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for connection in connections:
                connection.join()


def _thread(function: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def _join(inner: socket.socket, port: int) -> None:
    """Both ways, until either side has ended."""
    # Connected in this thread, which never was in the namespace.
    with inner, socket.create_connection(("127.0.0.1", port), 10) as outer:
        outer.settimeout(None)
        back = _thread(_pump, outer, inner)
        _pump(inner, outer)
        back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
