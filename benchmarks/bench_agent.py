"""
The whole agent as a process: start-up time, resident memory and CPU per flow under real packets.

A veth pair between two namespaces; a sender makes that many one-packet flows in every interval; the
agent exports them by gRPC to a collector in another process. CPU is the agent's own, user and
system, from /proc/PID/stat; memory is its peak, VmHWM.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench_pipeline import collector
from benchmarks.report import Table, median, spread
from tests.e2e.agent import Agent
from tests.e2e.net import End, Network, neighbour, no_offload, plug, switch_on

SIZES = (1_000, 10_000, 100_000, 1_000_000)
_DRAINS = 4
_PORT = 19_994
_ROOT = Path(__file__).parents[1]


def run() -> Table:
    """CPU and memory by the number of flows in a drain."""
    table = Table(
        "agent",
        "agent process, real packets, gRPC to a collector in another process",
        ("flows per drain", "interval", "CPU us per flow", "CPU % of one core", "RSS MB"),
    )
    for size in SIZES:
        interval = 5 if size < 1_000_000 else 20
        table.add(f"{size:,}", f"{interval} s", *_measure(size, interval))
    return table


def startup() -> Table:
    """From exec to attached, on one interface; and memory when idle."""
    table = Table(
        "startup",
        "from exec to the first interface observed, median of seven",
        ("sink", "seconds", "RSS MB when idle"),
    )
    for sink in ("stdout", "grpc://127.0.0.1:9"):
        took, idle = [], []
        with _pair() as near:
            for _ in range(7):
                with tempfile.TemporaryDirectory() as directory:
                    began = time.monotonic()
                    with Agent(near.netns, Path(directory), "--sink", sink) as agent:
                        took.append(time.monotonic() - began)
                        time.sleep(0.5)
                        idle.append(_resident(agent.process.pid))
                        agent.stop()
        table.add(sink.partition(":")[0], spread(took), f"{median(idle):.0f}")
    return table


@contextmanager
def _pair() -> Iterator[End]:
    network = Network()
    try:
        near, far = End(network.namespace("a"), "va"), End(network.namespace("b"), "vb")
        near.netns.quiet()
        far.netns.quiet()
        plug(near, far)
        no_offload(near)
        near.netns.ip("addr", "add", "192.0.2.1/24", "dev", "va")
        switch_on(near, far)
        neighbour(near, "192.0.2.2", far.netns.mac("vb"))
        near.netns.ip("route", "add", "10.0.0.0/8", "via", "192.0.2.2")
        yield near
    finally:
        network.close()


def _measure(size: int, interval: int) -> tuple[str, str, str]:
    with _pair() as near, tempfile.TemporaryDirectory() as directory, collector(_PORT, near.netns):
        arguments = ["--interfaces", near.device, "--drain-interval", f"{interval}s", "--sink",
                     f"grpc://127.0.0.1:{_PORT}?queue.rows=4000000",
                     "--max-flows", str(size + size // 4)]  # fmt: skip
        with Agent(near.netns, Path(directory), *arguments) as agent:
            sender = subprocess.Popen(
                near.netns.command(sys.executable, "-m", "benchmarks.sender", str(size),
                                   str(interval), str(_DRAINS + 2)),
                cwd=_ROOT,
            )  # fmt: skip
            # The first drain pays for memory that the others find.
            time.sleep(1.5 * interval)
            cpu, flows = _cpu_seconds(agent.process.pid), _delivered(agent)
            time.sleep(_DRAINS * interval)
            cpu, flows = _cpu_seconds(agent.process.pid) - cpu, _delivered(agent) - flows
            assert sender.wait() == 0
            ledger = agent.wait_drained()
            resident = _resident(agent.process.pid)
            assert agent.stop() == 0, agent.log
    assert ledger["closes"]
    assert ledger["published"]["packets"] == (_DRAINS + 2) * size
    return f"{1e6 * cpu / flows:.2f}", f"{100 * cpu / (_DRAINS * interval):.1f}", f"{resident:.0f}"


def _delivered(agent: Agent) -> int:
    delivered: int = agent.ledger()["sinks"]["grpc"]["delivered"]["flows"]
    return delivered


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> float:
    """Peak resident memory in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError("no VmHWM")
