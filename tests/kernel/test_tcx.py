"""TCX: a place in the chain by anchor, what is on a hook, and taking off what is ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from exporter.ebpf import features
from exporter.ebpf.errors import BpfError, FeatureMissing
from exporter.ebpf.object import Object
from exporter.ebpf.tcx import Anchor, Attached, TcxLink, query
from tests.e2e.net import End, Network
from tests.kernel.hooks import quiet_pair, send
from tests.kernel.samples import OTHER, load, number


@pytest.fixture(autouse=True)
def _tcx() -> None:
    try:
        features.require("tcx")
    except FeatureMissing as err:
        pytest.skip(str(err))


@pytest.fixture
def loaded() -> Iterator[Object]:
    with load("first", "second", "third", "pass_all") as made:
        yield made


def trail(loaded: Object, sender: End) -> str:
    """The programs that see one more frame, in their order."""
    loaded.maps["trail"].update(bytes(4), bytes(8))
    send(sender, OTHER)
    return str(number(loaded.maps["trail"]))


class Hook:
    """The ingress of one device."""

    def __init__(self, loaded: Object, end: End, opened: ExitStack) -> None:
        self._loaded, self._end, self._opened = loaded, end, opened
        self.index = end.netns.index(end.device)

    def attach(self, name: str, anchor: Anchor | None = None, revision: int = 0) -> TcxLink:
        link = TcxLink.attach(
            self._loaded.programs[name], self.index, "ingress",
            anchor=anchor, expected_revision=revision, netns=self._end.netns.path,
        )  # fmt: skip
        return self._opened.enter_context(link)

    def attached(self, name: str, link: TcxLink) -> Attached:
        return Attached(self._loaded.programs[name].info().id, link.id)


ORDERS = [
    (None, None, "123"),
    (Anchor("head"), Anchor("head"), "321"),
    (Anchor("tail"), Anchor("head"), "312"),
]


@pytest.mark.parametrize(("of_second", "of_third", "order"), ORDERS)
def test_head_and_tail(
    network: Network, loaded: Object, of_second: Anchor | None, of_third: Anchor | None, order: str
) -> None:
    """A packet meets the programs in the order that anchors say; the tail is the default."""
    one, other = quiet_pair(network)
    with ExitStack() as opened:
        hook = Hook(loaded, one, opened)
        links = {
            "1": ("first", hook.attach("first")),
            "2": ("second", hook.attach("second", of_second)),
            "3": ("third", hook.attach("third", of_third)),
        }
        assert trail(loaded, other) == order
        chain = query(hook.index, "ingress", one.netns.path)
        assert chain.programs == tuple(hook.attached(*links[digit]) for digit in order)
        assert query(hook.index, "egress", one.netns.path).programs == ()
    assert query(hook.index, "ingress", one.netns.path).programs == ()


@pytest.mark.parametrize(("place", "order"), [("before", "1324"), ("after", "1234")])
def test_beside_another_link(network: Network, place: str, order: str) -> None:
    """Before and after a link that is neither the first nor the last."""
    one, other = quiet_pair(network)
    with load("first", "second", "third") as loaded, ExitStack() as opened:
        hook = Hook(loaded, one, opened)
        hook.attach("first")
        second = hook.attach("second")
        beside = (
            Anchor("before", link_id=second.id)
            if place == "before"
            else Anchor("after", link_id=second.id)
        )
        hook.attach("third", beside)
        assert trail(loaded, other) == order[:-1]


def test_beside_a_program(network: Network, loaded: Object) -> None:
    """A program of the chain is an anchor as its link is."""
    one, other = quiet_pair(network)
    with ExitStack() as opened:
        hook = Hook(loaded, one, opened)
        hook.attach("first")
        hook.attach("second")
        program_id = loaded.programs["first"].info().id
        hook.attach("third", Anchor("after", program_id=program_id))
        assert trail(loaded, other) == "132"


def test_an_anchor_that_is_not_there(network: Network, loaded: Object) -> None:
    """ENOENT names the link; a failed attempt changes nothing, and the next one works."""
    one, other = quiet_pair(network)
    with ExitStack() as opened:
        hook = Hook(loaded, one, opened)
        hook.attach("first")
        with pytest.raises(BpfError, match=r"attach to ingress of .*link 4000000 is not there"):
            hook.attach("second", Anchor("before", link_id=4_000_000))
        assert trail(loaded, other) == "1"
        hook.attach("second", Anchor("head"))
        assert trail(loaded, other) == "21"


def test_expected_revision(network: Network, loaded: Object) -> None:
    """Who looked at a chain that has changed since is refused; who looked at this one is not."""
    one, _ = quiet_pair(network)
    with ExitStack() as opened:
        hook = Hook(loaded, one, opened)
        hook.attach("first")
        seen = query(hook.index, "ingress", one.netns.path).revision
        hook.attach("second", revision=seen)
        assert query(hook.index, "ingress", one.netns.path).revision > seen
        with pytest.raises(BpfError, match=r"ESTALE.*another revision"):
            hook.attach("third", revision=seen)


def test_one_program_once(network: Network, loaded: Object) -> None:
    """The kernel takes a program only once on a hook, and the error says why."""
    one, _ = quiet_pair(network)
    with ExitStack() as opened:
        hook = Hook(loaded, one, opened)
        hook.attach("first")
        with pytest.raises(BpfError, match=r"EEXIST.*this program is there already"):
            hook.attach("first")


def test_detach_reports(network: Network, loaded: Object) -> None:
    """Detaching works at once; again, and of a device that is gone, is an error."""
    one, other = quiet_pair(network)
    with ExitStack() as opened:
        hook = Hook(loaded, one, opened)
        link, second = hook.attach("first"), hook.attach("second")
        link.detach()
        assert trail(loaded, other) == "2"
        with pytest.raises(BpfError, match=r"detach from ingress of interface \d+: .*ENOLINK"):
            link.detach()
        one.netns.ip("link", "del", one.device)
        with pytest.raises(BpfError, match="ENOLINK"):
            second.detach()
        link.close()
        link.close()
        with pytest.raises(BpfError, match="detach from"):
            link.detach()


def test_errors(network: Network, loaded: Object) -> None:
    """A missing interface and a program of another type, each by its errno."""
    one, _ = quiet_pair(network)
    index = one.netns.index(one.device)
    with pytest.raises(BpfError, match=r"attach to egress of interface 2000000: .*ENODEV"):
        TcxLink.attach(loaded.programs["first"], 2_000_000, "egress")
    with pytest.raises(BpfError, match="EINVAL"):
        TcxLink.attach(loaded.programs["pass_all"], index, "ingress", netns=one.netns.path)
    with pytest.raises(BpfError, match=r"query ingress of interface 2000000: .*ENODEV"):
        query(2_000_000, "ingress")
    with pytest.raises(FileNotFoundError):
        query(1, "ingress", "/var/run/netns/no-such-namespace")
