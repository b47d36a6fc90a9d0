"""The ledger closes to the packet and the octet, whatever is full, gone or in a hurry."""

from __future__ import annotations

import socket
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import traffic
from tests.e2e.agent import PROGRAM, Agent, wait_until
from tests.e2e.net import End, Network, connect, disconnect, plug, veth
from tests.e2e.test_exact import ADDRESSES, V4, pair


def seen_and_lost(ledger: dict[str, Any]) -> tuple[dict[str, int], int]:
    """What the hooks saw, and how many packets no record has."""
    lost = sum(tally["packets"] for tally in ledger["kernel"]["lost"].values())
    return ledger["kernel"]["seen"], lost


@pytest.mark.parametrize(
    ("arguments", "loses"),
    [
        pytest.param(["--max-flows", "64"], False, id="full map, ring takes the rest"),
        pytest.param(["--max-flows", "64", "--ring-size", "4096"], True, id="full map, full ring"),
        pytest.param(["--max-flows", "16", "--sampling", "7"], False, id="full map, sampled"),
    ],
)
def test_a_full_map_and_a_full_ring(
    network: Network, tmp_path: Path, arguments: list[str], loses: bool
) -> None:
    """
    More flows than the map holds go through the ring, more than the ring holds are lost: seen =
    aggregated + ring + sampled out + lost, and what is exported is aggregated + ring.
    """
    one, other = pair(network)
    with Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.2s",
               *arguments) as agent:  # fmt: skip
        connect(one, other, ADDRESSES)
        for flows, size in ((2000, 64), (1, 1000), (5000, 10)):
            traffic.run(one.netns, "udp", "--host", V4[1], "--count", 30_000, "--flows", flows,
                        "--size", size, "--first_port", 10_000)  # fmt: skip
        counters = disconnect(one)
        ledger = agent.wait_drained()
        seen, lost = seen_and_lost(ledger)
        assert agent.stop() == 0, agent.log
    assert seen == {
        "packets": counters.tx_packets + counters.rx_packets,
        "octets": counters.tx_octets + counters.rx_octets,
    }
    assert (lost > 0) == loses
    kernel = ledger["kernel"]
    outcomes = ("aggregated", "ring", "sampled_out", "not_ip", "malformed", "filtered")
    for unit in ("packets", "octets"):
        rest = sum(kernel[name][unit] for name in outcomes)
        assert seen[unit] == rest + sum(tally[unit] for tally in kernel["lost"].values())
        exported = kernel["aggregated"][unit] + kernel["ring"][unit]
        assert ledger["drained"][unit] == exported
        assert agent.summary()[unit] == exported
    assert kernel["ring"]["packets"] > 0
    assert agent.packets() == kernel["aggregated"]["packets"] + kernel["ring"]["packets"]
    assert agent.summary()["lost"] == lost
    if "--sampling" in arguments:
        assert {record["sampling"]["interval"] for record in agent.records()} == {7}
        assert 0.8 < 7 * agent.packets() / seen["packets"] < 1.2


def test_fifty_interfaces(network: Network, tmp_path: Path) -> None:
    """
    Traffic over fifty interfaces at once: the hooks saw what the interfaces counted, all told.
    """
    hub = network.namespace("hub")
    leaf = network.namespace("leaf")
    ends = [(End(hub, f"h{n}"), End(leaf, f"l{n}")) for n in range(50)]
    for one, other in ends:
        plug(one, other)
    with Agent(hub, tmp_path, "--interfaces", "/^h[0-9]+$/", "--drain-interval", "0.2s",
               "--dedupe", "none") as agent:  # fmt: skip
        for number, (one, other) in enumerate(ends):
            connect(one, other, ((f"10.9.{number}.1/24",), (f"10.9.{number}.2/24",)))
        # By one process, which takes turns: fifty take long to start.
        with hub.entered(), socket.socket(type=socket.SOCK_DGRAM) as sender:
            for turn, number in product(range(400), range(50)):
                sender.sendto(bytes(number), (f"10.9.{number}.2", 9 + turn % 20))
        counters = [disconnect(one) for one, _ in ends]
        ledger = agent.wait_drained()
        assert agent.stop() == 0, agent.log
    packets = sum(c.tx_packets + c.rx_packets for c in counters)
    assert seen_and_lost(ledger) == (
        {"packets": packets, "octets": sum(c.tx_octets + c.rx_octets for c in counters)},
        0,
    )
    assert packets >= 50 * 400
    by_interface = {f"h{number}": 0 for number in range(50)}
    for record in agent.records():
        (point,) = record["flow"]["interfaces"]
        by_interface[point["name"]] += record["flow"]["packets"]
    assert list(by_interface.values()) == [c.tx_packets + c.rx_packets for c in counters]


