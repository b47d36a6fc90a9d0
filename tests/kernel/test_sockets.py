"""Programs on sockets: what a filter keeps, and which socket of a port a datagram goes to."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from exporter.ebpf.errors import BpfError
from exporter.ebpf.object import Object
from exporter.ebpf.sockets import KEEP_ALL, KEEP_NONE, Reuseport, SkAction, SocketFilter
from tests.e2e.net import Network
from tests.kernel.hooks import quiet_pair, send
from tests.kernel.samples import EXPERIMENTAL, OTHER, load, number

_SO_LOCK_FILTER = 44
PORT = 4739


@pytest.fixture
def loaded() -> Iterator[Object]:
    with load("keep_experimental", "by_first_octet", "select_by_first_octet", "first") as made:
        yield made


def test_a_packet_socket_counts_and_keeps(network: Network, loaded: Object) -> None:
    """A filter on AF_PACKET sees every frame, keeps what it says of some and drops the others."""
    one, other = quiet_pair(network)
    with (
        other.netns.entered(),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as tap,
        SocketFilter.attach(loaded.programs["keep_experimental"], tap) as attached,
    ):
        tap.bind((other.device, 3))
        tap.settimeout(2)
        send(one, OTHER, EXPERIMENTAL, OTHER, EXPERIMENTAL)
        assert [tap.recv(2048) for _ in range(2)] == [EXPERIMENTAL[:20]] * 2
        assert [number(loaded.maps["hits"], slot) for slot in (0, 1)] == [2, 2]
        attached.detach()
        send(one, OTHER)
        assert tap.recv(2048) == OTHER
        assert [number(loaded.maps["hits"], slot) for slot in (0, 1)] == [2, 2]


def test_a_filter_that_is_not_there(loaded: Object) -> None:
    """Detaching twice is ENOENT, attaching to a closed socket EBADF; closing is fine always."""
    left, right = socket.socketpair()
    with right:
        attached = SocketFilter.attach(loaded.programs["keep_experimental"], left)
        attached.detach()
        with pytest.raises(BpfError, match=r"detach filter of socket \d+: .*ENOENT"):
            attached.detach()
        attached.close()
        again = SocketFilter.attach(loaded.programs["keep_experimental"], left)
        left.close()
        again.close()
        with pytest.raises(BpfError, match="EBADF"):
            SocketFilter.attach(loaded.programs["keep_experimental"], left)


def test_a_locked_filter(loaded: Object) -> None:
    """What the kernel refuses to take off is reported."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        attached = SocketFilter.attach(loaded.programs["keep_experimental"], sock)
        sock.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)
        with pytest.raises(BpfError, match=r"detach filter of socket .*EPERM"):
            attached.detach()


def test_another_type(loaded: Object) -> None:
    """A classifier is no socket filter: EINVAL, with the program's name."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        pytest.raises(BpfError, match=r"attach first as filter of socket \d+: .*EINVAL"),
    ):
        SocketFilter.attach(loaded.programs["first"], sock)


@contextlib.contextmanager
def listeners(count: int) -> Iterator[list[socket.socket]]:
    """Sockets that share a port of loopback, in the order in which they were bound."""
    with contextlib.ExitStack() as opened:
        sockets = []
        for _ in range(count):
            sock = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("127.0.0.1", PORT))
            sock.setblocking(False)
            sockets.append(sock)
        yield sockets


def drained(sock: socket.socket) -> list[bytes]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(64))
    return found


def send_each(*datagrams: bytes) -> None:
    """Each from a port of its own, so that the kernel's own choice would scatter them."""
    for datagram in datagrams:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(datagram, ("127.0.0.1", PORT))


ZEROS = [b"\0%d" % n for n in range(8)]
ONES = [b"\1%d" % n for n in range(8)]


@pytest.mark.parametrize("name", ["by_first_octet", "select_by_first_octet"])
def test_reuseport_steers(network: Network, loaded: Object, name: str) -> None:
    """
    Datagrams go to the socket that the program chooses: by index, and from a map of sockets. Once
    the program is detached, the kernel chooses again.
    """
    with network.namespace("reuse").entered(), listeners(2) as (left, right):
        for slot, sock in enumerate((left, right)):
            loaded.maps["listeners"].update(
                slot.to_bytes(4, "little"), sock.fileno().to_bytes(8, "little")
            )
        attached = Reuseport.attach(loaded.programs[name], left)
        send_each(*ZEROS, *ONES)
        assert (drained(left), drained(right)) == (ZEROS, ONES)
        attached.detach()
        many = [b"\0%d" % n for n in range(64)]
        send_each(*many)
        own, others = drained(left), drained(right)
        assert sorted(own + others) == sorted(many)
        # All on one side: 2 in 2**64.
        assert own
        assert others


def test_reuseport_detach_reports(network: Network, loaded: Object) -> None:
    """Detach means the reuseport program, not the socket's filter, and says if there is none."""
    with network.namespace("reuse").entered(), listeners(1) as (sock,):
        filtered = SocketFilter.attach(loaded.programs["keep_experimental"], sock)
        steering = Reuseport.attach(loaded.programs["by_first_octet"], sock)
        steering.detach()
        with pytest.raises(BpfError, match=r"detach reuseport program of socket \d+: .*ENOENT"):
            steering.detach()
        steering.close()
        # The filter was there all the time.
        filtered.detach()


def test_reuseport_wants_the_option(loaded: Object) -> None:
    """A socket that shares no port, and a program of another type: EINVAL."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(BpfError, match="EINVAL"):
            Reuseport.attach(loaded.programs["by_first_octet"], sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(BpfError, match="attach first as reuseport program"):
            Reuseport.attach(loaded.programs["first"], sock)


def test_results() -> None:
    """The numbers that programs on sockets return."""
    assert (KEEP_NONE, KEEP_ALL) == (0, 2**32 - 1)
    assert (SkAction.DROP, SkAction.PASS) == (0, 1)
