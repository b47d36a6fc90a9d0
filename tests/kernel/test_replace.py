"""A live hook gets another program, and no packet passes unseen or is seen twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.ebpf import replace
from exporter.ebpf.errors import BpfError, LinkDefunct, PinMissing
from exporter.ebpf.links import Direction
from exporter.ebpf.object import Object, ObjectSpec
from tests.compile import compile_bpf
from tests.e2e import traffic
from tests.e2e.net import End, Network, connect, veth
from tests.kernel.bpffs import bpffs
from tests.kernel.hooks import quiet_pair, send
from tests.kernel.test_links import FRAME

INGRESS: Direction = "ingress"
COUNT = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} packets SEC(".maps");
SEC("tc") int count(struct __sk_buff *skb)
{
    __u32 zero = 0;
    __u64 *seen = bpf_map_lookup_elem(&packets, &zero);
    if (seen)
        __sync_fetch_and_add(seen, 1);
    return -1;
}
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> ObjectSpec:
    directory = tmp_path_factory.mktemp("bpf")
    source = directory / "count.bpf.c"
    source.write_text(COUNT)
    return ObjectSpec.open(compile_bpf(source, directory / "count.bpf.o"))


@pytest.fixture
def two(counter: ObjectSpec) -> Iterator[tuple[Object, Object]]:
    """Two copies of a program that counts, each with a map of its own."""
    with Object.load(counter) as one, Object.load(counter) as other:
        yield one, other


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Path]:
    with bpffs(tmp_path) as root:
        yield root / "link"


def counted(loaded: Object) -> int:
    return int.from_bytes(loaded.maps["packets"].lookup(bytes(4)), "little")


def ids(loaded: Object) -> set[int]:
    return {loaded.programs["count"].info().id}


@pytest.mark.parametrize("hook", ["tcx", "tc"])
def test_no_packet_is_unseen(
    network: Network, two: tuple[Object, Object], link: Path, hook: str
) -> None:
    """A hundred swaps under traffic: what the two programs counted together is what was sent."""
    one, other = End(network.namespace("a"), "va"), End(network.namespace("b"), "vb")
    one.netns.quiet()
    other.netns.quiet()
    veth(one, other, (("192.0.2.1/24",), ("192.0.2.2/24",)))
    index = one.netns.index(one.device)
    known = ids(two[0]) | ids(two[1])
    with one.netns.entered():
        place = replace.choose_place(index, "egress") if hook == "tc" else None

        def have(loaded: Object) -> bool:
            if place is None:
                return replace.upsert_tcx(link, loaded.programs["count"], index, "egress")
            return replace.upsert_filter(
                loaded.programs["count"], index, "egress", place, known.__contains__
            )

        assert not have(two[0])
        before = one.counters()
        sender = traffic.start(one.netns, "udp", "--host", "192.0.2.2", "--count", 200_000,
                               "--flows", 1, "--size", 9, "--first_port", 9)  # fmt: skip
        swaps = 0
        while sender.poll() is None or swaps < 100:
            assert have(two[swaps % 2])
            swaps += 1
        traffic.finish(sender)
        sent = (one.counters() - before).tx_packets
        assert sent == 200_000
        assert counted(two[0]) + counted(two[1]) == sent
        assert counted(two[0]) > 0
        assert counted(two[1]) > 0
        if place is not None:
            assert replace.remove_filter(index, "egress", place, known.__contains__)


@pytest.mark.usefixtures("tcx")
def test_a_link_is_pinned_until_it_is_unpinned(
    network: Network, two: tuple[Object, Object], link: Path
) -> None:
    """
    The program runs as long as the link has a name, though no descriptor is left; once it is
    removed not one more packet is seen. An unlink alone detaches some time later.
    """
    one, _ = quiet_pair(network)
    with one.netns.entered():
        replace.upsert_tcx(link, two[0].programs["count"], one.netns.index(one.device), "egress")
    send(one, FRAME)
    assert replace.remove_link(link)
    assert not replace.remove_link(link)
    send(one, FRAME)
    assert counted(two[0]) == 1


@pytest.mark.usefixtures("tcx")
def test_a_link_whose_interface_is_gone(
    network: Network, two: tuple[Object, Object], link: Path
) -> None:
    """ENOLINK is an error of its own; upsert makes a link on the interface that there is now."""
    one, other = quiet_pair(network)
    program, index = two[0].programs["count"], one.netns.index(one.device)
    with pytest.raises(PinMissing):
        replace.update_link(link, program)
    with one.netns.entered():
        replace.upsert_tcx(link, program, index, "egress")
        one.netns.ip("link", "del", one.device)
        with pytest.raises(LinkDefunct, match="ENOLINK"):
            replace.update_link(link, program)
        one.netns.ip("link", "add", one.device, "index", str(index), "type", "veth", "peer",
                     "name", "vb", "netns", other.netns.name)  # fmt: skip
        connect(one, other)
        assert not replace.upsert_tcx(link, program, index, "egress")
    send(one, FRAME)
    assert counted(two[0]) == 1


def test_a_foreign_filter_is_left_alone(network: Network, two: tuple[Object, Object]) -> None:
    """A filter that somebody put in our place is neither replaced nor removed; nor is its qdisc."""
    one, _ = quiet_pair(network)
    ours, theirs = two
    index, way = one.netns.index(one.device), INGRESS
    with one.netns.entered():
        place = replace.choose_place(index, way)
        assert place.made_qdisc
        replace.upsert_filter(theirs.programs["count"], index, way, place, lambda _: False)
        known = ids(ours)
        with pytest.raises(BpfError, match="EEXIST"):
            replace.upsert_filter(ours.programs["count"], index, way, place, known.__contains__)
        assert not replace.remove_filter(index, way, place, known.__contains__)
        assert {replace.filter_program(index, way, place)} == ids(theirs)
        assert replace.choose_place(index, way) != place
        assert replace.remove_filter(index, way, place, ids(theirs).__contains__)
        assert replace.filter_program(index, way, place) is None
    assert "clsact" not in one.netns.run("tc", "qdisc", "show", "dev", one.device)
