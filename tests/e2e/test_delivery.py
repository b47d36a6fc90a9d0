"""Rows on their way: killed destinations and agents, full disks, slow sinks, changed targets."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from exporter._pb import flow_pb2
from exporter.status import RUN_DIRECTORY, ask
from tests.e2e import traffic
from tests.e2e.agent import Agent, wait_until
from tests.e2e.collector import Collector
from tests.e2e.net import Counters, End, Network, connect, disconnect, neighbour, switch_on
from tests.e2e.test_exact import ADDRESSES, V4, pair
from tests.e2e.test_grpc import delivered
from tests.kernel.bpffs import bpffs

PORT, OTHER_PORT = 19_981, 19_982
#: Flows of a drain, at most: those that are sent, and what two hosts say of their own.
BATCH = 1500 + 50


def passed(counters: Counters) -> tuple[int, int]:
    """Packets and octets of an interface."""
    return (
        counters.rx_packets + counters.tx_packets,
        counters.rx_octets + counters.tx_octets,
    )


def ledger_of(agent: Agent) -> dict[str, Any]:
    """As ``Agent.ledger``, without a process."""
    found: dict[str, Any] = json.loads(ask(RUN_DIRECTORY / f"{agent.process.pid}.sock", "/ledger"))
    return found


def sink_of(agent: Agent, name: str = "grpc") -> dict[str, Any]:
    sink: dict[str, Any] = ledger_of(agent)["sinks"][name]
    return sink


def waiting(agent: Agent, name: str = "grpc") -> int:
    sink = sink_of(agent, name)
    return int(sink["pending"]["flows"] + sink["spooled"]["flows"])


def wait_delivered(agent: Agent) -> dict[str, Any]:
    """Wait until the kernel, the queues and the spools are empty; the ledger then."""

    def idle() -> bool:
        ledger = ledger_of(agent)
        left = sum(s["pending"]["flows"] + s["spooled"]["flows"] for s in ledger["sinks"].values())
        return bool(ledger["held_in_kernel"]["packets"] == 0 and left == 0)

    wait_until(idle, "everything is drained and delivered")
    return agent.ledger()


def wait_drain(agent: Agent) -> None:
    """Wait until a drain has just ended: the next one is some time away."""
    before = ledger_of(agent)["drained"]["packets"]
    wait_until(lambda: ledger_of(agent)["drained"]["packets"] > before, "a drain")


def sending(end: End, count: int) -> subprocess.Popen[str]:
    return traffic.start(end.netns, "udp", "--host", V4[1], "--count", count, "--flows", 1500,
                         "--size", 64, "--first_port", 9)  # fmt: skip


def life(end: End, directory: Path, pins: Path, interval: str, sink: str) -> Agent:
    """An agent that another one may follow: its output in a directory of its own."""
    directory.mkdir()
    return Agent(
        end.netns, directory, "--interfaces", end.device, "--drain-interval", interval,
        "--pin", str(pins / "agent"), "--sink", sink,
    )  # fmt: skip


def test_both_ends_are_killed_under_traffic(network: Network, tmp_path: Path) -> None:
    """
    The collector and the agent are killed with -9, in turns and together, while packets pass: what
    the collector has in the end is what the interface counted, to the octet. What came twice is
    whole messages, of at most one batch for each kill.
    """
    one, other = pair(network)
    kills = 0
    with bpffs(tmp_path) as pins, Collector(one.netns, PORT, tmp_path) as collector:
        sink = f"grpc://{collector.target}?queue.rows=2000&spool.directory={tmp_path / 'spool'}"
        agent = partial(life, one, pins=pins, interval="0.3s", sink=sink)
        first = agent(tmp_path / "first").__enter__()
        try:
            connect(one, other, ADDRESSES)
            sender = sending(one, 600_000)
            wait_until(lambda: sink_of(first)["delivered"]["flows"] > 0, "a delivery")
            collector.kill()
            wait_until(lambda: sink_of(first)["spooled"]["flows"] > 3000, "rows on disk")
        finally:
            first.process.kill()
            first.process.wait()
        kills += 2
        with agent(tmp_path / "second") as second:
            left = sink_of(second)["recovered"]["flows"]
            assert left > 3000
            collector.start()
            wait_until(lambda: sink_of(second)["delivered"]["flows"] > 0, "a delivery")
            collector.kill()
            second.process.kill()
            second.process.wait()
            kills += 2
        collector.start()
        with agent(tmp_path / "third") as third:
            traffic.finish(sender)
            counters = disconnect(one)
            ledger = wait_delivered(third)
            assert third.stop() == 0, third.log
    assert ledger["earlier_agents"]["lost"] == {"packets": 0, "octets": 0}
    assert ledger["kernel"]["seen"]["packets"] == passed(counters)[0]
    assert delivered(collector.records()) == passed(counters)
    assert ledger["sinks"]["grpc"]["dropped"] == {}
    twice = len(collector.records(once=False)) - len(collector.records())
    assert twice <= kills * BATCH
    assert not list((tmp_path / "spool" / "grpc").glob("*.segment"))


def test_the_agent_is_killed_at_any_moment(network: Network, tmp_path: Path) -> None:
    """
    Six lives under traffic, each killed with -9 at another moment of its fast drains, some within
    the first: with pins and a spool every packet is in the collector's records, none is lost. What
    came twice is, for each kill, what was being delivered and what was being published.
    """
    one, other = pair(network)
    kills = 6
    with bpffs(tmp_path) as pins, Collector(one.netns, PORT, tmp_path) as collector:
        sink = f"grpc://{collector.target}?spool.directory={tmp_path / 'spool'}"
        agent = partial(life, one, pins=pins, interval="20ms", sink=sink)
        for number in range(kills):
            with agent(tmp_path / str(number)) as running:
                if not number:
                    connect(one, other, ADDRESSES)
                    sender = sending(one, 2_000_000)
                time.sleep(0.017 * number)
                running.process.kill()
                running.process.wait()
        sender.terminate()
        sender.communicate()
        with agent(tmp_path / "last") as last:
            counters = disconnect(one)
            ledger = wait_delivered(last)
            assert last.stop() == 0, last.log
    assert ledger["earlier_agents"]["lost"] == {"packets": 0, "octets": 0}
    assert ledger["kernel"]["seen"]["packets"] == passed(counters)[0] > 0
    records = collector.records(once=False)
    distinct = {record.SerializeToString(deterministic=True): record for record in records}
    assert delivered(list(distinct.values())) == passed(counters)
    assert len(records) - len(distinct) <= 2 * kills * BATCH


def test_stopped_while_the_collector_is_away(network: Network, tmp_path: Path) -> None:
    """Everything stays in the spool, nothing is dropped, and the next agent delivers it once."""
    one, other = pair(network)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"spool: {{directory: {tmp_path / 'spool'}}}\nshutdown_timeout: 100ms\n"
        f"sinks: ['grpc://127.0.0.1:{PORT}']\n"
    )
    arguments = ("--config", str(config), "--interfaces", one.device, "--drain-interval", "0.1s")
    with Agent(one.netns, tmp_path, *arguments) as first:
        connect(one, other, ADDRESSES)
        traffic.finish(sending(one, 20_000))
        counters = disconnect(one)
        assert first.stop() == 0, first.log
    assert "dropped by sinks" not in first.log
    assert f"in spools: {first.summary()['flows']} flows" in first.log
    with (
        Collector(one.netns, PORT, tmp_path) as collector,
        Agent(one.netns, tmp_path, *arguments) as second,
    ):
        ledger = wait_delivered(second)
        assert second.stop() == 0, second.log
    assert ledger["sinks"]["grpc"]["recovered"]["packets"] == passed(counters)[0]
    assert delivered(collector.records(once=False)) == passed(counters)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KiB."""
    point = tmp_path / "disk"
    point.mkdir()
    options = ["-t", "tmpfs", "-o", "size=300k", "tmpfs"]
    subprocess.run(["mount", *options, str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


def test_the_disk_is_full(network: Network, tmp_path: Path, small_disk: Path) -> None:
    """
    One line in the log; the capture sees every packet; what fits neither on disk nor in memory is
    counted; the rest arrives once the collector is there, and the disk is used again.
    """
    one, other = pair(network)
    sink = f"grpc://127.0.0.1:{PORT}?queue.rows=4000&spool.directory={small_disk}"
    with Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.1s",
               "--sink", sink) as agent:  # fmt: skip
        connect(one, other, ADDRESSES)
        sender = sending(one, 600_000)
        wait_until(lambda: "No space left on device" in agent.log, "the disk is full")
        wait_until(lambda: "queue_full" in sink_of(agent)["dropped"], "memory is full, too")
        with Collector(one.netns, PORT, tmp_path) as collector:
            traffic.finish(sender)
            counters = disconnect(one)
            ledger = wait_delivered(agent)
            received = collector.records()
            assert agent.stop() == 0, agent.log
    grpc = ledger["sinks"]["grpc"]
    assert ledger["kernel"]["seen"]["packets"] == passed(counters)[0]
    assert ledger["published"]["packets"] == passed(counters)[0]
    assert list(grpc["dropped"]) == ["queue_full"]
    assert delivered(received) == (grpc["delivered"]["packets"], grpc["delivered"]["octets"])
    for unit in ("flows", "packets", "octets"):
        gone = grpc["dropped"]["queue_full"][unit]
        assert grpc["delivered"][unit] + gone == ledger["published"][unit]
    assert "batches are written again" in agent.log
    assert agent.log.count("No space left on device") <= 2


def test_a_slow_sink_beside_a_fast_one(network: Network, tmp_path: Path) -> None:
    """
    A collector that takes ten rows a second has most of it still to come when standard output has
    all of it; no drain is put off, no packet is lost, and nothing of either sink is dropped.
    """
    one, other = pair(network)
    slow = f"grpc://127.0.0.1:{PORT}?max_flows=1&spool.directory={tmp_path / 'spool'}"
    config = tmp_path / "config.yaml"
    config.write_text("shutdown_timeout: 100ms\n")
    with (
        Collector(one.netns, PORT, tmp_path, delay=0.1),
        Agent(one.netns, tmp_path, "--config", str(config), "--interfaces", one.device,
              "--drain-interval", "0.1s", "--sink", slow, "--sink", "stdout",
              "--metrics-address", "127.0.0.1:9401") as agent,
    ):  # fmt: skip
        connect(one, other, ADDRESSES)
        drains, began = agent.drains(), time.monotonic()
        traffic.finish(sending(one, 100_000))
        counters = disconnect(one)
        wait_until(lambda: agent.packets() == passed(counters)[0], "the fast sink has all")
        ledger, took = ledger_of(agent), time.monotonic() - began
        drained = agent.drains() - drains
        assert agent.stop() == 0, agent.log
    grpc = ledger["sinks"]["grpc"]
    assert grpc["delivered"]["flows"] <= 10 * took + 1
    assert grpc["pending"]["flows"] + grpc["spooled"]["flows"] >= 1000
    assert grpc["dropped"] == ledger["sinks"]["stdout"]["dropped"] == {}
    # One every 0.1 s; a machine under load may put off some of them, a sink that is waited for all.
    assert drained >= 3 * took
    assert sum(lost["packets"] for lost in ledger["kernel"]["lost"].values()) == 0


def test_sinks_change_while_the_agent_runs(network: Network, tmp_path: Path) -> None:
    """
    A sink is pointed at another collector with all that waited for the first, another one is added
    and removed: each row is at one of the collectors, none is dropped, and the ledger closes.
    """
    one, other = pair(network)
    (tmp_path / "b").mkdir()
    config = tmp_path / "config.yaml"

    def configure(*sinks: str, rest: str = "") -> None:
        fresh = tmp_path / "fresh.yaml"
        fresh.write_text("sinks:\n" + "".join(f"- {sink}\n" for sink in sinks) + rest)
        fresh.rename(config)

    def to(port: int) -> str:
        retry = "retry: {timeout: 500ms}"
        return f"{{type: grpc, name: out, target: '127.0.0.1:{port}', {retry}}}"

    configure(to(PORT))
    with (
        Collector(one.netns, PORT, tmp_path) as first,
        Collector(one.netns, OTHER_PORT, tmp_path / "b") as second,
        Agent(one.netns, tmp_path, "--config", str(config), "--interfaces", one.device,
              "--drain-interval", "0.1s") as agent,
    ):  # fmt: skip
        connect(one, other, ADDRESSES)
        sender = sending(one, 300_000)
        wait_until(first.messages, "the first collector gets something")
        first.kill()
        wait_until(lambda: waiting(agent, "out") > 2000, "rows wait")
        configure(to(OTHER_PORT), "'null'", rest="capture: {sampling: 7}\n")
        wait_until(lambda: "sink null added, sink out changed" in agent.log, "it is reloaded")
        assert "it needs a restart: capture.sampling" in agent.log
        wait_until(second.messages, "the second collector gets something")
        configure("{type: kfka}")
        wait_until(lambda: "the old one stays: sinks[0]" in agent.log, "it is refused")
        configure(to(OTHER_PORT))
        agent.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "sink null removed" in agent.log, "it is reloaded again")
        traffic.finish(sender)
        counters = disconnect(one)
        ledger = wait_delivered(agent)
        assert agent.stop() == 0, agent.log
    assert ledger["closes"]
    assert [sink["dropped"] for sink in ledger["sinks"].values()] == [{}, {}]
    assert ledger["sinks"]["out"]["queued"] == ledger["published"]
    assert 0 < ledger["sinks"]["null"]["queued"]["flows"] < ledger["published"]["flows"]
    # What the first collector had taken without saying so may be at the second, too.
    messages = first.messages() + second.messages()
    distinct = dict.fromkeys(messages)
    assert len(messages) - len(distinct) <= 1
    records = [r for m in distinct for r in flow_pb2.Records.FromString(m).entries]
    assert delivered(records) == passed(counters)


