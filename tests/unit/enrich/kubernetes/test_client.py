"""
Requests against a stand-in over HTTP, for faults that a real server cannot be made to show.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from exporter.enrich.kubernetes import client as client_module
from exporter.enrich.kubernetes.access import Access
from exporter.enrich.kubernetes.client import Away, Client, Refused, Resource

PODS = Resource("Pod", "/api/v1/pods", "status.phase!=Failed")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(octets: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(octets), octets)


class StandIn:
    """Says what it is told to each connection, then nothing; keeps what it was asked."""

    def __init__(self, *answers: bytes) -> None:
        self.asked: list[str] = []
        self._answers = answers
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.stop.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        for answer in self._answers:
            self._socket.settimeout(30)
            connection, _ = self._socket.accept()
            with connection:
                self.asked.append(connection.recv(1 << 16).decode())
                connection.sendall(answer)
                if not answer.endswith(b"bye"):
                    self.stop.wait(30)


@contextmanager
def asking(*answers: bytes) -> Iterator[tuple[StandIn, Client, list[int]]]:
    server, noted = StandIn(*answers), list[int]()
    client = Client(Access(f"{server.url}/prefix", token="t"), noted.append)
    try:
        yield server, client, noted
    finally:
        client.close()
        client.disconnect()
        server.close()


def test_what_is_asked() -> None:
    """The collection below the server's path, the selector, the token."""
    body = b'{"items":[]}'
    with asking(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as (
        server,
        client,
        _,
    ):
        assert client.page(PODS, 250, "a=") == body
    (asked,) = server.asked
    line = "/prefix/api/v1/pods?limit=250&fieldSelector=status.phase%21%3DFailed&continue=a%3D"
    assert asked.startswith(f"GET {line} HTTP/1.1\r\n")
    assert "authorization: Bearer t\r\n" in asked


def test_idle_is_noted_between_events_only() -> None:
    """Once what came is read, and not while a line is half there."""
    with asking(HEAD + chunk(b'{"a":1}\n{"b":2}\n') + chunk(b'{"half"')) as (_, client, noted):
        lines = client.watch(PODS, "5")
        assert [next(lines), next(lines)] == [b'{"a":1}\n', b'{"b":2}\n']
        assert noted == []
        closing = threading.Timer(0.3, client.close)
        closing.start()
        with pytest.raises(Away):
            next(lines)
        closing.join()
        assert noted == []


def test_idle() -> None:
    """Nothing after an event: everything is known, at that time; closing ends the wait at once."""
    with asking(HEAD + chunk(b'{"a":1}\n')) as (_, client, noted):
        lines = client.watch(PODS, "5")
        begun = time.time_ns()
        assert next(lines) == b'{"a":1}\n'
        closing = threading.Timer(0.3, client.close)
        closing.start()
        with pytest.raises((Away, StopIteration)):
            next(lines)
        closing.join()
        assert noted
        assert begun <= noted[0] <= time.time_ns()


def test_a_watch_that_ends() -> None:
    """By the server's own will: no fault."""
    with asking(HEAD + chunk(b'{"a":1}\n') + b"0\r\n\r\n") as (_, client, _noted):
        assert list(client.watch(PODS, "5")) == [b'{"a":1}\n']


@pytest.mark.parametrize(
    "answer", [b"bye", HEAD + b"5\r\nbye", HEAD + chunk(b'{"a"') + b"bye", b"SSH-2.0-bye"]
)
def test_broken_off(answer: bytes) -> None:
    """A connection that ends in the middle, and a server that is none."""
    with asking(answer) as (_, client, _noted), pytest.raises(Away):
        list(client.watch(PODS, "5"))


def test_refused() -> None:
    """With its code, when to come again, and no more of its words than fit a line of a log."""
    text = b"x" * 5000
    answer = b"HTTP/1.1 429 Slowly\r\nRetry-After: 7\r\nContent-Length: 5000\r\n\r\n" + text
    with asking(answer) as (_, client, _noted), pytest.raises(Refused) as err:
        client.page(PODS, 1, "")
    assert (err.value.code, err.value.retry_after) == (429, 7.0)
    assert len(str(err.value)) < 400


def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server from which nothing comes, not even a bookmark, is taken for dead."""
    monkeypatch.setattr(client_module, "SILENCE", 0.5)
    with asking(HEAD + chunk(b'{"a":1}\n')) as (_, client, noted):
        lines = client.watch(PODS, "5")
        assert next(lines) == b'{"a":1}\n'
        with pytest.raises(Away, match="nothing heard"):
            next(lines)
        assert noted


def test_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list or a line without end does not fill the memory."""
    monkeypatch.setattr(client_module, "_LARGEST", 1000)
    monkeypatch.setattr(client_module, "_LONGEST", 1000)
    with asking(HEAD + chunk(b"x" * 5000)) as (_, client, _noted), pytest.raises(Away):
        client.page(PODS, 1, "")
    with asking(HEAD + chunk(b"x" * 5000)) as (_, client, _noted), pytest.raises(Away):
        list(client.watch(PODS, "5"))


def test_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the environment says, unless the server is an exception."""
    with asking(b"HTTP/1.1 200 OK\r\n\r\nbye") as (server, _, _noted):
        monkeypatch.setenv("http_proxy", server.url)
        monkeypatch.setenv("no_proxy", "")
        client = Client(Access("http://k.example:6443"), lambda _: None)
        with pytest.raises(Away):
            client.page(PODS, 1, "")
        client.disconnect()
    assert server.asked[0].startswith("CONNECT k.example:6443 HTTP/1.")
