"""What the flow program notes of the socket that a new flow is of."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from exporter.capture.fetcher import Beside, FlowFetcher, Namespace, NetworkInterface
from tests.e2e.net import End, Network, veth
from tests.kernel.hooks import send, take
from tests.kernel.loader import both_loaders, config
from tests.kernel.test_fetcher import frame

HERE, THERE = "192.0.2.1", "192.0.2.2"
_SO_COOKIE = 57


def pair(network: Network) -> tuple[End, End]:
    one, other = End(network.namespace("a"), "va"), End(network.namespace("b"), "vb")
    one.netns.quiet()
    other.netns.quiet()
    veth(one, other, ((f"{HERE}/24",), (f"{THERE}/24",)))
    return one, other


@contextmanager
def watching(*ends: End, owners: bool = True) -> Iterator[FlowFetcher]:
    with FlowFetcher(
        config(max_flows=256, ring_size=4096), beside=Beside(owners=owners)
    ) as fetcher:
        for number, end in enumerate(ends, 1):
            place = Namespace(number, end.netns.name, end.netns.path)
            index = end.netns.index(end.device)
            fetcher.register(NetworkInterface(index, end.device, namespace=place))
        yield fetcher


def cookie(one: socket.socket) -> int:
    return int.from_bytes(one.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), "little")


def found(fetcher: FlowFetcher) -> dict[tuple[int, int, int, int], tuple[int, int]]:
    """(namespace, direction, ports) -> cookies of sender and receiver."""
    batch = take(fetcher)
    assert fetcher.owners is not None
    ends = [end.cookies.tolist() for end in fetcher.owners.ends(batch)]
    columns = (batch.netns, batch.flow_direction, batch.src_port, batch.dst_port)
    keys = zip(*(column.tolist() for column in columns), strict=True)
    return dict(zip(keys, zip(*ends, strict=True), strict=True))


@both_loaders
def test_sockets_of_both_ends(network: Network) -> None:
    """
    Where a packet leaves its namespace and where it comes into the next one, in both directions,
    UDP and TCP, the accepted socket too: the sender's cookie, and that of who gets it.
    """
    one, other = pair(network)
    with watching(one, other) as fetcher:
        with other.netns.entered():
            udp_there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp_there.bind((THERE, 7000))
            server = socket.create_server((THERE, 7001))
        with one.netns.entered():
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.bind((HERE, 6000))
            udp.sendto(b"ping", (THERE, 7000))
            tcp = socket.create_connection((THERE, 7001))
        udp_there.sendto(b"pong", (HERE, 6000))
        accepted, (_, port) = server.accept()
        tcp.send(b"ping")
        assert accepted.recv(4) == b"ping"
        sockets = found(fetcher)
        for ours, theirs, own, far in (
            (cookie(udp), cookie(udp_there), 6000, 7000),
            (cookie(tcp), cookie(accepted), port, 7001),
        ):
            for netns, out in ((1, 1), (2, 0)):
                assert sockets[netns, out, own, far] == (ours, theirs)
                assert sockets[netns, 1 - out, far, own] == (theirs, ours)
        for open_one in (udp_there, server, udp, tcp, accepted):
            open_one.close()


@both_loaders
def test_each_entry_has_its_own(network: Network) -> None:
    """A port that is used anew after a drain is the new socket's; packets without any, nobody's."""
    one, _ = pair(network)
    with watching(one) as fetcher:
        for _ in range(3):
            with one.netns.entered():
                udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.bind((HERE, 6000))
            udp.sendto(b"ping", (THERE, 7000))
            expected = cookie(udp)
            udp.close()
            send(one, frame(6001))
            sockets = found(fetcher)
            assert sockets[1, 1, 6000, 7000] == (expected, 0)
            assert sockets[1, 1, 6001, 53] == (0, 0)


def test_nothing_is_noted_unless_asked(network: Network) -> None:
    """Without the setting the map stays empty."""
    one, _ = pair(network)
    with watching(one, owners=False) as fetcher:
        with one.netns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(b"ping", (THERE, 7000))
        assert fetcher._map("flow_owner").next_key() is None
        assert 17 in take(fetcher).ip_protocol


def test_a_flow_that_began_again_before_the_reading(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Between the swap and the reading of the owners a socket is gone and another one goes on under
    its port: each entry has its own socket, the first one's in this drain, the other's in the next.
    """
    one, _ = pair(network)
    cookies = []

    def speak() -> None:
        with one.netns.entered():
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((HERE, 6000))
        udp.sendto(b"ping", (THERE, 7000))
        cookies.append(cookie(udp))
        udp.close()

    with watching(one) as fetcher:
        assert fetcher.owners is not None
        speak()
        read, waits = fetcher.owners.read, [1]

        def late(*arguments: object) -> None:
            if waits:
                waits.pop()
                time.sleep(0.002)  # the clock goes on
                speak()
            read(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(fetcher.owners, "read", late)
        assert found(fetcher)[1, 1, 6000, 7000][0] == cookies[0]
        assert found(fetcher)[1, 1, 6000, 7000] == (cookies[1], 0)
