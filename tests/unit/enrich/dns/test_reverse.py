"""Reverse look-ups at servers on loopback that answer as the test wants."""

from __future__ import annotations

import errno
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.reversename
import dns.rrset
import numpy as np
import pytest

from exporter.batch.batch import Window
from exporter.enrich.base import Addresses
from exporter.enrich.dns import reverse
from exporter.enrich.dns.config import ReverseConfig
from exporter.enrich.dns.reverse import Networks, ReverseNames, pointer_name
from exporter.errors import ConfigError
from exporter.testing.batch import pack_address
from tests.e2e.agent import wait_until

SECOND = 10**9
Reply = Callable[[dns.message.Message], list[bytes]]


#: All of time.
EVER = Window(0, 1 << 62)


def addresses(*texts: str, window: Window = EVER) -> Addresses:
    octets = np.frombuffer(b"".join(map(pack_address, texts)), np.uint8)
    return Addresses(octets.reshape(-1, 16), window)


class Server:
    """A UDP server on loopback: what it was asked, and what it says."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.asked: list[str] = []
        self.askers: list[tuple[int, int]] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            octets, address = self._socket.recvfrom(4096)
            if not octets:
                return
            query = dns.message.from_wire(octets)
            self.asked.append(query.question[0].name.to_text(omit_final_dot=True))
            self.askers.append((query.id, address[1]))
            for one in self._reply(query):
                self._socket.sendto(one, address)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


def pointer(query: dns.message.Message, *names: str, ttl: int = 600) -> bytes:
    """A PTR for each name."""
    response = dns.message.make_response(query)
    if names:
        rrset = dns.rrset.from_text(query.question[0].name, ttl, "IN", "PTR", *names)
        response.answer = [rrset]
    return response.to_wire()


def failing(query: dns.message.Message, rcode: dns.rcode.Rcode) -> bytes:
    response = dns.message.make_response(query)
    response.set_rcode(rcode)
    return response.to_wire()


class Clock:
    """Unix time."""

    def __init__(self) -> None:
        self.seconds = 1000

    def __call__(self) -> int:
        return self.seconds * SECOND


@contextmanager
def asking(*replies: Reply, clock: Clock | None = None, **settings: Any) -> Iterator[Any]:
    """A source that asks servers of the test's own: it, and them."""
    servers = [Server(reply) for reply in replies]
    defaults = {"networks": ("all",), "rate": 1000.0, "resolvers": [one.place for one in servers]}
    source = ReverseNames(ReverseConfig(**{**defaults, **settings}), wall_ns=clock or Clock())
    try:
        source.open()
        yield source, servers
    finally:
        source.close()
        for server in servers:
            server.close()


def names_of(source: ReverseNames, *texts: str, at: int = 1000) -> list[str]:
    some = addresses(*texts, window=Window(at * SECOND, at * SECOND))
    numbers, names = source.find(some, np.ones(len(some), np.bool_))
    return [names[number] or "" for number in numbers]


def settled(source: ReverseNames) -> bool:
    return not source._unsettled


def test_names_are_asked_for_once() -> None:
    """
    Of both families; what has no name, or one that is none, is remembered, too. Each query has a
    number and a port of its own.
    """
    there = {
        "1.2.0.192.in-addr.arpa": "one.test.",
        pointer_name(pack_address("2001:db8::1")): "Six.Test.",
    }

    def reply(query: dns.message.Message) -> list[bytes]:
        asked = query.question[0].name.to_text(omit_final_dot=True)
        if asked.startswith("3."):
            return [failing(query, dns.rcode.NXDOMAIN)]
        return [pointer(query, *filter(None, [there.get(asked)]))]

    texts = ["192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.3"]
    with asking(reply) as (source, (server,)):
        assert names_of(source, *texts) == [""] * 4
        wait_until(lambda: settled(source), "four answers")
        for _ in range(3):
            assert names_of(source, *texts) == ["one.test", "six.test", "", ""]
        assert sorted(server.asked) == sorted(pointer_name(pack_address(one)) for one in texts)
        assert len({port for _, port in server.askers}) == 4
        counts = source.counts
        assert (counts.sent, counts.named, counts.unnamed, counts.failed) == (4, 2, 2, 0)
        assert source.state().problem == ""


def test_what_is_known_is_over() -> None:
    """A name after its TTL, at least a minute; none after five minutes. Then it is asked again."""
    clock = Clock()

    def reply(query: dns.message.Message) -> list[bytes]:
        named = query.question[0].name.to_text().startswith("1.")
        return [pointer(query, *(["one.test."] if named else []), ttl=100)]

    both = ("192.0.2.1", "192.0.2.2")
    with asking(reply, clock=clock) as (source, (server,)):
        names_of(source, *both)
        wait_until(lambda: settled(source), "two answers")
        assert names_of(source, *both, at=1100) == ["one.test", ""]
        assert len(server.asked) == 2
        clock.seconds = 1101
        assert names_of(source, *both, at=1101) == ["", ""]
        wait_until(lambda: settled(source), "an answer")
        assert names_of(source, *both, at=1101) == ["one.test", ""]
        assert server.asked.count("1.2.0.192.in-addr.arpa") == 2
        assert server.asked.count("2.2.0.192.in-addr.arpa") == 1


