"""``flow-exporter observe`` beside a real agent: what it shows is what was sent, and no more."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from exporter.status import RUN_DIRECTORY, ask
from tests.e2e import traffic
from tests.e2e.agent import PROGRAM, Agent, wait_until
from tests.e2e.net import End, Network, connect
from tests.e2e.test_exact import ADDRESSES, V4, V6, pair

#: Datagrams to each of a few ports, by protocol family.
COUNT, FLOWS, SIZE = 40, 8, 100
OCTETS = {V4[1]: 14 + 20 + 8 + SIZE, V6[1]: 14 + 40 + 8 + SIZE}


def observe(agent: Agent, *arguments: str) -> list[dict[str, Any]]:
    """What the command prints into a pipe."""
    done = subprocess.run(
        [PROGRAM, "observe", "--pid", str(agent.process.pid), *arguments],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def following(agent: Agent, output: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command, that goes on, with its output in a file."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            [PROGRAM, "observe", "-f", "--pid", str(agent.process.pid), *arguments], stdout=file
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def send(one: End, host: str, first_port: int, count: int = COUNT) -> None:
    traffic.run(one.netns, "udp", "--host", host, "--count", count, "--flows", FLOWS,
                "--size", SIZE, "--first_port", first_port)  # fmt: skip


def sums(records: list[dict[str, Any]]) -> dict[tuple[str, int], tuple[int, int]]:
    """(destination, port) -> packets and octets, of what was sent."""
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for record in records:
        place = record["destination"]["address"], record["destination"].get("port", 0)
        packets, octets = found.get(place, (0, 0))
        flow = record["flow"]
        found[place] = packets + flow["packets"], octets + flow["bytes"]
    return found


def expected(host: str, first_port: int, ports: int = FLOWS) -> dict[tuple[str, int], Any]:
    each = COUNT // FLOWS
    return {(host, first_port + n): (each, each * OCTETS[host]) for n in range(ports)}


def test_what_is_asked_for(network: Network, tmp_path: Path) -> None:
    """
    The recent flows by address, port, protocol, time and their opposites, and those that come, as
    the agent's sink has them: packets and octets as sent.
    """
    one, other = pair(network)
    with Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.3s",
               "--sink", "stdout") as agent:  # fmt: skip
        connect(one, other, ADDRESSES)
        send(one, V4[1], 40_000)
        send(one, V6[1], 41_000)
        agent.wait_drained()
        udp = ["--protocol", "udp", "--last", "1000"]
        everything = {**expected(V4[1], 40_000), **expected(V6[1], 41_000)}
        assert sums(observe(agent, *udp)) == everything
        assert sums(observe(agent, *udp, "--to-ip", V4[1])) == expected(V4[1], 40_000)
        assert observe(agent, *udp, "--from-ip", V4[1]) == []
        assert sums(observe(agent, *udp, "--ip", "2001:db8::/32")) == expected(V6[1], 41_000)
        assert sums(observe(agent, *udp, "--port", "40000", "--port", "40001")) == expected(
            V4[1], 40_000, 2
        )
        without = ["--not", "--ip-version", "6", "--not", "--to-port", "40007"]
        assert sums(observe(agent, *udp, *without)) == expected(V4[1], 40_000, FLOWS - 1)
        assert len(observe(agent, *udp[:2], "--last", "3")) == 3
        assert len(observe(agent, *udp, "--first", "5")) == 5
        assert len(observe(agent)) == min(20, len(agent.records()))
        assert sums(observe(agent, *udp, "--since", "1h")) == everything
        assert observe(agent, *udp, "--until", "1h") == []
        flat = observe(agent, *udp, "--schema", "netobserv", "--to-port", "40000")
        assert [(f["DstPort"], f["Packets"]) for f in flat] == [(40_000, COUNT // FLOWS)]

        live = tmp_path / "live"
        with following(agent, live, "--protocol", "udp", "--to-port", "42003") as process:
            wait_until(lambda: watchers(agent) == 1, "it is served")
            send(one, V4[1], 42_000, 80)
            wait_until(lambda: live.stat().st_size, "the flow that comes")
            agent.wait_drained()
            assert agent.stop() == 0, agent.log
            # The agent is gone, and with it the stream.
            assert process.wait(30) == 0
        shown = [json.loads(line) for line in live.read_text().splitlines()]
        assert sums(shown) == {(V4[1], 42_003): (10, 10 * OCTETS[V4[1]])}
        assert [record for record in shown if record not in agent.records()] == []
    recorded = tmp_path / "agent.out"
    done = subprocess.run(
        [PROGRAM, "observe", "--input-file", recorded, *udp[:2], "--to-ip", V6[1]],
        capture_output=True, check=True,
    )  # fmt: skip
    lines = recorded.read_bytes().splitlines(keepends=True)
    to = [line for line in lines if json.loads(line)["destination"]["address"] == V6[1]]
    wanted = [line for line in to if b'"udp"' in line]
    assert done.stdout == b"".join(wanted)
    assert len(wanted) == FLOWS


def watchers(agent: Agent) -> int:
    """Who is shown what comes, by the agent's own account."""
    metrics = ask(RUN_DIRECTORY / f"{agent.process.pid}.sock", "/metrics").decode()
    (count,) = re.findall(r"^flow_exporter_watchers (\d+)", metrics, re.MULTILINE)
    return int(count)


def test_a_watcher_that_ends(network: Network, tmp_path: Path) -> None:
    """One that is killed is forgotten by the agent, which goes on."""
    one, other = pair(network)
    with Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.1s",
               "--sink", "null") as agent:  # fmt: skip
        connect(one, other, ADDRESSES)
        with following(agent, tmp_path / "live") as process:
            wait_until(lambda: watchers(agent) == 1, "it is served")
            process.kill()
        wait_until(lambda: watchers(agent) == 0, "it is forgotten")
        send(one, V4[1], 40_000)
        agent.wait_drained()
        assert agent.stop() == 0, agent.log


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ip", "10.0.0.300"], "10.0.0.300 is no address or network"),
        (["--protocol", "http"], "there is no protocol http"),
        (["--since", "yesterday"], "yesterday is no time"),
        (["--port", "80", "--not"], "--not comes before the condition"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
    ],
)
def test_what_cannot_be(arguments: list[str], says: str) -> None:
    """One line, exit code 2, with or without an agent."""
    done = subprocess.run(
        [PROGRAM, "observe", "--input-file", os.devnull, *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_that_is_none(tmp_path: Path) -> None:
    """The line that is no record is named; what came before it was printed."""
    done = subprocess.run(
        [PROGRAM, "observe", "--input-file", tmp_path / "missing"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        1, f"flow-exporter: {tmp_path}/missing: No such file or directory\n"
    )  # fmt: skip
    bad = tmp_path / "bad"
    bad.write_text("{}\n")
    done = subprocess.run(
        [PROGRAM, "observe", "--input-file", bad], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert re.fullmatch(r"flow-exporter: .*/bad, line 1: no flow record: .*\n", done.stderr)
