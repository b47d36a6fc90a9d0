"""Flows over gRPC: what is asked for arrives, whole and to the row; who may not look is refused."""

from __future__ import annotations

import json
import select
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given

from exporter._pb import observe_pb2 as pb
from exporter.batch.batch import FlowBatch, Observer
from exporter.cli import main
from exporter.config import ObserveConfig
from exporter.credentials import ServerTlsConfig
from exporter.errors import CaptureError, ConfigError, ControlError, ExporterError
from exporter.fanout import tap as tap_module
from exporter.fanout.tap import Tap
from exporter.observe import Wanted, observed
from exporter.observe_remote import (
    OBSERVE,
    Server,
    follow,
    recent,
    request,
    stream,
    summed,
    wanted_of,
)
from exporter.observe_server import ObserveServer
from exporter.testing import Row, make_batch
from exporter.top import Asked
from tests.certificates import Authority, Pair
from tests.patience import LONGEST, wait_until
from tests.servers import free_port
from tests.unit.test_observe import WANTED

ALL = Wanted()
FOLLOW = Wanted(follow=True, last=0)


@dataclass
class Agent:
    """What serves, and what it serves."""

    port: int
    tap: Tap = field(default_factory=Tap)

    @property
    def server(self) -> Server:
        return Server(f"127.0.0.1:{self.port}")


@contextmanager
def serving(tls: ServerTlsConfig | None = None, port: int = 0, clients: int = 8) -> Iterator[Agent]:
    """An agent that only serves; at a port of its own, or at one that is known."""
    end = time.monotonic() + LONGEST
    while True:
        agent = Agent(port or free_port())
        config = ObserveConfig(address=f"127.0.0.1:{agent.port}", tls=tls, clients=clients)
        server = ObserveServer(config, agent.tap)
        try:
            server.listen()
        except CaptureError:
            # Somebody was faster.
            assert time.monotonic() < end
            time.sleep(0.02)
            continue
        break
    try:
        yield agent
    finally:
        agent.tap.close()
        server.close()


def numbered(first: int, rows: int) -> FlowBatch:
    """Rows that end at first + 1, first + 2, ... ns, with those numbers as packets."""
    one = make_batch(Row()).take(np.zeros(rows, np.int64))
    numbers = np.arange(first, first + rows).astype(np.uint64)
    return replace(one, packet_count=numbers, flow_end_ns=numbers + np.uint64(1))


def packets(lines: list[bytes]) -> list[int]:
    """Of flows; notices and empty lines are left out."""
    records = [json.loads(line) for line in lines if line != b"\n"]
    return [record["flow"]["packets"] for record in records if "flow" in record]


def quiet(_line: str) -> None:
    raise AssertionError("nothing is to be said")


def seen(server: Server, wanted: Wanted = ALL) -> list[int]:
    return packets(list(recent([server], wanted, quiet)))


@given(WANTED)
def test_a_request_says_it_all(wanted: Wanted) -> None:
    """Whatever is asked for reaches the agent as it was."""
    assert (
        wanted_of(type(request(wanted)).FromString(request(wanted).SerializeToString())) == wanted
    )


def test_what_has_been() -> None:
    """The lines are those of the Unix socket; only what is asked for comes."""
    with serving() as agent:
        agent.tap.publish(numbered(0, 9))
        lines = list(recent([agent.server], ALL, quiet))
        assert b"".join(lines) == b"".join(observed(agent.tap, ALL))
        assert packets(lines) == list(range(9))
        assert seen(agent.server, Wanted(since_ns=3, until_ns=8, last=2)) == [5, 6]
        assert seen(agent.server, Wanted((("ip", "10.9.9.9"),))) == []


def test_a_large_drain() -> None:
    """Comes whole, in messages that a reader need not fear."""
    with serving() as agent, stream(agent.server, OBSERVE, request(FOLLOW)) as messages:
        wait_until(lambda: agent.tap.watchers, "it is served")
        agent.tap.publish(numbered(0, 20_000))
        agent.tap.close()
        got = list(messages)
    assert packets([line for one in got for line in one.splitlines(True)]) == list(range(20_000))
    assert len(got) > 5
    assert max(map(len, got)) < 2 << 20


