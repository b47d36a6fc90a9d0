"""An agent that is killed and started again leaves no gap, and what it took along is counted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import traffic
from tests.e2e.agent import PROGRAM, Agent, wait_until
from tests.e2e.collector import Collector
from tests.e2e.net import End, Netns, Network, connect, disconnect, plug
from tests.e2e.test_exact import ADDRESSES, V4, pair
from tests.kernel.bpffs import bpffs


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[Path]:
    """A path for pins that nobody else uses."""
    with bpffs(tmp_path) as root:
        yield root / "agent"


def agent(end: End, directory: Path, pins: Path, *arguments: str) -> Agent:
    """An agent of one life: its output in a directory of its own."""
    directory.mkdir()
    defaults = {"--interfaces": end.device, "--drain-interval": "0.2s", "--max-flows": "5000"}
    given = [w for name, value in defaults.items() if name not in arguments for w in (name, value)]
    return Agent(end.netns, directory, *given, "--pin", str(pins), *arguments)


def kill(running: Agent) -> None:
    running.process.kill()
    running.process.wait()


def udp(netns: Netns, count: int, flows: int = 20) -> dict[str, int]:
    return traffic.run(netns, "udp", "--host", V4[1], "--count", count, "--flows", flows,
                       "--size", 64, "--first_port", 9000)  # fmt: skip


class Pump:
    """Sends bursts until it is stopped."""

    BURST = 20_000

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


def pending(ledger: dict[str, Any]) -> int:
    return sum(sink["pending"]["packets"] for sink in ledger["sinks"].values())


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
    arguments = ["--attach", hook, "--drain-interval", "3s"]
    with agent(one, tmp_path / "first", pins, *arguments) as first:
        connect(one, other, ADDRESSES)
        with pumping(one.netns) as pump:
            wait_until(lambda: first.packets() > 0, "a drain")
            wait_until(lambda: pending(first.ledger()) == 0, "its delivery")
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