def test_what_is_no_answer() -> None:
    """
    Another number, another question, no response, no message, another server's socket: all are
    waited past, and the answer is taken.
    """
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def reply(query: dns.message.Message) -> list[bytes]:
        other = dns.message.make_query("9.2.0.192.in-addr.arpa", "PTR", id=query.id)
        number = dns.message.make_query(query.question[0].name, "PTR", id=query.id ^ 1)
        right = pointer(query, "right.test.")
        _, port = servers[0].askers[-1]
        stranger.sendto(pointer(query, "wrong.test."), ("127.0.0.1", port))
        wrong = [pointer(one, "wrong.test.") for one in (other, number)]
        return [*wrong, query.to_wire(), b"\0\1", b"\xff" * 40, right[:-1], right]

    with stranger, asking(reply) as (source, servers):
        names_of(source, "192.0.2.1")
        wait_until(lambda: settled(source), "the answer")
        assert names_of(source, "192.0.2.1") == ["right.test"]
        assert source.counts.foreign == 6
        assert source.counts.sent == 1


def test_the_next_server() -> None:
    """One that fails, and one that says nothing, is followed by the next."""

    def fails(query: dns.message.Message) -> list[bytes]:
        return [failing(query, dns.rcode.SERVFAIL)]

    def silent(_: dns.message.Message) -> list[bytes]:
        return []

    def knows(query: dns.message.Message) -> list[bytes]:
        return [pointer(query, "one.test.")]

    with asking(fails, silent, knows, attempts=3, timeout=1) as (source, servers):
        names_of(source, "192.0.2.1")
        wait_until(lambda: settled(source), "the answer")
        assert names_of(source, "192.0.2.1") == ["one.test"]
        wait_until(lambda: [len(server.asked) for server in servers] == [1, 1, 1], "all are asked")
        assert source.counts.sent == 3


def test_an_answer_after_the_batch_is_an_answer() -> None:
    """It names nothing in a batch that ended before it, and is not asked for again for that."""
    with asking(lambda query: [pointer(query, "one.test.")]) as (source, (server,)):
        names_of(source, "192.0.2.1")
        wait_until(lambda: settled(source), "the answer")
        assert names_of(source, "192.0.2.1", at=999) == [""]
        assert settled(source)
        assert names_of(source, "192.0.2.1") == ["one.test"]
        # When it holds no more it is.
        assert names_of(source, "192.0.2.1", at=1000 + 601) == [""]
        wait_until(lambda: len(server.asked) == 2, "it is asked for again")


def test_nobody_answers() -> None:
    """A problem in one line; the address has no name and is not asked for again at once."""
    with asking(lambda _: [], attempts=5, timeout=0.05) as (source, (server,)):
        names_of(source, "192.0.2.1")
        wait_until(lambda: settled(source), "all attempts")
        assert names_of(source, "192.0.2.1") == [""]
        wait_until(lambda: len(server.asked) == 5, "all queries")
        assert f"no answer from {server.place} to the last 5 queries" in source.state().problem
        assert source.state().events["reverse_failed"] == 1


def test_without_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread lives on when it cannot have a socket."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    with asking(lambda query: [pointer(query, "one.test.")]) as (source, _):
        monkeypatch.setattr("exporter.enrich.dns.reverse.socket.socket", refuse)
        names_of(source, "192.0.2.1")
        wait_until(lambda: settled(source), "all attempts")
        monkeypatch.undo()
        assert source.counts.failed == 1
        names_of(source, "192.0.2.2")
        wait_until(lambda: settled(source), "the answer")
        assert names_of(source, "192.0.2.2") == ["one.test"]


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is left out, and asked for by a later batch."""
    monkeypatch.setattr(reverse, "_UNSETTLED", 3)
    with asking(lambda _: [], rate=0.001, timeout=60) as (source, _):
        for _ in range(2):
            names_of(source, *[f"192.0.2.{octet}" for octet in range(5)])
        assert len(source._unsettled) == 3
        assert source.counts.left_out == 4


def test_only_some_networks() -> None:
    """What is outside is never asked for."""
    with asking(lambda _: [], networks=("private",)) as (source, _):
        names_of(source, "192.0.2.1", "2001:db8::1", "11.0.0.1")
        assert settled(source)


def test_networks_as_ipaddress_has_them() -> None:
    """Random addresses in and around random networks of both families."""
    random_ = random.Random(20)
    cidrs, texts = [], []
    for bits, kind in ((32, ip_address), (128, IPv6Address)):
        for _ in range(12):
            number, length = random_.getrandbits(bits), random_.randrange(bits + 1)
            network = ip_network((kind(number).packed, length), strict=False)
            cidrs.append(str(network))
            near = [int(network.network_address), int(network.broadcast_address)]
            some = [one + step for one in near for step in (-1, 0, 1)]
            texts += [str(kind(one)) for one in some if 0 <= one < 1 << bits]
        cidrs = [one for one in cidrs if not one.endswith("/0")]
    found = Networks(tuple(cidrs)).contain(addresses(*texts))
    networks = [ip_network(cidr) for cidr in cidrs]
    mapped = [
        (IPv6Address(text).ipv4_mapped if ":" in text else None) or ip_address(text)
        for text in texts
    ]
    assert found.tolist() == [any(one in network for network in networks) for one in mapped]
    assert 0 < found.sum() < len(found)


@pytest.mark.parametrize("text", ["192.0.2.1", "10.255.0.9", "2001:db8::1", "fe80::1:2:3:4"])
def test_what_is_asked(text: str) -> None:
    """As dnspython asks."""
    expected = dns.reversename.from_address(text).to_text(omit_final_dot=True)
    assert pointer_name(pack_address(text)) == expected


def test_resolvers_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of resolv.conf; without any there is one line that says what to do."""
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr(reverse, "_RESOLV_CONF", path)
    source = ReverseNames(ReverseConfig())
    with pytest.raises(ConfigError, match="names no server: set resolvers"):
        source.open()
    path.write_text(
        "# nameserver 192.0.2.9\nsearch example.test\nnameserver 127.0.0.1\nnameserver ::1\n"
    )
    source.open()
    source.close()
    source.close()
    assert source._resolvers == [("127.0.0.1", 53), ("::1", 53)]
