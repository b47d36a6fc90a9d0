"""Attaching beside others: the chain goes on, and what is not ours is left as it was."""

from __future__ import annotations

from contextlib import closing, nullcontext, suppress
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from exporter.capture.config import CaptureConfig
from exporter.capture.fetcher import FlowFetcher, NetworkInterface
from exporter.ebpf.errors import AttachRefused, BpfError
from exporter.ebpf.links import Direction, Hook, attach
from exporter.ebpf.object import Object, ObjectSpec
from tests.compile import compile_bpf
from tests.e2e.net import End, Network
from tests.kernel.hooks import quiet_pair, send, watching

FRAME = bytes(
    Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    / IP(src="192.0.2.1", dst="192.0.2.2")
    / UDP(sport=1, dport=2)
)
DROP = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int drop(struct __sk_buff *skb) { return 2; /* TC_ACT_SHOT */ }
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def drop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An object with one program that drops every packet."""
    directory = tmp_path_factory.mktemp("bpf")
    source, target = directory / "drop.bpf.c", directory / "drop.bpf.o"
    source.write_text(DROP)
    return compile_bpf(source, target)


@pytest.mark.parametrize("hook", ["tcx", "tc"])
def test_two_agents_see_the_same(network: Network, hook: str) -> None:
    """Two fetchers on one device: neither ends the chain, both count every packet."""
    one, _ = quiet_pair(network)
    with watching(one, hook=hook) as first, watching(one, hook=hook) as second:
        send(one, FRAME, FRAME, FRAME)
        assert first.counts().seen.packets == second.counts().seen.packets == 3
        assert first.counts().outcome("aggregated") == second.counts().outcome("aggregated")


@pytest.mark.parametrize("hook", ["tcx", "tc"])
def test_a_program_that_drops(network: Network, drop: Path, hook: Hook) -> None:
    """
    Packets that another program drops are seen on the way in, where they did arrive, and not on the
    way out, where they do not leave; and they stay dropped.
    """
    one, other = quiet_pair(network)
    with Object.load(ObjectSpec.open(drop)) as loaded:
        program = loaded.programs["drop"]
        for end, direction, seen in ((other, "ingress", 1), (one, "egress", 0)):
            ours: Direction = "ingress" if direction == "ingress" else "egress"
            index = end.netns.index(end.device)
            theirs = attach({ours: program}, index, hook, end.netns.path)
            with (
                closing(theirs),
                watching(end, hook=hook, ingress=ours == "ingress", egress=ours == "egress") as f,
            ):
                # A socket is told when what it sends is dropped on the way out.
                with suppress(OSError) if ours == "egress" else nullcontext():
                    send(one, FRAME)
                assert f.counts().seen.packets == seen


def qdiscs(end: End) -> str:
    return end.netns.run("tc", "qdisc", "show", "dev", end.device)


def filters(end: End) -> str:
    return "".join(
        end.netns.run("tc", "filter", "show", "dev", end.device, way)
        for way in ("ingress", "egress")
    )


def add_filter(end: End, drop: Path, way: str, priority: int) -> None:
    """A filter of somebody else's, by iproute2."""
    end.netns.run("tc", "filter", "add", "dev", end.device, way, "prio", str(priority), "protocol",
                  "all", "bpf", "da", "obj", str(drop), "sec", "tc")  # fmt: skip


@pytest.mark.parametrize("priority", [1, 100, 65535])
def test_foreign_qdisc_and_filters_stay(network: Network, drop: Path, priority: int) -> None:
    """A clsact qdisc with filters that was there before us is there, unchanged, after us."""
    one, _ = quiet_pair(network)
    one.netns.run("tc", "qdisc", "add", "dev", one.device, "clsact")
    add_filter(one, drop, "ingress", priority)
    add_filter(one, drop, "egress", priority)
    before = (qdiscs(one), filters(one))
    with watching(one, hook="tc"):
        assert filters(one).count(" bpf ") > before[1].count(" bpf ")
    assert (qdiscs(one), filters(one)) == before


def test_our_qdisc_stays_while_others_use_it(network: Network, drop: Path) -> None:
    """The qdisc that we made is not deleted under somebody's filter."""
    one, _ = quiet_pair(network)
    with watching(one, hook="tc"):
        add_filter(one, drop, "egress", 50)
    assert "clsact" in qdiscs(one)
    assert "pref 50" in filters(one)
    assert "tc_egress" not in filters(one)


def test_an_ingress_qdisc_is_not_replaced(network: Network) -> None:
    """Where another qdisc holds clsact's place we say so, and leave it."""
    one, _ = quiet_pair(network)
    one.netns.run("tc", "qdisc", "add", "dev", one.device, "ingress")
    before = qdiscs(one)
    with FlowFetcher(CaptureConfig(hook="tc")) as fetcher, one.netns.entered():
        interface = NetworkInterface(one.netns.index(one.device), one.device)
        with pytest.raises(AttachRefused, match="qdisc of kind ingress"):
            fetcher.register(interface)
        assert fetcher.points() == 0
    assert qdiscs(one) == before


@pytest.mark.parametrize("hook", ["tcx", "tc"])
def test_an_interface_that_is_not_there(hook: str) -> None:
    """ENODEV, and nothing is remembered."""
    with FlowFetcher(CaptureConfig(hook=hook)) as fetcher:
        with pytest.raises(BpfError):
            fetcher.register(NetworkInterface(2_000_000, "ghost"))
        assert fetcher.points() == 0


@pytest.mark.parametrize("hook", ["tcx", "tc"])
def test_a_device_that_goes_first(network: Network, hook: str) -> None:
    """Detaching from a device, or a namespace, that is gone is not an error."""
    one, other = quiet_pair(network)
    with watching(one, other, hook=hook):
        one.netns.ip("link", "del", one.device)
    gone = quiet_pair(network)[0]
    with watching(gone, hook=hook):
        network.remove(gone.netns)
