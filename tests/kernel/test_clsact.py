"""Filters on clsact: several programs at one priority, nobody's place taken, errors told."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.ebpf.clsact import FIRST_HANDLE, ClsactFilter, FilterOptions
from exporter.ebpf.errors import AttachRefused, BpfError
from exporter.ebpf.links import Direction, Hook, attach
from exporter.ebpf.object import Object
from exporter.ebpf.programs import Program
from exporter.ebpf.qdisc import filters
from tests.compile import compile_bpf
from tests.e2e.net import End, Network
from tests.kernel.hooks import quiet_pair, send
from tests.kernel.samples import OTHER, load, number


@pytest.fixture
def loaded() -> Iterator[Object]:
    with load("first", "second", "third", "shot", "pass_all") as made:
        yield made


def put(loaded: Object, end: End, name: str, options: FilterOptions | None = None) -> ClsactFilter:
    """A program on a device's ingress."""
    index = end.netns.index(end.device)
    return ClsactFilter.attach(loaded.programs[name], index, "ingress", options, end.netns.path)


def trail(loaded: Object, sender: End) -> str:
    """The programs that see one more frame, in their order."""
    loaded.maps["trail"].update(bytes(4), bytes(8))
    send(sender, OTHER)
    return str(number(loaded.maps["trail"]))


def qdiscs(end: End) -> str:
    return end.netns.run("tc", "qdisc", "show", "dev", end.device)


def filter_object(directory: Path) -> Path:
    """An object that iproute2 can load by section: one classifier."""
    source = directory / "next.bpf.c"
    source.write_text('__attribute__((section("tc"))) int next(void *skb) { return -1; }')
    return compile_bpf(source, directory / "next.bpf.o")


def places(end: End) -> list[tuple[int, int]]:
    """(priority, handle) of the filters on the ingress."""
    found = filters(end.netns.index(end.device), "ingress", end.netns.path)
    return [(one.priority, one.handle) for one in found]


def test_several_at_one_priority(network: Network, loaded: Object) -> None:
    """Programs at one priority get the first free handles from 0x1600 on; a gap is used again."""
    one, other = quiet_pair(network)
    options = FilterOptions(priority=7)
    with (
        put(loaded, one, "first", options) as first,
        put(loaded, one, "second", options) as second,
    ):
        assert FIRST_HANDLE == 0x1600
        assert [first.options.handle, second.options.handle] == [0x1600, 0x1601]
        assert sorted(places(one)) == [(7, 0x1600), (7, 0x1601)]
        first.detach()
        with put(loaded, one, "third", options) as third:
            assert third.options == FilterOptions(priority=7, handle=0x1600)
            assert len(places(one)) == 2
            assert sorted(trail(loaded, other)) == ["2", "3"]
    assert places(one) == []
    assert "clsact" not in qdiscs(one)


def test_priorities_are_an_order(network: Network, loaded: Object) -> None:
    """Lower priorities run first; without one, a filter is before all others on ingress."""
    one, other = quiet_pair(network)
    with (
        put(loaded, one, "second", FilterOptions(priority=50)),
        put(loaded, one, "third", FilterOptions(priority=60)),
        put(loaded, one, "first") as ours,
    ):
        assert ours.options.priority == 49
        assert trail(loaded, other) == "123"


def test_a_handle_that_is_taken(network: Network, loaded: Object) -> None:
    """Somebody's filter is not replaced, and a failed attempt does not spoil the next."""
    one, other = quiet_pair(network)
    wanted = FilterOptions(priority=3, handle=0x42)
    with put(loaded, one, "first", wanted):
        with pytest.raises(AttachRefused, match="handle 0x42 of priority 3 is taken"):
            put(loaded, one, "second", wanted)
        assert trail(loaded, other) == "1"
        with put(loaded, one, "second", FilterOptions(priority=3)) as second:
            assert second.options.handle == 0x1600
            assert trail(loaded, other) in ("12", "21")


def test_a_failed_attach_leaves_nothing(network: Network, loaded: Object) -> None:
    """Not even the qdisc; and the same program then attaches where it can."""
    one, other = quiet_pair(network)
    with pytest.raises(BpfError, match="ENODEV"):
        ClsactFilter.attach(loaded.programs["first"], 2_000_000, "ingress")
    with pytest.raises(BpfError, match=r"attach to ingress of interface .*EINVAL"):
        put(loaded, one, "pass_all")
    assert "clsact" not in qdiscs(one)
    with put(loaded, one, "first"):
        assert trail(loaded, other) == "1"


@pytest.mark.parametrize("hook", ["tcx", "tc"])
def test_all_or_none(network: Network, loaded: Object, hook: Hook) -> None:
    """If one of two hooks fails, the other one is taken back."""
    one, other = quiet_pair(network)
    programs: dict[Direction, Program] = {
        "ingress": loaded.programs["first"],
        "egress": loaded.programs["pass_all"],
    }
    with pytest.raises(BpfError, match="attach to egress"):
        attach(programs, one.netns.index(one.device), hook, one.netns.path)
    assert "clsact" not in qdiscs(one)
    assert trail(loaded, other) == "0"