def test_interfaces_removed_and_added_under_traffic(network: Network, tmp_path: Path) -> None:
    """
    Interfaces vanish while packets pass and others appear: every new one is observed, the ledger
    closes, and what passed an interface that stayed is exact.
    """
    hub, leaf = network.namespace("hub"), network.namespace("leaf")
    stays = (End(hub, "s0"), End(leaf, "s1"))
    plug(*stays)
    with Agent(hub, tmp_path, "--interfaces", "/^[sg]/", "--drain-interval", "0.1s",
               "--dedupe", "none") as agent:  # fmt: skip
        connect(*stays, (("192.0.2.1/24",), ("192.0.2.2/24",)))
        steady = traffic.start(hub, "udp", "--host", "192.0.2.2", "--count", 300_000, "--flows", 50,
                               "--size", 64, "--first_port", 9)  # fmt: skip
        for number in range(12):
            goes = (End(hub, f"g{number}"), End(leaf, f"h{number}"))
            plug(*goes)
            wait_until(partial(agent.says, f"observing g{number} "), f"g{number} is observed")
            connect(*goes, ((f"10.9.{number}.1/24",), (f"10.9.{number}.2/24",)))
            sender = traffic.start(hub, "udp", "--host", f"10.9.{number}.2", "--count", 100_000,
                                   "--flows", 5, "--size", 64, "--first_port", 9)  # fmt: skip
            under_way = partial(_has_sent, goes[0], 1000)
            wait_until(under_way, f"packets pass g{number}")
            hub.ip("link", "del", f"g{number}")
            sender.kill()
            sender.communicate()
        traffic.finish(steady)
        counters = disconnect(stays[0])
        ledger = agent.wait_drained()
        assert agent.stop() == 0, agent.log
    sums: dict[str, int] = {}
    for record in agent.records():
        (point,) = record["flow"]["interfaces"]
        sums[point["name"]] = sums.get(point["name"], 0) + record["flow"]["packets"]
    assert sums.pop("s0") == counters.tx_packets + counters.rx_packets
    assert set(sums) == {f"g{number}" for number in range(12)}, (
        "all were observed under their names"
    )
    assert all(sums.values())
    _, lost = seen_and_lost(ledger)
    assert lost == 0


def _has_sent(end: End, packets: int) -> bool:
    return end.counters().tx_packets > packets


def test_stopped_under_traffic(network: Network, tmp_path: Path) -> None:
    """
    Stopped while packets pass, the agent detaches, drains once more and closes its books: what it
    printed is all that the hooks recorded, and nothing of it stays behind.
    """
    one, other = pair(network)
    connect(one, other, ADDRESSES)
    sender = traffic.start(one.netns, "udp", "--host", V4[1], "--count", 3_000_000, "--flows", 300,
                           "--size", 64, "--first_port", 9)  # fmt: skip
    try:
        for _ in range(3):
            with Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "60s"
                       ) as agent:  # fmt: skip
                wait_until(partial(_has_sent, one, one.counters().tx_packets + 20_000), "it sends")
                assert tcx_programs(one) == 2, "this is how the check would see one left behind"
                before = one.counters()
                assert agent.stop() == 0, agent.log
                after = one.counters()
            assert after.tx_packets > before.tx_packets, "packets passed while it stopped"
            assert agent.packets() == agent.summary()["packets"] > 10_000
            assert agent.summary()["lost"] == 0
            assert_nothing_left(one)
    finally:
        sender.kill()
        sender.communicate()


