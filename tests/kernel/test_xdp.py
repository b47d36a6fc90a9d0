"""XDP: counts and drops on a device, in the mode that was asked for, in nobody else's place."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from exporter.ebpf.errors import AttachRefused, BpfError, FeatureMissing
from exporter.ebpf.object import Object
from exporter.ebpf.xdp import Means, Mode, XdpAction, XdpAttachment, XdpStatus, query
from tests.e2e.net import End, Network
from tests.kernel.hooks import quiet_pair, send
from tests.kernel.samples import EXPERIMENTAL, OTHER, load, number


@pytest.fixture
def loaded() -> Iterator[Object]:
    with load("drop_experimental", "pass_all", "first") as made:
        yield made


def put(
    loaded: Object,
    end: End,
    name: str = "drop_experimental",
    mode: Mode = "auto",
    *,
    means: Means = "auto",
    replace: bool = False,
) -> XdpAttachment:
    """A program on a device."""
    return XdpAttachment.attach(
        loaded.programs[name], end.netns.index(end.device), mode,
        means=means, replace=replace, netns=end.netns.path,
    )  # fmt: skip


def status(end: End) -> XdpStatus:
    return query(end.netns.index(end.device), end.netns.path)


def received(sender: End, receiver: End, *frames: bytes) -> list[bytes]:
    """What comes out of a device of the frames that are sent into the other end."""
    with (
        receiver.netns.entered(),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap,
    ):
        tap.bind((receiver.device, 3))
        tap.settimeout(2)
        send(sender, *frames)
        found: list[bytes] = []
        # The last one is let through by all programs here.
        while not found or found[-1] != frames[-1]:
            found.append(tap.recv(2048))
    return found


@pytest.mark.parametrize("means", ["link", "netlink"])
@pytest.mark.parametrize(
    ("asked", "got"), [("auto", "native"), ("native", "native"), ("generic", "generic")]
)
def test_counts_and_drops(
    network: Network, loaded: Object, asked: Mode, got: Mode, means: Means
) -> None:
    """On a veth, what is dropped does not arrive, what passes does, and both are counted."""
    one, other = quiet_pair(network)
    with put(loaded, other, mode=asked, means=means) as attached:
        assert (attached.means, attached.mode) == (means, got)
        assert status(other) == XdpStatus(**{got: loaded.programs["drop_experimental"].info().id})
        assert status(other).modes == (got,)
        frames = (EXPERIMENTAL, OTHER, EXPERIMENTAL, EXPERIMENTAL, OTHER[:-1] + b"z")
        assert received(one, other, *frames) == [frames[1], frames[4]]
        assert [number(loaded.maps["hits"], slot) for slot in (0, 1)] == [3, 2]
    assert status(other) == XdpStatus()
    last = OTHER[:-1] + b"!"
    assert received(one, other, EXPERIMENTAL, last) == [EXPERIMENTAL, last]


def test_loopback(network: Network, loaded: Object) -> None:
    """lo has only the generic mode: auto and generic work and count, native is refused by type."""
    lo = End(network.namespace("lo"), "lo")
    modes: tuple[Mode, ...] = ("auto", "generic")
    for mode in modes:
        with put(loaded, lo, mode=mode) as attached:
            assert attached.mode == "generic"
            before = number(loaded.maps["hits"], 1)
            with lo.netns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"x", ("127.0.0.1", 9))
            # The packet itself, and ICMP that nobody listens.
            assert number(loaded.maps["hits"], 1) == before + 2
    with pytest.raises(FeatureMissing, match=r"attach XDP to interface 1: .*has no native mode"):
        put(loaded, lo, mode="native")
    assert status(lo) == XdpStatus()


def test_offload(network: Network, loaded: Object) -> None:
    """A veth has nothing to offload to, and the error says so."""
    one, _ = quiet_pair(network)
    with pytest.raises(FeatureMissing, match="its driver has no offload mode") as got:
        put(loaded, one, mode="offload")
    assert got.value.errno == errno.EOPNOTSUPP
    assert status(one) == XdpStatus()


@pytest.mark.parametrize("theirs", ["link", "netlink"])
@pytest.mark.parametrize("ours", ["auto", "link", "netlink"])
def test_somebody_elses_program_stays(
    network: Network, loaded: Object, theirs: Means, ours: Means
) -> None:
    """Attaching where a program is is refused, names it, and changes nothing."""
    one, _ = quiet_pair(network)
    their_id = loaded.programs["pass_all"].info().id
    with put(loaded, one, "pass_all", means=theirs):
        with pytest.raises(AttachRefused, match=rf"program {their_id} \(native\) is there"):
            put(loaded, one, means=ours)
        assert status(one) == XdpStatus(native=their_id)
    with put(loaded, one, means=ours):
        assert status(one).native == loaded.programs["drop_experimental"].info().id


def test_replacing_when_told(network: Network, loaded: Object) -> None:
    """A program put there by netlink is replaced if asked for; its owner then leaves ours."""
    one, other = quiet_pair(network)
    theirs = put(loaded, other, "pass_all", means="netlink")
    with put(loaded, other, replace=True) as ours:
        assert ours.means == "netlink"
        assert status(other).native == loaded.programs["drop_experimental"].info().id
        with pytest.raises(BpfError, match=r"ENOENT.*program \d+ is not there"):
            _ = theirs.mode
        with pytest.raises(AttachRefused, match="another program has taken its place"):
            theirs.detach()
        last = OTHER[:-1] + b"."
        assert received(one, other, EXPERIMENTAL, last) == [last]
    assert status(other) == XdpStatus()


def test_a_link_is_its_owners(network: Network, loaded: Object) -> None:
    """What a link holds is not replaced even if told to; a link replaces nothing."""
    one, _ = quiet_pair(network)
    with put(loaded, one, "pass_all", means="link"):
        with pytest.raises(AttachRefused, match="a link holds the place"):
            put(loaded, one, replace=True)
        with pytest.raises(AttachRefused, match="is there and stays"):
            put(loaded, one, replace=True, means="link")
        assert status(one).native == loaded.programs["pass_all"].info().id


@pytest.mark.parametrize("means", ["link", "netlink"])
def test_closing_leaves_what_is_not_ours(network: Network, loaded: Object, means: Means) -> None:
    """Closing after somebody replaced ours, or twice, takes off nothing."""
    one, _ = quiet_pair(network)
    ours = put(loaded, one, means=means)
    if means == "netlink":
        one.netns.run("ip", "link", "set", "dev", one.device, "xdp", "off")
    else:
        ours.detach()
    with put(loaded, one, "pass_all") as theirs:
        ours.close()
        ours.close()
        assert theirs.mode == "native"


@pytest.mark.parametrize("means", ["link", "netlink"])
def test_detach_reports(network: Network, loaded: Object, means: Means) -> None:
    """Detaching works once; again is an error. Closing on a device that is gone is none."""
    one, other = quiet_pair(network)
    ours = put(loaded, one, means=means)
    ours.detach()
    assert status(one) == XdpStatus()
    with pytest.raises(BpfError, match=r"EBADF.*it is detached already"):
        ours.detach()
    first, second = put(loaded, one, means=means), put(loaded, other, means=means)
    one.netns.ip("link", "del", one.device)
    first.close()
    second.close()


def test_errors(network: Network, loaded: Object) -> None:
    """No interface, no XDP program: by errno; and the next attempt works."""
    one, _ = quiet_pair(network)
    with pytest.raises(BpfError, match=r"interface 2000000: .*ENODEV"):
        XdpAttachment.attach(loaded.programs["pass_all"], 2_000_000)
    with pytest.raises(BpfError, match=r"interface 2000000: .*ENODEV"):
        query(2_000_000)
    with pytest.raises(BpfError, match="EINVAL"):
        put(loaded, one, "first")
    with put(loaded, one, "pass_all") as attached:
        assert attached.mode == "native"


def test_names_of_results() -> None:
    """Every verdict has its name; another number is unknown."""
    assert [XdpAction.name_of(number) for number in range(6)] == [
        "ABORTED", "DROP", "PASS", "TX", "REDIRECT", "unknown (5)",
    ]  # fmt: skip
