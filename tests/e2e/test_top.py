"""``flow-exporter top`` beside a real agent: in a pipe, and on a real terminal."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import missing
from tests.e2e import traffic
from tests.e2e.agent import PROGRAM, Agent, wait_until
from tests.e2e.net import Network, connect
from tests.e2e.test_exact import ADDRESSES, V4, V6, pair
from tests.e2e.test_observe import watchers


def test_sums_in_a_pipe(network: Network, tmp_path: Path) -> None:
    """One round: what was sent to each port, as it was sent."""
    one, other = pair(network)
    with Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "1s",
               "--sink", "null") as agent:  # fmt: skip
        connect(one, other, ADDRESSES)
        traffic.run(one.netns, "icmp", "--host", V4[1], "--count", 1, "--size", 8)
        agent.wait_drained()
        with subprocess.Popen(
            [PROGRAM, "top", "--pid", str(agent.process.pid), "--by", "ports", "--rounds", "3",
             "--protocol", "udp", "--to-ip", V6[1]],
            stdout=subprocess.PIPE, text=True, env={"COLUMNS": "80", "PATH": "/usr/bin"},
        ) as top:  # fmt: skip
            wait_until(lambda: watchers(agent) == 1, "it is served")
            # From here, at once: there are three rounds, and a process takes long to start.
            with one.netns.entered():
                sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            with sender:
                for number in range(1000):
                    sender.sendto(bytes(100), (V6[1], 5000 + number % 2))
            try:
                out, _ = top.communicate(timeout=60)
            finally:
                top.kill()
        assert top.returncode == 0
        assert agent.stop() == 0, agent.log
    last = out[out.rindex("by ports") :]
    totals = dict(re.findall(r"^(udp/\d+) .* (\S+B)", last, re.MULTILINE))
    assert "\x1b" not in out
    # 500 datagrams of 14 + 40 + 8 + 100 octets each.
    assert totals == {"udp/5000": "81.0kB", "udp/5001": "81.0kB"}


@contextmanager
def tmux(directory: Path, *command: str) -> Iterator[list[str]]:
    """A terminal of 80 by 24 with a program in it; the words that begin each command to it."""
    base = ["tmux", "-S", str(directory / "tmux"), "-f", "/dev/null"]
    subprocess.run(
        [*base, "new-session", "-d", "-x", "80", "-y", "24", *command],
        check=True, env={"TERM": "xterm-256color", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    try:
        yield base
    finally:
        subprocess.run([*base, "kill-server"], check=False)


def shown(base: list[str]) -> str:
    done = subprocess.run([*base, "capture-pane", "-p"], capture_output=True, text=True, check=True)
    return done.stdout


def type_keys(base: list[str], *keys: str) -> None:
    subprocess.run([*base, "send-keys", *keys], check=True)


def test_on_a_terminal(network: Network, tmp_path: Path) -> None:
    """Rows appear, a row is looked into and left again, text narrows, q leaves."""
    if shutil.which("tmux") is None:
        missing("tmux is not installed: 'make test-setup' installs it")
    one, other = pair(network)
    with Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.3s",
               "--sink", "null") as agent:  # fmt: skip
        connect(one, other, ADDRESSES)
        command = [PROGRAM, "top", "--pid", str(agent.process.pid), "--protocol", "udp"]
        with tmux(tmp_path, *command) as base:
            wait_until(lambda: "by talkers" in shown(base), "the screen")
            traffic.run(one.netns, "udp", "--host", V4[1], "--count", 1000, "--flows", 1,
                        "--size", 1000, "--first_port", 5000)  # fmt: skip
            # 1000 datagrams of 14 + 20 + 8 + 1000 octets.
            wait_until(lambda: re.search(rf"{V4[1]} .* 1\.04MB", shown(base)), "the totals")
            assert max(map(len, shown(base).splitlines())) <= 80
            type_keys(base, "/", *V4[0], "Enter")
            wait_until(lambda: f"with '{V4[0]}'" in shown(base), "the text")
            assert f"\n{V4[1]} " not in shown(base)
            type_keys(base, "Enter")
            about = f"by pairs  most bytes first  protocol udp  ip {V4[0]}"
            wait_until(lambda: about in shown(base), "inside")
            type_keys(base, "Escape")
            wait_until(lambda: "by talkers" in shown(base), "back")
            type_keys(base, "Tab")
            wait_until(lambda: "by pairs" in shown(base), "the next view")
            type_keys(base, "q")
            wait_until(lambda: gone(base), "it has left")
        assert agent.stop() == 0, agent.log


def gone(base: list[str]) -> bool:
    """The terminal closes with its program."""
    done = subprocess.run([*base, "list-sessions"], capture_output=True, check=False)
    return done.returncode != 0
