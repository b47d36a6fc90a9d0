"""One packet seen at many observation points is counted once, and every point is listed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import traffic
from tests.e2e.agent import Agent
from tests.e2e.net import End, Netns, Network, neighbour, plug, switch_on

OVERLAY = {"c1": "10.8.0.1", "c2": "10.8.0.2", "c3": "10.8.0.3", "remote": "10.8.0.9"}
HOST, REMOTE = "192.0.2.1", "192.0.2.2"
VXLAN_OCTETS = 50  # Ethernet 14, IPv4 20, UDP 8, VXLAN 8


@dataclass(frozen=True)
class Host:
    """
    A host with a bridge, three containers on it, and a VXLAN to a remote host.

    ::

        c1 - v1 \\
        c2 - v2 -- br0 - vx0 ~ u0 - (remote) u1 ~ vx0
        c3 - v3 /
    """

    netns: Netns
    containers: dict[str, Netns]
    remote: Netns


@pytest.fixture
def host(network: Network) -> Host:
    hub, remote = network.namespace("host"), network.namespace("remote")
    containers = {name: network.namespace(name) for name in ("c1", "c2", "c3")}
    for namespace in (hub, remote, *containers.values()):
        namespace.quiet()
    plug(End(hub, "u0"), End(remote, "u1"))
    hub.ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
    for number, namespace in enumerate(containers.values(), 1):
        plug(End(hub, f"v{number}"), End(namespace, "eth0"), mtu=1400)
        hub.ip("link", "set", f"v{number}", "master", "br0")
    for namespace, local, far, device in ((hub, HOST, REMOTE, "u0"), (remote, REMOTE, HOST, "u1")):
        namespace.ip("link", "add", "vx0", "mtu", "1400", "type", "vxlan", "id", "42", "local",
                     local, "remote", far, "dstport", "4789", "dev", device)  # fmt: skip
    hub.ip("link", "set", "vx0", "master", "br0")
    return Host(hub, containers, remote)


def bring_up(host: Host) -> None:
    """Addresses, permanent neighbours and forwarding entries: no packet but the test's own."""
    host.netns.ip("addr", "add", f"{HOST}/24", "dev", "u0")
    host.remote.ip("addr", "add", f"{REMOTE}/24", "dev", "u1")
    host.remote.ip("addr", "add", f"{OVERLAY['remote']}/24", "dev", "vx0")
    ends = [End(host.netns, device) for device in ("u0", "br0", "v1", "v2", "v3", "vx0")]
    ends += [End(host.remote, device) for device in ("u1", "vx0")]
    ends += [End(container, "eth0") for container in host.containers.values()]
    switch_on(*ends)
    macs = {name: c.mac("eth0") for name, c in host.containers.items()}
    macs["remote"] = host.remote.mac("vx0")
    for name, container in host.containers.items():
        container.ip("addr", "add", f"{OVERLAY[name]}/24", "dev", "eth0")
        for other, address in OVERLAY.items():
            if other != name:
                neighbour(End(container, "eth0"), address, macs[other])
    for name in host.containers:
        neighbour(End(host.remote, "vx0"), OVERLAY[name], macs[name])
    neighbour(End(host.netns, "u0"), REMOTE, host.remote.mac("u1"))
    neighbour(End(host.remote, "u1"), HOST, host.netns.mac("u0"))
    places = {"c1": "v1", "c2": "v2", "c3": "v3", "remote": "vx0"}
    for name, device in places.items():
        host.netns.run("bridge", "fdb", "replace", macs[name], "dev", device, "master", "static")


Flow = tuple[str, str, str, int]


def sums(records: list[dict[str, Any]]) -> dict[Flow, tuple[int, int]]:
    """(source, destination, transport, destination port) -> packets, octets."""
    totals: dict[Flow, list[int]] = defaultdict(lambda: [0, 0])
    for record in records:
        place = totals[_flow(record)]
        place[0] += record["flow"]["packets"]
        place[1] += record["flow"]["bytes"]
    return {flow: (packets, octets) for flow, (packets, octets) in totals.items()}


def _flow(record: dict[str, Any]) -> Flow:
    return (
        record["source"]["address"],
        record["destination"]["address"],
        record["network"]["transport"],
        record["destination"].get("port", 0),
    )


def points(records: list[dict[str, Any]], flow: Flow) -> set[tuple[str, str, str]]:
    """Every (namespace, interface, direction) that some record of a flow lists."""
    return {
        (point.get("netns", ""), point["name"], point["direction"])
        for record in records
        if _flow(record) == flow
        for point in record["flow"]["interfaces"]
    }


def start_senders(host: Host) -> dict[Flow, tuple[int, int]]:
    """Traffic between containers and to the remote; what each flow has at its sender's device."""
    plan = [
        ("c1", "c2", 60_000, 7001, 64),
        ("c2", "c3", 60_000, 7002, 200),
        ("c3", "remote", 60_000, 7003, 300),
        ("c1", "remote", 30_000, 7004, 10),
    ]
    senders = [
        traffic.start(host.containers[source], "udp", "--host", OVERLAY[destination], "--count",
                      count, "--flows", 1, "--size", size, "--first_port", port)
        for source, destination, count, port, size in plan
    ]  # fmt: skip
    for sender in senders:
        traffic.finish(sender)
    return {
        (OVERLAY[source], OVERLAY[destination], "udp", port): (count, count * (42 + size))
        for source, destination, count, port, size in plan
    }