def test_two_agents_and_one_spool(network: Network, tmp_path: Path) -> None:
    """The second says that the spool is in use, and ends."""
    one, _ = pair(network)
    sink = ["--sink", f"grpc://127.0.0.1:{PORT}?spool.directory={tmp_path / 'spool'}"]
    (tmp_path / "b").mkdir()
    with Agent(one.netns, tmp_path, "--interfaces", one.device, *sink):
        late = Agent(one.netns, tmp_path / "b", "--interfaces", one.device, *sink)
        wait_until(lambda: late.ended, "the second ends")
    assert late.process.returncode == 2
    assert late.log.splitlines()[-1] == (
        f"flow-exporter: another agent uses the spool {tmp_path / 'spool' / 'grpc'}: stop it, or "
        "choose another directory"
    )


#: The agent, for which the time of day is the machine's and what a file says: the machine's own
#: clock is everybody's.
ANOTHER_CLOCK = """
import pathlib, sys, time

file, now, now_ns = pathlib.Path(sys.argv.pop(1)), time.time, time.time_ns
time.time = lambda: now() + int(file.read_text())
time.time_ns = lambda: now_ns() + int(file.read_text()) * 10**9
from exporter.cli import main
sys.exit(main())
"""
DAY = 86_400


def echoes(agent: Agent) -> list[dict[str, Any]]:
    """What it has printed of ICMP."""
    return [record for record in agent.records() if record["network"]["iana_number"] == 1]


