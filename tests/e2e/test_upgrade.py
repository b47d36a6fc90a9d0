"""An agent that is killed and started again leaves no gap, and what it took along is counted."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import patience
from tests.arch.source import ROOT
from tests.e2e import traffic
from tests.e2e.agent import PROGRAM, Agent, wait_until
from tests.e2e.collector import Collector
from tests.e2e.net import End, Netns, Network, connect, disconnect, plug, switch_on
from tests.e2e.test_exact import ADDRESSES, V4, pair
from tests.kernel.bpffs import bpffs


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[Path]:
    """A path for pins that nobody else uses."""
    with bpffs(tmp_path) as root:
        yield root / "agent"


def agent(
    end: End, directory: Path, pins: Path, *arguments: str, program: Sequence[str] = (PROGRAM,)
) -> Agent:
    """An agent of one life: its output in a directory of its own."""
    directory.mkdir()
    defaults = {"--interfaces": end.device, "--drain-interval": "0.2s", "--max-flows": "5000"}
    given = [w for name, value in defaults.items() if name not in arguments for w in (name, value)]
    return Agent(end.netns, directory, *given, "--pin", str(pins), *arguments, program=program)


def kill(running: Agent) -> None:
    running.process.kill()
    running.process.wait()


def udp(netns: Netns, count: int, flows: int = 20) -> dict[str, int]:
    return traffic.run(netns, "udp", "--host", V4[1], "--count", count, "--flows", flows,
                       "--size", 64, "--first_port", 9000)  # fmt: skip


class Pump:
    """Sends bursts until it is stopped."""

    BURST = 8_000

    def __init__(self, netns: Netns) -> None:
        self.count = 0
        self._netns = netns
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            udp(self._netns, self.BURST, flows=200)
            self.count += 1


@contextmanager
def pumping(netns: Netns) -> Iterator[Pump]:
    pump = Pump(netns)
    try:
        yield pump
    finally:
        pump.stop()


def has_settled(running: Agent) -> bool:
    """It has delivered, and not just now. Asking it would take long on a busy machine."""
    packets = running.packets()
    time.sleep(0.5)
    return 0 < packets == running.packets()


def pending(ledger: dict[str, Any]) -> int:
    return sum(sink["pending"]["packets"] for sink in ledger["sinks"].values())


#: IPv4 only: nobody speaks but the test.
QUIET = ((f"{V4[0]}/24",), (f"{V4[1]}/24",))


def quiet(network: Network) -> tuple[End, End]:
    one, other = pair(network)
    one.netns.quiet()
    other.netns.quiet()
    return one, other


def filters(end: End) -> str:
    return "".join(
        end.netns.run("tc", "filter", "show", "dev", end.device, way)
        for way in ("ingress", "egress")
    )


def unpin(end: End, pins: Path) -> str:
    done = subprocess.run(
        end.netns.command(PROGRAM, "unpin", str(pins)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("hook", ["tcx", "tc"])
def test_killed_between_drains_under_traffic(
    network: Network, tmp_path: Path, pins: Path, hook: str
) -> None:
    """
    kill -9 while packets pass, nobody there for a while, a new agent while packets still pass: all
    packets are in the records of the two, none twice, and none is lost.
    """
    one, other = pair(network)
    # Much longer than a drain takes.
    interval = 6 if patience.FACTOR > 1 else 3
    arguments = ["--attach", hook, "--drain-interval", f"{interval}s"]
    with agent(one, tmp_path / "first", pins, *arguments) as first:
        connect(one, other, ADDRESSES)
        with pumping(one.netns) as pump:
            wait_until(lambda: has_settled(first), "a drain and its delivery")
            kill(first)
            sent = pump.count
            wait_until(lambda: pump.count >= sent + 2, "packets without an agent")
            with agent(one, tmp_path / "second", pins, *arguments) as second:
                sent = pump.count
                wait_until(lambda: pump.count >= sent + 2, "packets with the second")
                pump.stop()
                counters = disconnect(one)
                ledger = second.wait_drained()
                assert second.stop() == 0, second.log
    passed = counters.tx_packets + counters.rx_packets
    assert passed >= 5 * Pump.BURST
    assert ledger["earlier_agents"]["lost"] == {"packets": 0, "octets": 0}
    assert first.packets() + second.packets() == passed
    assert ledger["kernel"]["seen"] == {
        "packets": passed,
        "octets": counters.tx_octets + counters.rx_octets,
    }
    assert ledger["earlier_agents"]["settled"]["packets"] == first.packets()
    assert "packets were counted while no agent ran" in second.log
    unpin(one, pins)
    assert filters(one) == ""
    assert "clsact" not in one.netns.run("tc", "qdisc", "show", "dev", one.device)
    assert not pins.exists()


def earlier_version(directory: Path) -> list[str]:
    """
    A version with other structs, built from these sources: a field more and others elsewhere, and
    outcomes that are numbered differently.
    """
    for part in ("exporter", "bpf"):
        shutil.copytree(ROOT / part, directory / part, ignore=shutil.ignore_patterns("__pycache__"))
    for header, old, new in (
        ("flow_stats", "\t__u64 first_mono_ns;", "\t__u64 of_old;\n\t__u64 first_mono_ns;"),
        ("flow_stats", "__u64 octets_l2;", "__u64 swapped;"),
        ("flow_stats", "__u64 octets_l3;", "__u64 octets_l2;"),
        ("flow_stats", "__u64 swapped;", "__u64 octets_l3;"),
        ("flow_stats", "sizeof(struct flow_stats) == 64", "sizeof(struct flow_stats) == 72"),
        ("flow_record", "== 120", "== 128"),
        ("flow_key", "__u16 netns;", "__u16 swapped;"),
        ("flow_key", "__u16 inner_vlan_id;", "__u16 netns;"),
        ("flow_key", "__u16 swapped;", "__u16 inner_vlan_id;"),
        ("counters", "OUTCOME_AGGREGATED = 0", "OUTCOME_AGGREGATED = 4"),
        ("counters", "OUTCOME_NOT_IP = 4", "OUTCOME_NOT_IP = 0"),
    ):
        path = directory / "bpf" / "abi" / f"{header}.h"
        assert path.read_text().count(old) == 1, f"{header}.h has not one {old}"
        path.write_text(path.read_text().replace(old, new))
    compiled = directory / "exporter" / "capture" / "flow.bpf.o"
    there = ["env", "-C", str(directory), sys.executable, "-m"]
    for command in (
        ["make", "--always-make", "-C", str(directory / "bpf"), f"OBJECT={compiled}"],
        [*there, "exporter.abi.generate", str(compiled)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return [*there, "exporter"]


@pytest.mark.parametrize("newer_first", [False, True])
def test_versions_with_other_structs(
    network: Network, tmp_path: Path, pins: Path, newer_first: bool
) -> None:
    """
    An upgrade and a downgrade: the other version is killed, its program counts on, and the next one
    reads what it counted, to the packet and the octet; the ledger closes across both.
    """
    one, other = quiet(network)
    versions = [earlier_version(tmp_path / "earlier"), [PROGRAM]]
    if newer_first:
        versions.reverse()
    with agent(one, tmp_path / "first", pins, program=versions[0]) as first:
        connect(one, other, QUIET)
        udp(one.netns, 3000)
        wait_until(lambda: has_settled(first), "a drain and its delivery")
        kill(first)
    udp(one.netns, 2000)
    with agent(one, tmp_path / "second", pins, program=versions[1]) as second:
        udp(one.netns, 1000)
        counters = disconnect(one)
        wait_until(lambda: has_settled(second), "a drain and its delivery")
        assert second.stop() == 0, second.log
    passed = counters.tx_packets + counters.rx_packets
    assert passed >= 6000
    assert first.packets() + second.packets() == passed
    flows = [record["flow"] for record in (*first.records(), *second.records())]
    octets = counters.tx_octets + counters.rx_octets
    assert sum(flow["bytes"] for flow in flows) == octets
    # Ethernet's header is all that is not IP's: IPv4 only, and nobody asks for addresses.
    assert sum(flow["ip_bytes"] for flow in flows) == octets - 14 * passed
    assert "packets were counted while no agent ran" in second.log
    assert "  lost: 0\n" in second.log


def test_what_was_not_delivered_is_counted(network: Network, tmp_path: Path, pins: Path) -> None:
    """
    An agent that is killed with records in its queue takes them along: delivered before + delivered
    after + lost with the previous agent is what was sent, to the packet and the octet.
    """
    one, other = quiet(network)
    sink = ["--sink", "grpc://127.0.0.1:9999", "--dedupe", "none"]
    with Collector(one.netns, 9999, tmp_path) as collector:
        with agent(one, tmp_path / "first", pins, *sink) as first:
            connect(one, other, QUIET)
            udp(one.netns, 3000)
            first.wait_drained()
            collector.kill()
            before = disconnect(one)
            switch_on(one)
            one.netns.ip("neigh", "replace", V4[1], "lladdr", other.netns.mac(other.device),
                         "dev", one.device, "nud", "permanent")  # fmt: skip
            udp(one.netns, 2000)
            after = one.counters()
            queued = after - before
            wait_until(
                lambda: pending(first.ledger()) == queued.tx_packets + queued.rx_packets,
                "the records wait",
            )
            kill(first)
        udp(one.netns, 1000)
        collector.start()
        with agent(one, tmp_path / "second", pins, *sink) as second:
            counters = disconnect(one)
            ledger = second.wait_drained()
            assert second.stop() == 0, second.log
        records = collector.records()
    lost = ledger["earlier_agents"]["lost"]
    assert lost == {
        "packets": queued.tx_packets + queued.rx_packets,
        "octets": queued.tx_octets + queued.rx_octets,
    }
    assert lost["packets"] >= 2000
    passed = counters.tx_packets + counters.rx_packets
    assert sum(record.packets for record in records) + lost["packets"] == passed
    assert sum(record.bytes for record in records) + lost["octets"] == (
        counters.tx_octets + counters.rx_octets
    )
    assert f"{lost['packets']} packets ({lost['octets']} octets) were lost with the" in second.log
    assert f"lost with earlier agents: {lost['packets']}" in second.log


def test_stopped_and_started_with_other_settings(
    network: Network, tmp_path: Path, pins: Path
) -> None:
    """
    SIGTERM leaves the program counting. The successor has larger maps and another ring, sampling
    and hook of its own, and what was counted before is as it was counted.
    """
    one, other = quiet(network)
    lives: list[tuple[list[str], int]] = [
        (["--max-flows", "64", "--attach", "tcx"], signal.SIGTERM),
        (["--max-flows", "5000", "--ring-size", "64KiB", "--attach", "tcx"], signal.SIGINT),
        (["--max-flows", "5000", "--gso", "packet", "--attach", "tc"], signal.SIGKILL),
        (["--max-flows", "200", "--attach", "tc"], signal.SIGTERM),
    ]
    exported = 0
    for number, (arguments, how) in enumerate(lives):
        with agent(one, tmp_path / str(number), pins, *arguments) as running:
            if not number:
                connect(one, other, QUIET)
            udp(one.netns, 500, flows=100)
            wait_until(partial(settled, running), "everything is delivered")
            code = running.stop(how)
            assert code == (-signal.SIGKILL if how == signal.SIGKILL else 0), running.log
        exported += running.packets()
        udp(one.netns, 300, flows=100)
    with agent(one, tmp_path / "last", pins, "--sampling", "100000") as last:
        wait_until(lambda: settled(last), "everything is delivered")
        udp(one.netns, 1000)
        counters = disconnect(one)
        ledger = last.wait_drained()
        assert last.stop() == 0, last.log
    exported += last.packets()
    passed = counters.tx_packets + counters.rx_packets
    assert ledger["earlier_agents"]["lost"]["packets"] == 0
    assert ledger["kernel"]["seen"]["packets"] == passed
    assert exported + ledger["kernel"]["sampled_out"]["packets"] == passed
    assert ledger["kernel"]["sampled_out"]["packets"] > 900


def settled(running: Agent) -> bool:
    ledger = running.ledger()
    return pending(ledger) == 0 and ledger["held_in_kernel"]["packets"] == 0


@pytest.mark.parametrize("hook", ["tcx", "tc"])
def test_interfaces_and_namespaces_that_are_gone(
    network: Network, tmp_path: Path, pins: Path, hook: str
) -> None:
    """
    While no agent runs an interface goes, a namespace goes and another one comes: the records of
    what they saw have their names, and the namespaces that stay keep their numbers.
    """
    hub, leaf = network.namespace("hub"), network.namespace("leaf")
    stays, goes = network.namespace("a-stays"), network.namespace("b-goes")
    for namespace in (hub, leaf, stays, goes):
        namespace.quiet()
    pairs = [(End(hub, "h0"), End(leaf, "l0")), (End(hub, "h1"), End(leaf, "l1")),
             (End(stays, "s0"), End(leaf, "l2")), (End(goes, "g0"), End(leaf, "l3"))]  # fmt: skip
    for number, (one, other) in enumerate(pairs):
        plug(one, other)
        connect(one, other, ((f"10.8.{number}.1/24",), (f"10.8.{number}.2/24",)))

    def send(number: int, count: int) -> None:
        traffic.run(pairs[number][0].netns, "udp", "--host", f"10.8.{number}.2", "--count", count,
                    "--flows", 1, "--size", 9, "--first_port", 9)  # fmt: skip

    arguments = ["--interfaces", "/^[hsgn][0-9]$/", "--dedupe", "none", "--direction", "egress",
                 "--attach", hook,
                 "--netns", f"{stays.name},/{goes.name.rpartition('-')[0]}|new/"]  # fmt: skip
    with agent(pairs[0][0], tmp_path / "first", pins, *arguments) as first:
        kill(first)
    for number in range(4):
        send(number, 10 * (number + 1))
    hub.ip("link", "del", "h1")
    network.remove(goes)
    new = network.namespace("0new")
    new.quiet()
    plug(End(new, "n0"), End(leaf, "l4"))
    with agent(pairs[0][0], tmp_path / "second", pins, *arguments) as second:
        connect(End(new, "n0"), End(leaf, "l4"), (("10.8.4.1/24",), ("10.8.4.2/24",)))
        pairs.append((End(new, "n0"), End(leaf, "l4")))
        send(2, 7)
        send(4, 3)
        ledger = second.wait_drained()
        assert second.stop() == 0, second.log
    seen: dict[tuple[str, str], int] = {}
    for record in second.records():
        (point,) = record["flow"]["interfaces"]
        place = (point.get("netns", ""), point["name"])
        seen[place] = seen.get(place, 0) + record["flow"]["packets"]
    assert seen == {
        ("", "h0"): 10,
        ("", "h1"): 20,
        (stays.name, "s0"): 37,
        (goes.name, "g0"): 40,
        (new.name, "n0"): 3,
    }
    assert ledger["earlier_agents"]["lost"]["packets"] == 0
    said = unpin(pairs[0][0], pins)
    assert said == "detached from 3 hook(s); packets counted and never read: 0\n"


def test_a_second_agent_is_refused(network: Network, tmp_path: Path, pins: Path) -> None:
    """One line that says what to do; the first agent goes on, and so it is with ``unpin``."""
    one, other = quiet(network)
    with agent(one, tmp_path / "first", pins) as first:
        connect(one, other, QUIET)
        for command in (["run", "--pin", str(pins), "--sink", "null"], ["unpin", str(pins)]):
            done = subprocess.run(
                one.netns.command(PROGRAM, *command), capture_output=True, text=True, check=False
            )
            assert done.returncode == 1
            assert done.stderr == (
                f"flow-exporter: another agent uses {pins}: stop it, or choose another path with "
                "--pin PATH\n"
            )
        udp(one.netns, 100)
        counters = disconnect(one)
        first.wait_drained()
        assert first.stop() == 0, first.log
    assert first.packets() == counters.tx_packets + counters.rx_packets


def test_a_start_that_fails_changes_nothing(network: Network, tmp_path: Path, pins: Path) -> None:
    """An agent that cannot start leaves its predecessor's program counting, and no set behind."""
    one, other = quiet(network)
    with agent(one, tmp_path / "first", pins) as first:
        connect(one, other, QUIET)
        kill(first)
    sets = list((pins / "sets").iterdir())
    for command in (["--interfaces", "nothere"], ["--max-flows", str(1 << 26)]):
        done = subprocess.run(
            one.netns.command(PROGRAM, "run", "--pin", str(pins), *command),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert list((pins / "sets").iterdir()) == sets
    udp(one.netns, 200)
    with agent(one, tmp_path / "second", pins) as second:
        counters = disconnect(one)
        second.wait_drained()
        assert second.stop() == 0, second.log
    assert second.packets() == counters.tx_packets + counters.rx_packets


def test_unpin(network: Network, tmp_path: Path, pins: Path) -> None:
    """What is removed unread is said; where nothing is pinned there is nothing to do."""
    one, other = quiet(network)
    assert unpin(one, pins) == "nothing is pinned\n"
    with agent(one, tmp_path / "first", pins) as first:
        connect(one, other, QUIET)
        kill(first)
    before = one.counters()
    udp(one.netns, 200)
    counters = one.counters()
    assert (counters - before).tx_packets == 200
    unread = counters.tx_packets + counters.rx_packets
    assert unpin(one, pins) == (
        f"detached from 2 hook(s); packets counted and never read: {unread}\n"
    )
    assert not pins.exists()


def test_not_a_bpf_file_system(tmp_path: Path) -> None:
    """A path elsewhere is refused with what to do."""
    done = subprocess.run([PROGRAM, "run", "--pin", str(tmp_path / "pins"), "--sink", "null"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 1
    assert "is not in a BPF file system: mount one with" in done.stderr


def test_killed_at_any_moment(network: Network, tmp_path: Path, pins: Path) -> None:
    """
    Six lives under traffic, each killed at another moment of its fast drains: no packet is in two
    records, and each is in one or counted as lost. Only what was being delivered in the moment of
    the kill can be both.
    """
    one, other = quiet(network)
    lives: list[Agent] = []
    connect(one, other, QUIET)
    start = one.counters()
    with pumping(one.netns) as pump:
        for number in range(6):
            running = agent(one, tmp_path / str(number), pins, "--drain-interval", "20ms",
                            "--interfaces", one.device)  # fmt: skip
            with running:
                time.sleep(0.1 + 0.017 * number)
                kill(running)
            lives.append(running)
        with agent(one, tmp_path / "last", pins) as last:
            pump.stop()
            counters = disconnect(one) - start
            ledger = last.wait_drained()
            assert last.stop() == 0, last.log
    passed = ledger["kernel"]["seen"]["packets"]
    assert 0 < passed <= counters.tx_packets + counters.rx_packets
    exported = sum(whole_records(life) for life in lives) + last.packets()
    lost = ledger["earlier_agents"]["lost"]["packets"]
    assert exported <= passed <= exported + lost
    assert ledger["earlier_agents"]["settled"]["packets"] + lost + last.packets() == passed


def whole_records(life: Agent) -> int:
    """Packets of the lines that were written to their end."""
    text = (life._output).read_bytes()
    lines = text[: text.rfind(b"\n") + 1].splitlines()
    return sum(json.loads(line)["flow"]["packets"] for line in lines)
