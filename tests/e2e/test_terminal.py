"""The agent on a real terminal."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time

from tests import patience
from tests.e2e import traffic
from tests.e2e.agent import PROGRAM, wait_until
from tests.e2e.net import Network, connect
from tests.e2e.test_exact import ADDRESSES, V4, pair


def test_a_stopped_terminal_does_not_keep_it(network: Network) -> None:
    """
    Ctrl-S on the terminal of both its table and its log, and then a signal from elsewhere: the
    agent ends in time, with 0.
    """
    one, other = pair(network)
    connect(one, other, ADDRESSES)
    screen, terminal = os.openpty()
    seen = b""

    def said(text: bytes) -> bool:
        nonlocal seen
        while select.select([screen], [], [], 0)[0]:
            seen += os.read(screen, 1 << 16)
        return text in seen

    agent = subprocess.Popen(
        one.netns.command(PROGRAM, "run", "--sink", "stdout", "--drain-interval", "0.2s"),
        stdout=terminal, stderr=terminal, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    try:
        wait_until(lambda: said(b"capturing on"), "the agent captures")
        traffic.run(one.netns, "icmp", "--host", V4[1], "--count", 5, "--size", 10)
        wait_until(lambda: said(b"SOURCE"), "the table is drawn")
        os.write(screen, b"\x13")
        # There is always something to draw while it is stopped.
        traffic.run(one.netns, "icmp", "--host", V4[1], "--count", 5, "--size", 10)
        time.sleep(1)
        agent.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert agent.wait(30 * patience.FACTOR) == 0
        assert time.monotonic() - began < 8 * patience.FACTOR
    finally:
        agent.kill()
        agent.wait()
        os.close(screen)
        os.close(terminal)