def has_printed(agent: Agent, seen: int, packets: int) -> bool:
    return packets == sum(int(record["flow"]["packets"]) for record in echoes(agent)[seen:])


def unix(text: str) -> float:
    """A time of a record, in seconds; whole ones."""
    return datetime.fromisoformat(text[:19] + "+00:00").timestamp()


def test_the_clock_is_set(network: Network, tmp_path: Path) -> None:
    """
    Two days forward, and back: one line and a count each, drains go on, no packet is missed, and
    flows have the times that were to be read.
    """
    one, other = pair(network)
    clock = tmp_path / "clock"

    def set_clock(seconds: int) -> None:
        (tmp_path / "fresh").write_text(str(seconds))
        (tmp_path / "fresh").rename(clock)

    set_clock(0)
    with Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.1s",
               "--sink", "stdout", "--metrics-address", "127.0.0.1:9401",
               program=(sys.executable, "-c", ANOTHER_CLOCK, str(clock))) as agent:  # fmt: skip
        connect(one, other, ADDRESSES)
        for step, words in ((2 * DAY, "forward by 172800."), (0, "back by 172800.")):
            set_clock(step)
            wait_until(partial(agent.says, f"the clock was set {words}"), "it is said")
            seen, before = len(echoes(agent)), time.time()
            traffic.run(one.netns, "icmp", "--host", V4[1], "--count", 5, "--size", 10)
            wait_until(partial(has_printed, agent, seen, 10), "the flows are printed")
            for record in echoes(agent)[seen:]:
                start, end = unix(record["time"]["start"]), unix(record["time"]["end"])
                assert before + step - 2 <= start <= end <= time.time() + step
        counters = disconnect(one)
        ledger = wait_delivered(agent)
        steps = agent.metrics()["flow_exporter_clock_steps_total"]
        assert agent.stop() == 0, agent.log
    assert (steps, agent.log.count("the clock was set")) == (2, 2)
    assert ledger["kernel"]["seen"]["packets"] == agent.packets() == passed(counters)[0]


