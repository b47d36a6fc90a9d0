"""No flow is given another interface, container or pod than its own, whatever is used anew."""

from __future__ import annotations

import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from tests.e2e.agent import Agent, wait_until
from tests.e2e.containers import Container, cgroups, wire
from tests.e2e.net import End, Netns, Network
from tests.kernel.bpffs import bpffs
from tests.kernel.hooks import send

_LIVES = 50
_INDEX, _INNER_INDEX = 1000, 7


def frame(port: int) -> bytes:
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    return bytes(ether / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=port, dport=53))


class Slot:
    """
    Containers one after the other, in a place where everything is used anew: the name of the
    namespace, the names and the indexes of both interfaces.
    """

    def __init__(self, number: int, host: Netns, root: Path, agent: Agent) -> None:
        self._number = number
        self._host = host
        self._root = root
        self._agent = agent
        #: Port -> container, pod, packets.
        self.truth: dict[int, tuple[str, str, int]] = {}
        #: Ports of the containers that the agent knew of when they spoke.
        self.known: set[int] = set()
        self.error: BaseException | None = None

    def run(self, network: Network) -> None:
        try:
            for life in range(_LIVES):
                self._live(network, life)
        except BaseException as err:  # noqa: BLE001 - the test's thread raises it
            self.error = err

    def _live(self, network: Network, life: int) -> None:
        port, packets = 10_000 * (1 + self._number) + life, 1 + life % 7
        netns = network.namespace("", f"slot{self._number}")
        with Container(self._root, netns, f"{self._number}.{life}") as container:
            self.truth[port] = container.id, container.pod, packets
            host, inner = End(self._host, "c0"), End(netns, "eth0")
            wire(host, _INDEX, inner, _INNER_INDEX)
            if life % 3:
                wait_until(partial(self._agent.says, f"is of container {container.id}"), "known")
                self.known.add(port)
            send(inner, *[frame(port)] * packets)
        # The namespace goes with the last that holds it, the pair at once.
        self._host.ip("link", "del", host.device)
        network.remove(netns)


def seen(records: list[dict[str, Any]]) -> tuple[Counter[Any], set[Any]]:
    """Packets by port and container; (port, name of the namespace, container, pod)."""
    packets: Counter[Any] = Counter()
    whose = set()
    for record in records:
        (at,) = record["flow"]["interfaces"]
        if record["network"]["transport"] == "udp":
            port = record["source"]["port"]
            container = at.get("container", {}).get("id", "")
            packets[port, container] += record["flow"]["packets"]
            pod = at.get("k8s", {}).get("pod", {}).get("uid", "")
            whose.add((port, at.get("netns", ""), container, pod))
            assert (at["name"], at["index"], at["kind"]) == ("c0", _INDEX, "veth")
            if container:
                assert (at["peer"]["name"], at["peer"]["index"]) == ("eth0", _INNER_INDEX)
    return packets, whose


def test_containers_come_and_go_a_hundred_times(network: Network, tmp_path: Path) -> None:
    """
    Two namespaces with an interface of the same name and index, behind each of them fifty
    containers one after the other, many within one drain: every packet is its own container's. A
    third of them are gone before they can be known: their packets are nobody's, or theirs.
    """
    hosts = [network.namespace("hub"), network.namespace("other")]
    for host in hosts:
        host.quiet()
    (tmp_path / "config.yaml").write_text(
        "capture:\n  containers: true\n  poll_interval: 100ms\n  netns: '/-other$/'\n"
    )
    with (
        cgroups(tmp_path / "cgroup") as root,
        Agent(hosts[0], tmp_path, "--config", str(tmp_path / "config.yaml"),
              "--drain-interval", "1s", "--dedupe", "none") as agent,
    ):  # fmt: skip
        slots = [Slot(number, host, root, agent) for number, host in enumerate(hosts)]
        threads = [threading.Thread(target=slot.run, args=(network,)) for slot in slots]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for slot in slots:
            if slot.error is not None:
                raise slot.error
        agent.wait_drained()
        assert agent.stop() == 0, agent.log
    packets, whose = seen(agent.records())
    for slot, name in zip(slots, ("", hosts[1].name), strict=True):
        truth = {(port, name, *whose[:2]) for port, whose in slot.truth.items()}
        theirs = {one for one in whose if one[0] in slot.truth}
        assert theirs <= truth | {(port, name, "", "") for port in slot.truth}
        assert {key: count for key, count in packets.items() if key[0] in slot.known} == {
            (port, slot.truth[port][0]): slot.truth[port][2] for port in slot.known
        }
        assert len(slot.known) > _LIVES / 2


def test_reused_while_no_agent_runs_or_none_has_drained(network: Network, tmp_path: Path) -> None:
    """
    An index is another interface's before the first drain, and the agent is killed: its successor
    gives the second what was counted there, also while no agent ran, and goes on. The first is
    nowhere written down any more: it has its index for a name, not the second's.
    """
    hub, inner = network.namespace("hub"), network.namespace("inner")
    hub.quiet()
    inner.quiet()
    sent = {"c0": 3, "c1": 5}
    with bpffs(tmp_path) as root:
        arguments = ["--pin", str(root / "agent"), "--drain-interval", "1h", "--max-flows", "5000"]
        (tmp_path / "first").mkdir()
        with Agent(hub, tmp_path / "first", *arguments) as first:
            for port, (name, packets) in enumerate(sent.items(), 1):
                wire(End(hub, name), _INDEX, End(inner, "eth0"), _INNER_INDEX)
                wait_until(partial(first.says, f"observing {name} "), f"{name} is observed")
                send(End(inner, "eth0"), *[frame(port)] * packets)
                if name == "c0":
                    hub.ip("link", "del", name)
                    wait_until(partial(first.says, f"interface {name} is gone"), "it is gone")
            first.process.kill()
            first.process.wait()
        send(End(inner, "eth0"), *[frame(3)] * 7)
        (tmp_path / "second").mkdir()
        with Agent(hub, tmp_path / "second", *arguments) as second:
            send(End(inner, "eth0"), *[frame(4)] * 2)
            assert second.stop() == 0, second.log
        names: Counter[tuple[int, str]] = Counter()
        for record in second.records():
            (at,) = record["flow"]["interfaces"]
            names[record["source"]["port"], at["name"]] += record["flow"]["packets"]
            assert "netns" not in at
        assert names == {(1, str(_INDEX)): 3, (2, "c1"): 5, (3, "c1"): 7, (4, "c1"): 2}