def test_a_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds nobody up: it is told how many flows it missed, and gets all others."""
    monkeypatch.setattr(tap_module, "WAITING", 2000)
    with serving() as agent, stream(agent.server, OBSERVE, request(FOLLOW)) as messages:
        wait_until(lambda: agent.tap.watchers, "it is served")
        published = 0
        # As much as the transport buffers, and then some.
        while agent.tap.missed < 10_000:
            agent.tap.publish(numbered(published, 1000))
            published += 1000
            assert published < 5_000_000
        agent.tap.close()
        lines = [line for one in messages for line in one.splitlines(True) if line != b"\n"]
    notices = [json.loads(line) for line in lines if line.startswith(b'{"notice"')]
    missed = sum(notice["notice"]["missed"] for notice in notices)
    got = packets(lines)
    assert missed == agent.tap.missed
    assert len(got) + missed == published
    assert got == sorted(set(got))


def test_no_more_than_so_many() -> None:
    """The next is refused, in words, until one goes."""
    with serving(clients=1) as agent:
        agent.tap.publish(numbered(0, 1))
        with (
            stream(agent.server, OBSERVE, request(FOLLOW)),
            pytest.raises(ControlError, match="serves as many as it may already"),
        ):
            seen(agent.server)
        wait_until(lambda: not agent.tap.watchers, "it is forgotten")
        wait_until(partial(_is_answered, agent.server), "there is room again")


def _is_answered(server: Server) -> bool:
    try:
        return seen(server) == [0]
    except ControlError:
        return False


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Wanted((("colour", "red"),)), "there is no condition colour"),
        (Wanted((("port", "a"),)), "a is no port"),
        (Wanted(tuple(("pod", "x" * 1000) for _ in range(99))), "no conditions of so many"),
    ],
)
def test_what_cannot_be(wanted: Wanted, says: str) -> None:
    """One line, as from a flag that cannot be."""
    with serving() as agent, pytest.raises(ConfigError, match=says):
        seen(agent.server, wanted)


def test_what_is_no_request(caplog: pytest.LogCaptureFixture) -> None:
    """Strangers' octets are refused, and nothing is in the log of it."""
    many = request(ALL)
    many.conditions.extend([pb.Condition(name="port", value="1")] * 101)
    with serving() as agent, grpc.insecure_channel(agent.server.target) as channel:
        for octets, says in (
            (b"\xff\xff", "not a flowexporter.Request"),
            (many.SerializeToString(), "more than 100 conditions"),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                list(channel.unary_stream(OBSERVE)(octets))
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert says in raised.value.details()
        with (
            pytest.raises(ControlError, match="is no flow-exporter agent"),
            stream(agent.server, "/other.Service/Call", request(ALL)),
        ):
            pass
    assert caplog.records == []


def test_strangers_who_say_nothing() -> None:
    """They may hold so many connections; the others are closed at once."""
    with serving(clients=1) as agent, ExitStack() as stack:
        agent.tap.publish(numbered(0, 1))
        opened = [
            stack.enter_context(socket.create_connection(("127.0.0.1", agent.port)))
            for _ in range(60)
        ]
        wait_until(lambda: closed(opened) >= 60 - 17, "the others are closed")
        assert closed(opened) < 60
        # Those that go make room.
        stack.close()
        wait_until(partial(_is_answered, agent.server), "there is room again")


def closed(sockets: list[socket.socket]) -> int:
    """How many the other side has closed."""
    ready, _, _ = select.select(sockets, [], [], 0)
    return sum(_is_closed(one) for one in ready)


def _is_closed(one: socket.socket) -> bool:
    try:
        return one.recv(1 << 16, socket.MSG_PEEK) == b""
    except ConnectionError:
        return True


@dataclass
class Pki:
    """Authorities, and what they have signed."""

    good: Authority
    other: Authority
    server: Pair
    client: Pair
    expired: Pair
    stranger: Pair

    def tls(self, *, mutual: bool) -> ServerTlsConfig:
        authority = self.good.pem if mutual else None
        return ServerTlsConfig(
            certificate=self.server.certificate, key=self.server.key, client_ca=authority
        )


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    directory = tmp_path_factory.mktemp("pki")
    good, other = Authority(directory / "good"), Authority(directory / "other")
    return Pki(
        good, other,
        server=good.issue("server", "IP:127.0.0.1,DNS:node-1.test"),
        client=good.issue("client", "DNS:client.test"),
        expired=good.issue("expired", "DNS:client.test", expired=True),
        stranger=other.issue("client", "DNS:client.test"),
    )  # fmt: skip


def with_tls(agent: Agent, authority: Authority, own: Pair | None = None, name: str = "") -> Server:
    certificate, key = own or (None, None)
    address = f"tls://127.0.0.1:{agent.port}"
    return Server(
        address, authorities=(authority.pem,), certificate=certificate, key=key, name=name
    )


def test_who_may_look(pki: Pki) -> None:
    """With TLS whoever trusts it, with mutual TLS whom the authority knows; else one line."""
    with serving(pki.tls(mutual=False)) as agent:
        agent.tap.publish(numbered(0, 3))
        assert seen(with_tls(agent, pki.good)) == [0, 1, 2]
        assert seen(with_tls(agent, pki.good, name="node-1.test")) == [0, 1, 2]
        for server, says in (
            (with_tls(agent, pki.other), "its certificate is not to be trusted"),
            (with_tls(agent, pki.good, name="node-2.test"), "its certificate is not to be trusted"),
            (agent.server, "does it want TLS"),
        ):
            refused(server, says)
    with serving(pki.tls(mutual=True)) as agent:
        agent.tap.publish(numbered(0, 3))
        assert seen(with_tls(agent, pki.good, pki.client)) == [0, 1, 2]
        for own, says in (
            (None, "does it want a certificate"),
            (pki.stranger, f"does it trust {pki.stranger.certificate}"),
            (pki.expired, f"does it trust {pki.expired.certificate}"),
        ):
            refused(with_tls(agent, pki.good, own), says)
        assert seen(with_tls(agent, pki.good, pki.client)) == [0, 1, 2]
    with serving() as agent:
        refused(with_tls(agent, pki.good), "does not speak TLS")
    refused(agent.server, "connection refused")


def refused(server: Server, says: str) -> None:
    with pytest.raises(ControlError) as raised:
        seen(server)
    assert says in str(raised.value)
    assert str(raised.value).startswith(f"{server.address} does not answer: ")
    assert "\n" not in str(raised.value)


def test_certificates_that_are_replaced(pki: Pki, tmp_path: Path) -> None:
    """The next connection has the new ones; those that cannot be used are not, and it is said."""
    files = ServerTlsConfig(certificate=tmp_path / "tls.crt", key=tmp_path / "tls.key",
                            client_ca=tmp_path / "ca.crt")  # fmt: skip

    def put(pair: Pair, authority: Authority) -> None:
        assert files.client_ca is not None
        for file, to in ((pair.key, files.key), (pair.certificate, files.certificate),
                         (authority.pem, files.client_ca)):  # fmt: skip
            shutil.copy(file, tmp_path / "new")
            (tmp_path / "new").rename(to)

    other = pki.other.issue("server", "IP:127.0.0.1")
    put(pki.server, pki.good)
    with serving(files) as agent:
        agent.tap.publish(numbered(0, 1))
        assert seen(with_tls(agent, pki.good, pki.client)) == [0]
        files.certificate.write_text("half of a certif")
        assert seen(with_tls(agent, pki.good, pki.client)) == [0]
        put(other, pki.other)
        assert seen(with_tls(agent, pki.other, pki.stranger)) == [0]
        refused(with_tls(agent, pki.good, pki.client), "not to be trusted")
        refused(with_tls(agent, pki.other, pki.client), "does it trust")


@pytest.mark.parametrize(
    ("server", "says"),
    [
        (Server("node-1"), "--server: 'node-1' is not HOST:PORT"),
        (Server("tls://node-1:0"), "has no port between"),
        (Server("h:1", authorities=(Path("/nowhere.pem"),)), "cannot read /nowhere.pem"),
        (Server("h:1", certificate=Path("/nowhere.pem")), "go together"),
        (Server("h:1", tls=True, authorities=(Path("/dev/null"),)), "cannot use the certificates"),
    ],
)
def test_servers_that_cannot_be(server: Server, says: str) -> None:
    """Found before anything is connected."""
    with pytest.raises(ConfigError, match=says):
        server.check()


class Heard:
    """What is said, and the flows that come, by a thread."""

    def __init__(self, *servers: Server, first: int) -> None:
        self.said: list[str] = []
        self.flows: list[int] = []
        self.failure: ExporterError | None = None
        wanted = replace(FOLLOW, first=first)
        self._thread = threading.Thread(target=self._run, args=(servers, wanted))
        self._thread.start()

    def _run(self, servers: tuple[Server, ...], wanted: Wanted) -> None:
        try:
            with closing(follow(servers, wanted, self.said.append)) as lines:
                for line in lines:
                    self.flows += packets([line])
        except ExporterError as err:
            self.failure = err

    def says(self, text: str) -> Callable[[], bool]:
        return lambda: any(text in line for line in self.said)

    def join(self) -> None:
        self._thread.join(LONGEST)
        assert not self._thread.is_alive()


def test_an_agent_that_comes_back() -> None:
    """Who follows is told that it is gone and that it is there again, and follows on."""
    with serving() as agent:
        heard = Heard(agent.server, first=3)
        wait_until(lambda: agent.tap.watchers, "it is served")
        agent.tap.publish(numbered(0, 2))
        wait_until(lambda: heard.flows == [0, 1], "they come")
    wait_until(heard.says("trying again"), "it is gone")
    with serving(port=agent.port) as again:
        again.tap.publish(numbered(9, 1))
        wait_until(heard.says("is there again"), "it is back")
        wait_until(lambda: again.tap.watchers, "it is served")
        again.tap.publish(numbered(10, 2))
        heard.join()
    assert heard.failure is None
    assert heard.flows == [0, 1, 10]
    assert len(heard.said) == 2


def test_an_agent_that_is_not_there() -> None:
    """One line at once, with several too once the others have been heard."""
    gone = Server(f"127.0.0.1:{free_port()}")
    heard = Heard(gone, first=0)
    heard.join()
    assert str(heard.failure) == f"{gone.address} does not answer: connection refused"
    with serving() as agent:
        agent.tap.publish(numbered(0, 2))
        lines = recent([gone, agent.server], ALL, quiet)
        assert packets([next(lines), next(lines)]) == [0, 1]
        with pytest.raises(ControlError, match="connection refused"):
            next(lines)


def test_several_agents() -> None:
    """What has been is in the order of time, the last of all; what comes is of all."""
    with serving() as one, serving() as other:
        for agent, first in ((one, 0), (other, 5)):
            part = numbered(first, 20).take(slice(0, None, 2))
            agent.tap.publish(replace(part, observer=Observer("", f"node-{first}")))
        servers = [one.server, other.server]
        lines = list(recent(servers, Wanted(last=6), quiet))
        assert packets(lines) == [16, 17, 18, 19, 21, 23]
        assert {json.loads(line)["observer"]["name"] for line in lines} == {"node-0", "node-5"}
        assert packets(list(recent(servers, Wanted(first=3), quiet))) == [0, 2, 4]
        heard = Heard(*servers, first=4)
        for agent in (one, other):
            wait_until(lambda agent=agent: agent.tap.watchers, "it is served")  # type: ignore[misc]
        one.tap.publish(numbered(50, 2))
        wait_until(lambda: len(heard.flows) == 2, "they come")
        other.tap.publish(numbered(60, 2))
        heard.join()
        assert heard.flows == [50, 51, 60, 61]


def test_sums() -> None:
    """What top shows: a line after each drain; a line of ours if the agent goes."""
    asked = Asked("ports", replace(FOLLOW, conditions=(("port", "443"),)))
    with serving() as agent:
        with summed(agent.server, asked) as lines:
            wait_until(lambda: agent.tap.watchers, "it is served")
            agent.tap.publish(make_batch(Row(), Row(dst_port=80, src_port=1)))
            told: list[dict[str, Any]] = []
            while not told:
                assert select.select([lines], [], [], LONGEST)[0]
                told = [json.loads(line) for line in lines.some() or () if line != b"\n"]
        assert [row[0] for row in told[0]["rows"]] == [["6", "443"]]
        with pytest.raises(ConfigError, match="there is no view"):
            replace(asked, view="colours")
        with summed(agent.server, asked) as lines:
            agent.tap.close()
            assert [line for line in lines if line != b"\n"] == []
    with pytest.raises(ControlError, match="connection refused"), summed(agent.server, asked):
        pass


def test_top_of_an_agent_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    """The command with --server: sums of that agent. It shows one: two are a wrong command."""
    with serving() as agent:

        def publish() -> None:
            wait_until(lambda: agent.tap.watchers, "it is served")
            agent.tap.publish(make_batch(Row(), Row(ip_protocol=1)))

        drain = threading.Thread(target=publish)
        drain.start()
        where = f"--server=127.0.0.1:{agent.port}"
        assert main(["top", where, "--by", "ports", "--rounds", "1"]) == 0
        drain.join()
        shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()[3:]]
        assert sorted(shown) == ["icmp", "tcp/443"]
        assert main(["top", where, where, "--rounds", "1"]) == 2
        assert "top shows one agent: give one --server" in capsys.readouterr().err


def test_a_port_in_use() -> None:
    """One line that names the address."""
    with serving() as agent:
        second = ObserveServer(ObserveConfig(address=f"127.0.0.1:{agent.port}"), agent.tap)
        with pytest.raises(CaptureError, match=f"cannot serve flows on 127.0.0.1:{agent.port}"):
            second.listen()