def test_a_bridge_and_a_vxlan(host: Host, tmp_path: Path) -> None:
    """
    A bridge with three veth ports and a VXLAN device: each packet is counted once over more than
    ten drains, all its points are listed, and the tunnelling packets are flows of their own.
    """
    with Agent(host.netns, tmp_path, "--drain-interval", "0.1s", "--metrics-address",
               "127.0.0.1:9401") as agent:  # fmt: skip
        bring_up(host)
        sent = start_senders(host)
        uplink = End(host.netns, "u0").counters()
        ledger = agent.wait_drained()
        drains = agent.drains()
        assert agent.stop() == 0, agent.log
    records = agent.records()
    totals = sums(records)
    assert drains > 10
    for flow, expected in sent.items():
        assert totals[flow] == expected, flow
    local = (OVERLAY["c1"], OVERLAY["c2"], "udp", 7001)
    assert points(records, local) == {("", "v1", "ingress"), ("", "v2", "egress")}
    tunnelled = (OVERLAY["c3"], OVERLAY["remote"], "udp", 7003)
    assert points(records, tunnelled) == {("", "v3", "ingress"), ("", "vx0", "egress")}
    outer = (HOST, REMOTE, "udp", 4789)
    inner = [totals[flow] for flow in sent if flow[1] == OVERLAY["remote"]]
    inner_packets = sum(packets for packets, _ in inner)
    assert totals[outer] == (
        inner_packets,
        sum(octets for _, octets in inner) + inner_packets * VXLAN_OCTETS,
    )
    assert points(records, outer) == {("", "u0", "egress")}
    assert uplink.tx_packets >= inner_packets
    assert ledger["deduplicated"]["packets"] >= sum(packets for packets, _ in sent.values())


def test_across_namespaces_too(host: Host, tmp_path: Path) -> None:
    """
    With the containers' namespaces watched as well, where every interface is called eth0 and has
    the same index, a packet is still counted once and its points are told apart.
    """
    pattern = "/-(" + "|".join(host.containers) + ")$/"
    indexes = {c.index("eth0") for c in host.containers.values()}
    assert len(indexes) == 1, "the indexes collide, which is the point"
    with Agent(host.netns, tmp_path, "--drain-interval", "0.1s", "--netns", pattern) as agent:
        bring_up(host)
        sent = start_senders(host)
        agent.wait_drained()
        assert agent.stop() == 0, agent.log
    records = agent.records()
    totals = sums(records)
    for flow, expected in sent.items():
        assert totals[flow] == expected, flow
    names = {name: c.name for name, c in host.containers.items()}
    assert points(records, (OVERLAY["c1"], OVERLAY["c2"], "udp", 7001)) == {
        (names["c1"], "eth0", "egress"),
        ("", "v1", "ingress"),
        ("", "v2", "egress"),
        (names["c2"], "eth0", "ingress"),
    }


@pytest.mark.parametrize("mode", ["none", "mark", "drop"])
def test_the_other_modes(host: Host, tmp_path: Path, mode: str) -> None:
    """
    ``none`` has every point's record, ``mark`` marks all but one of them, ``drop`` has that one:
    the unmarked add up to what was sent in both, and all points of a flow agree.
    """
    with Agent(host.netns, tmp_path, "--drain-interval", "0.1s", "--dedupe", mode) as agent:
        bring_up(host)
        sent = start_senders(host)
        ledger = agent.wait_drained()
        assert agent.stop() == 0, agent.log
    records = agent.records()
    unmarked = [r for r in records if not r["flow"].get("duplicate")]
    for flow, expected in sent.items():
        packets, octets = expected
        if mode == "none":
            assert sums(records)[flow] == (2 * packets, 2 * octets)
        else:
            assert sums(unmarked)[flow] == expected
    assert all(len(record["flow"]["interfaces"]) == 1 for record in records)
    marked = [r for r in records if r["flow"].get("duplicate") and _flow(r) in sent]
    assert sums(marked) == (sent if mode == "mark" else {})
    assert (ledger["deduplicated"]["packets"] > 0) == (mode == "drop")


def test_a_flow_that_changes_its_way(network: Network, tmp_path: Path) -> None:
    """
    A flow whose route moves from one interface to another, and back, loses and doubles nothing.
    """
    one, two = network.namespace("one"), network.namespace("two")
    one.quiet()
    two.quiet()
    paths = [(End(one, f"p{n}"), End(two, f"q{n}")) for n in range(2)]
    for path in paths:
        plug(*path)
    with Agent(one, tmp_path, "--drain-interval", "0.1s") as agent:
        two.ip("addr", "add", "10.7.0.1/32", "dev", "lo")
        one.ip("addr", "add", "10.7.0.2/32", "dev", "lo")
        for number, (near, far) in enumerate(paths):
            near.netns.ip("addr", "add", f"10.7.{number + 1}.1/24", "dev", near.device)
            switch_on(near, far)
            neighbour(near, f"10.7.{number + 1}.2", far.netns.mac(far.device))
        for turn in range(6):
            via, device = f"10.7.{turn % 2 + 1}.2", f"p{turn % 2}"
            one.ip("route", "replace", "10.7.0.1", "via", via, "dev", device, "src", "10.7.0.2")
            traffic.run(one, "udp", "--host", "10.7.0.1", "--count", 20_000, "--flows", 1,
                        "--size", 64, "--first_port", 9)  # fmt: skip
        agent.wait_drained()
        assert agent.stop() == 0, agent.log
    packets = sum(
        record["flow"]["packets"]
        for record in agent.records()
        if record["destination"]["address"] == "10.7.0.1"
    )
    assert packets == 6 * 20_000