@pytest.mark.parametrize(("direct", "drops"), [(True, 1), (False, 0)])
def test_direct_action(network: Network, loaded: Object, direct: bool, drops: int) -> None:
    """With direct action the return value 2 drops; without, it is a class and drops nothing."""
    one, other = quiet_pair(network)
    with put(loaded, one, "shot", FilterOptions(direct_action=direct)):
        (shown,) = filters(one.netns.index(one.device), "ingress", one.netns.path)
        assert (shown.direct_action, shown.name.partition(":")[0]) == (direct, "shot")
        assert shown.program_id == loaded.programs["shot"].info().id
        send(other, OTHER)
        assert number(loaded.maps["hits"]) == 1
        told = one.netns.run("tc", "-s", "-j", "qdisc", "show", "dev", one.device)
        (clsact,) = [qdisc for qdisc in json.loads(told) if qdisc["kind"] == "clsact"]
        assert clsact["drops"] == drops
    assert places(one) == []


def test_a_name(network: Network, loaded: Object) -> None:
    """A filter has the name that it is given."""
    one, other = quiet_pair(network)
    with put(loaded, one, "first", FilterOptions(name="flow-exporter")):
        (shown,) = filters(one.netns.index(one.device), "ingress", one.netns.path)
        assert (shown.name, shown.direct_action, shown.handle) == ("flow-exporter", True, 0x1600)
        assert trail(loaded, other) == "1"


def test_an_ingress_qdisc_is_replaced_only_when_told(
    network: Network, loaded: Object, caplog: pytest.LogCaptureFixture
) -> None:
    """A foreign qdisc is refused; clobbered, it is replaced by clsact, and that is said."""
    one, other = quiet_pair(network)
    one.netns.run("tc", "qdisc", "add", "dev", one.device, "ingress")
    with pytest.raises(AttachRefused, match="qdisc of kind ingress holds the place of clsact"):
        put(loaded, one, "first")
    assert "qdisc ingress" in qdiscs(one)
    with (
        caplog.at_level(logging.WARNING),
        put(loaded, one, "first", FilterOptions(clobber=True)) as ours,
    ):
        assert ours.qdisc.replaced == "ingress"
        assert caplog.messages == [
            f"interface {ours.ifindex}: the ingress qdisc was replaced by clsact"
        ]
        assert "qdisc clsact" in qdiscs(one)
        assert trail(loaded, other) == "1"


def test_detach_reports(network: Network, loaded: Object) -> None:
    """A filter that is not there any more, a qdisc or device that is gone: errors, not silence."""
    one, other = quiet_pair(network)
    one.netns.run("tc", "qdisc", "add", "dev", one.device, "clsact")
    ours = put(loaded, one, "first", FilterOptions(priority=1))
    ours.detach()
    assert trail(loaded, other) == "0"
    with pytest.raises(BpfError, match="it is detached already"):
        ours.detach()
    ours.close()
    for remove in (
        ("tc", "filter", "del", "dev", one.device, "ingress"),
        ("tc", "qdisc", "del", "dev", one.device, "clsact"),
        ("ip", "link", "del", one.device),
    ):
        ours = put(loaded, one, "first", FilterOptions(priority=1))
        one.netns.run(*remove)
        with pytest.raises(BpfError, match="detach from ingress of interface"):
            ours.detach()
        ours.close()


def test_a_place_that_another_took(network: Network, loaded: Object) -> None:
    """Only our own program is taken off: one that replaced it stays, and that is an error."""
    one, other = quiet_pair(network)
    one.netns.run("tc", "qdisc", "add", "dev", one.device, "clsact")
    wanted = FilterOptions(priority=1, handle=1)
    ours = put(loaded, one, "first", wanted)
    one.netns.run("tc", "filter", "del", "dev", one.device, "ingress")
    with put(loaded, one, "second", wanted):
        with pytest.raises(AttachRefused, match=r"program \d+ has taken its place"):
            ours.detach()
        assert trail(loaded, other) == "2"


def test_a_priority_of_another_protocol(network: Network, loaded: Object, tmp_path: Path) -> None:
    """Beside a filter for another protocol at priority 1 there is still a place for ours."""
    one, other = quiet_pair(network)
    one.netns.run("tc", "qdisc", "add", "dev", one.device, "clsact")
    path = str(filter_object(tmp_path))
    one.netns.run("tc", "filter", "add", "dev", one.device, "ingress", "prio", "1", "protocol",
                  "ip", "bpf", "da", "obj", path, "sec", "tc")  # fmt: skip
    with put(loaded, one, "first") as ours:
        assert ours.options.priority == 2
        assert trail(loaded, other) == "1"