#: An agent one of whose enrichers cannot do its work.
_MISTAKEN = """
import sys
from exporter.cli import main
from exporter.enrich.interfaces import InterfaceNames

def apply(self, batch):
    raise KeyError("no such thing")

InterfaceNames.apply = apply
sys.exit(main())
"""


def test_a_mistake_in_an_enricher(network: Network, tmp_path: Path) -> None:
    """Every row is published and accounted for; it is said once, counted, and /readyz has it."""
    one, other = pair(network)
    with Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.2s",
               "--metrics-address", "127.0.0.1:9401", "--sink", "stdout",
               program=(sys.executable, "-c", _MISTAKEN)) as agent:  # fmt: skip
        connect(one, other, ADDRESSES)
        traffic.run(one.netns, "udp", "--host", V4[1], "--count", 500, "--flows", 50,
                    "--size", 64, "--first_port", 10_000)  # fmt: skip
        wait_until(lambda: agent.drains() > 2, "it goes on")
        ledger = agent.wait_drained()
        metrics = agent.metrics()
        ready = agent._fetch("/readyz")
        assert agent.stop() == 0, agent.log
    assert ledger["closes"]
    sent = [r for r in agent.records() if r["network"]["transport"] == "udp"]
    assert sum(record["flow"]["packets"] for record in sent) == 500
    assert metrics['flow_exporter_enrich_errors_total{enricher="interfaces"}'] >= 2
    assert metrics['flow_exporter_enrich_healthy{enricher="interfaces"}'] == 0
    assert "enricher interfaces: KeyError: 'no such thing'\n" in ready
    assert agent.log.count("a mistake in it") == 1
    assert "Traceback" not in agent.log


def test_clsact_filters_leave_nothing_behind(network: Network, tmp_path: Path) -> None:
    """With filters instead of links, the qdisc that we made goes with them."""
    one, other = End(network.namespace("a"), "va"), End(network.namespace("b"), "vb")
    veth(one, other)
    with Agent(one.netns, tmp_path, "--interfaces", one.device, "--attach", "tc") as agent:
        assert "clsact" in one.netns.run("tc", "qdisc", "show", "dev", one.device)
        assert agent.stop() == 0, agent.log
    assert_nothing_left(one)


def assert_nothing_left(end: End) -> None:
    """No qdisc of ours, no filter, no TCX program on either hook, no socket, no pin."""
    assert "clsact" not in end.netns.run("tc", "qdisc", "show", "dev", end.device)
    assert tcx_programs(end) == 0
    assert not list(Path("/run/flow-exporter").glob("*.sock"))


def tcx_programs(end: End) -> int:
    """Programs on the TCX hooks of a device, by asking the kernel."""
    script = (
        "import sys; from exporter.ebpf import _libbpf as l; "
        "n = [l.u32(), l.u32()]; "
        "[l.library().bpf_prog_query(int(sys.argv[1]), h, 0, None, None, l.ref(c)) "
        "for h, c in zip((46, 47), n)]; print(n[0].value + n[1].value)"
    )
    python = str(Path(PROGRAM).with_name("python"))
    return int(end.netns.run(python, "-c", script, str(end.netns.index(end.device))))


def test_the_ledger_command_without_an_agent() -> None:
    """It says so in one line and fails."""
    done = subprocess.run([PROGRAM, "ledger"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("flow-exporter: no agent is running here")
    assert done.stderr.count("\n") == 1


def test_the_ledger_command_with_two_agents(network: Network, tmp_path: Path) -> None:
    """It asks which one, and tells one from the other by its process id."""
    one, other = pair(network)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (
        Agent(one.netns, tmp_path / "a", "--interfaces", one.device) as first,
        Agent(other.netns, tmp_path / "b", "--interfaces", other.device) as second,
    ):
        done = subprocess.run([PROGRAM, "ledger"], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert str(first.process.pid) in done.stderr
        assert str(second.process.pid) in done.stderr
        assert first.ledger()["closes"] is second.ledger()["closes"] is True
