"""The agent answers over HTTP, on an address and on a socket, and is found by its socket."""

from __future__ import annotations

import http.client
import json
import os
import platform
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.errors import CaptureError, ControlError
from exporter.status import Answer, StatusServer, as_json, ask, find_agent, is_own_name, text
from tests.conftest import missing
from tests.servers import free_port


def broken() -> Answer:
    raise ZeroDivisionError


ROUTES = {
    "/healthz": lambda: text(200, "ok\n"),
    "/readyz": lambda: text(503, "not yet\n"),
    "/ledger": lambda: as_json({"closes": True}),
    "/broken": broken,
}


@pytest.fixture
def server() -> Iterator[StatusServer]:
    """A server that is closed afterwards; again is fine."""
    made = StatusServer(ROUTES)
    yield made
    made.close()
    made.close()


def get(host: str, port: int, path: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/healthz", (200, "text/plain; charset=utf-8", b"ok\n")),
        ("/healthz?verbose=1", (200, "text/plain; charset=utf-8", b"ok\n")),
        ("/readyz", (503, "text/plain; charset=utf-8", b"not yet\n")),
        ("/ledger", (200, "application/json", b'{"closes": true}')),
        ("/broken", (500, "text/plain; charset=utf-8", b"an error, see the log\n")),
        (
            "/none",
            (404, "text/plain; charset=utf-8", b"one of: /healthz /readyz /ledger /broken\n"),
        ),
    ],
)
def test_answers(server: StatusServer, path: str, expected: tuple[int, str, bytes]) -> None:
    """Status, type and body of each route; an error in one is an answer, too."""
    port = free_port()
    server.listen("127.0.0.1", port)
    assert get("127.0.0.1", port, path) == expected


def test_it_can_be_read_only(server: StatusServer) -> None:
    """Nothing else is understood, so that nobody can change anything by it."""
    port = free_port()
    server.listen("127.0.0.1", port)
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(method, "/ledger", b"")
        with connection.getresponse() as response:
            assert response.status == 501, method
            response.read()
        connection.close()


def test_ipv6(server: StatusServer) -> None:
    """An address with colons is IPv6."""
    try:
        port = free_port(host="::1")
    except OSError as err:
        missing(f"::1 on the loopback interface: {err}")
    server.listen("::1", port)
    assert get("::1", port, "/healthz")[0] == 200


def test_an_address_that_is_taken(server: StatusServer) -> None:
    """One line: which address, and why."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CaptureError) as caught:
            server.listen("127.0.0.1", port)
    assert str(caught.value) == (
        f"cannot serve metrics on 127.0.0.1:{port}: Address already in use"
    )


def test_a_client_that_says_nothing_delays_no_other(server: StatusServer) -> None:
    """Each client has its own thread."""
    port = free_port()
    server.listen("127.0.0.1", port)
    with socket.create_connection(("127.0.0.1", port)):
        assert get("127.0.0.1", port, "/healthz")[0] == 200


def test_socket_for_commands(server: StatusServer, tmp_path: Path) -> None:
    """For the owner alone; answers; is gone when the server is closed."""
    path = tmp_path / "run" / f"{os.getpid()}.sock"
    server.listen_unix(path)
    assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    assert json.loads(ask(path, "/ledger")) == {"closes": True}
    with pytest.raises(ControlError, match="answers 503"):
        ask(path, "/readyz")
    assert find_agent(None, path.parent) == path
    assert find_agent(os.getpid(), path.parent) == path
    server.close()
    assert not path.exists()


def test_no_agent(tmp_path: Path) -> None:
    """Nobody there: what to do about it; a socket of the dead is removed."""
    with pytest.raises(ControlError, match="no agent is running here: start one with"):
        find_agent(None, tmp_path / "none")
    dead = tmp_path / "4194305.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(dead))
    with pytest.raises(ControlError, match="no agent with process id 4194305 is running"):
        find_agent(4194305, tmp_path)
    assert not dead.exists()
    with pytest.raises(ControlError, match="does not answer"):
        ask(dead, "/ledger")


def test_several_agents(tmp_path: Path) -> None:
    """Which of them is meant must be said."""
    listening = []
    for pid in (11, 12):
        one = socket.socket(socket.AF_UNIX)
        one.bind(str(tmp_path / f"{pid}.sock"))
        one.listen()
        listening.append(one)
    try:
        with pytest.raises(ControlError, match=r"choose one with --pid \(11, 12\)"):
            find_agent(None, tmp_path)
        assert find_agent(12, tmp_path) == tmp_path / "12.sock"
    finally:
        for one in listening:
            one.close()


def test_closing_ends_the_thread(server: StatusServer) -> None:
    """Nothing goes on in the background."""
    server.listen("127.0.0.1", free_port())
    assert [thread.name for thread in threading.enumerate()].count("status") == 1
    server.close()
    assert "status" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1:9090", True),
        ("192.0.2.7", True),
        ("[::1]:9090", True),
        ("[2001:db8::1]", True),
        ("LocalHost:9090", True),
        (platform.node(), True),
        (f"{platform.node()}:9090", True),
        ("attacker.example:9090", False),
        ("localhost.attacker.example", False),
        ("127.0.0.1.attacker.example", False),
        ("127.0.0.1:9090@attacker.example", False),
        ("", False),
    ],
)
def test_whose_name_it_is(host: str, own: bool) -> None:
    """An address, localhost or this host's name; none that points here by somebody's choice."""
    assert is_own_name(host) is own


def test_a_name_that_points_here() -> None:
    """What is for people is refused to a browser that was sent here by a name; the rest is not."""
    routes = {"/": lambda: text(200, "page"), "/metrics": lambda: text(200, "numbers")}
    server = StatusServer(routes, for_people={"/"})
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server.listen("127.0.0.1", port)
    try:
        for path, host, status in (
            ("/", f"127.0.0.1:{port}", 200),
            ("/?query", f"attacker.example:{port}", 403),
            ("/", "attacker.example", 403),
            ("/metrics", f"collector.example:{port}", 200),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", path, headers={"Host": host})
            assert connection.getresponse().status == status, (path, host)
            connection.close()
    finally:
        server.close()
