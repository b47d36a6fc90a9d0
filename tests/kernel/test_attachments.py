"""What all ways of attaching have in common: they leave nothing, and a failure spoils nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from exporter.ebpf.clsact import ClsactFilter
from exporter.ebpf.errors import BpfError
from exporter.ebpf.links import Direction, interface_index
from exporter.ebpf.object import Object
from exporter.ebpf.sockets import Reuseport, SocketFilter
from exporter.ebpf.tcx import TcxLink
from exporter.ebpf.tcx import query as query_tcx
from exporter.ebpf.xdp import XdpAttachment
from exporter.ebpf.xdp import query as query_xdp
from tests.e2e.net import End, Network
from tests.kernel.hooks import quiet_pair
from tests.kernel.samples import descriptors, load

DIRECTIONS: tuple[Direction, ...] = ("ingress", "egress")


class Attached(Protocol):
    def detach(self) -> None: ...
    def close(self) -> None: ...


@pytest.fixture
def loaded() -> Iterator[Object]:
    with load("first", "pass_all", "keep_experimental", "by_first_octet") as made:
        yield made


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    """A socket that takes both kinds of program."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield made


Attach = Callable[[Object, End, int, socket.socket], Attached]

WAYS: dict[str, Attach] = {
    "tcx": lambda o, end, index, _: TcxLink.attach(
        o.programs["first"], index, "ingress", netns=end.netns.path
    ),
    "clsact": lambda o, end, index, _: ClsactFilter.attach(
        o.programs["first"], index, "ingress", netns=end.netns.path
    ),
    "xdp link": lambda o, end, index, _: XdpAttachment.attach(
        o.programs["pass_all"], index, means="link", netns=end.netns.path
    ),
    "xdp netlink": lambda o, end, index, _: XdpAttachment.attach(
        o.programs["pass_all"], index, means="netlink", netns=end.netns.path
    ),
    "socket filter": lambda o, _end, _index, sock: SocketFilter.attach(
        o.programs["keep_experimental"], sock
    ),
    "reuseport": lambda o, _end, _index, sock: Reuseport.attach(o.programs["by_first_octet"], sock),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_hundred_times(network: Network, loaded: Object, sock: socket.socket, way: str) -> None:
    """A hundred times on and off, by detach and by close, leaves all as it was."""
    one, _ = quiet_pair(network)
    index = interface_index(one.device, one.netns.path)
    before = descriptors()
    for cycle in range(100):
        attached = WAYS[way](loaded, one, index, sock)
        if cycle % 2:
            attached.detach()
        attached.close()
    assert descriptors() == before
    assert "clsact" not in one.netns.run("tc", "qdisc", "show", "dev", one.device)
    assert query_xdp(index, one.netns.path).ids() == ()
    for direction in DIRECTIONS:
        assert query_tcx(index, direction, one.netns.path).programs == ()


@pytest.mark.parametrize("way", ["tcx", "clsact", "xdp link", "xdp netlink"])
def test_after_a_failure(network: Network, loaded: Object, sock: socket.socket, way: str) -> None:
    """A program whose attaching failed attaches where it can, as if nothing had been."""
    one, _ = quiet_pair(network)
    before = descriptors()
    with pytest.raises(BpfError, match="ENODEV"):
        WAYS[way](loaded, one, 2_000_000, sock)
    assert descriptors() == before
    attached = WAYS[way](loaded, one, interface_index(one.device, one.netns.path), sock)
    attached.detach()
    attached.close()


def test_an_interface_by_name(network: Network) -> None:
    """Names are of a namespace; an unknown one is ENODEV with its name."""
    one, _ = quiet_pair(network)
    assert interface_index(one.device, one.netns.path) == one.netns.index(one.device)
    assert interface_index("lo") == 1
    with pytest.raises(BpfError, match=r"find interface ghost0: .*ENODEV"):
        interface_index("ghost0", one.netns.path)