def has_queued(agent: Agent, packets: int) -> bool:
    return int(sink_of(agent)["queued"]["packets"]) >= packets


def test_the_spool_is_damaged(network: Network, tmp_path: Path) -> None:
    """
    An octet in the middle is another one and the end is cut off, of what an agent that was killed
    left: the next one says where, counts to the octet what is lost, delivers all the rest, and sees
    every packet that passes meanwhile.
    """
    one, other = pair(network)
    sink = f"grpc://127.0.0.1:{PORT}?queue.rows=1&spool.directory={tmp_path / 'spool'}"
    arguments = ("--interfaces", one.device, "--drain-interval", "0.1s", "--sink", sink)
    with Agent(one.netns, tmp_path, *arguments) as first:
        connect(one, other, ADDRESSES)
        # Several drains: several batches.
        for count in (3000, 6000, 9000):
            traffic.finish(sending(one, 3000))
            wait_until(partial(has_queued, first, count), "it is on disk")
        before = disconnect(one)
        wait_until(partial(has_queued, first, passed(before)[0]), "all is on disk")
        left = sink_of(first)["queued"]
        first.process.kill()
        first.process.wait()
    assert left["packets"] == passed(before)[0]
    *_, last = sorted((tmp_path / "spool" / "grpc").glob("*.segment"))
    octets = bytearray(last.read_bytes())
    octets[len(octets) // 2] ^= 0x10
    last.write_bytes(octets[:-5])
    with (
        Collector(one.netns, PORT, tmp_path) as collector,
        Agent(one.netns, tmp_path, *arguments) as second,
    ):
        switch_on(one, other)
        neighbour(one, V4[1], other.netns.mac(other.device))
        traffic.finish(sending(one, 2000))
        after = disconnect(one)
        ledger = wait_delivered(second)
        assert second.stop() == 0, second.log
        received = collector.records()
    grpc = ledger["sinks"]["grpc"]
    assert ledger["kernel"]["seen"]["packets"] == passed(after)[0] - passed(before)[0]
    assert list(grpc["dropped"]) == ["spool_corrupt"]
    lost, arrived = grpc["dropped"]["spool_corrupt"], grpc["delivered"]
    for unit in ("flows", "packets", "octets"):
        assert lost[unit] + arrived[unit] == left[unit] + ledger["published"][unit]
        assert 0 < lost[unit] < left[unit]
    assert delivered(received) == (arrived["packets"], arrived["octets"])
    where = r"(batch \d+ cannot be read|\d+ octets at \d+ are damaged)"
    assert len(re.findall(f"{last.name}: {where}", second.log)) == 1
    assert len(re.findall(rf"{last.name}: .*cut off", second.log)) == 1
