"""``observe`` and ``top`` of a real agent over TLS: what was sent, and who may look."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.certificates import Authority, Pair
from tests.e2e.agent import PROGRAM, Agent, wait_until
from tests.e2e.net import End, Network, connect
from tests.e2e.test_exact import ADDRESSES, V4, V6, pair
from tests.e2e.test_observe import COUNT, FLOWS, expected, send, sums

ADDRESS = "127.0.0.1:4244"


def configuration(directory: Path, server: Pair, authority: Authority) -> str:
    """The path of a file that says who may look."""
    path = directory / "config.yaml"
    tls = {"certificate": str(server.certificate), "key": str(server.key),
           "client_ca": str(authority.pem)}  # fmt: skip
    path.write_text(json.dumps({"observe": {"address": ADDRESS, "tls": tls}}))
    return str(path)


def flags(authority: Authority, own: Pair | None) -> list[str]:
    given = ["--server", f"tls://{ADDRESS}", "--tls-ca-cert-files", str(authority.pem)]
    if own is not None:
        given += ["--tls-client-cert-file", str(own.certificate),
                  "--tls-client-key-file", str(own.key)]  # fmt: skip
    return given


def ask(one: End, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        one.netns.command(PROGRAM, *arguments),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def records(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def watchers(agent: Agent) -> float:
    return agent.metrics()["flow_exporter_watchers"]


@dataclass(frozen=True)
class Served:
    """An agent that serves its flows over mutual TLS, and how it is asked."""

    one: End
    agent: Agent
    mine: list[str]
    stranger: list[str]

    def open(self, command: str, *arguments: str, **files: Any) -> subprocess.Popen[str]:
        """A command that goes on."""
        words = self.one.netns.command(PROGRAM, command, *self.mine, *arguments)
        return subprocess.Popen(words, text=True, **files)


@contextmanager
def served(network: Network, directory: Path) -> Iterator[Served]:
    authority, other = Authority(directory / "good"), Authority(directory / "other")
    config = configuration(directory, authority.issue("server", "IP:127.0.0.1"), authority)
    one, peer = pair(network)
    with Agent(one.netns, directory, "--config", config, "--interfaces", one.device,
               "--drain-interval", "0.2s", "--metrics-address", "127.0.0.1:9401",
               "--sink", "stdout") as agent:  # fmt: skip
        connect(one, peer, ADDRESSES)
        yield Served(
            one,
            agent,
            flags(authority, authority.issue("client", "DNS:client.test")),
            flags(authority, other.issue("client", "DNS:client.test")),
        )


def test_over_mutual_tls(network: Network, tmp_path: Path) -> None:
    """To the packet and octet as sent, as the agent's sink has it; a stranger gets one line."""
    with served(network, tmp_path) as to:
        one, agent = to.one, to.agent
        send(one, V4[1], 40_000)
        send(one, V6[1], 41_000)
        agent.wait_drained()
        udp = ["--protocol", "udp", "--all"]
        found = records(ask(one, "observe", *to.mine, *udp))
        assert sums(found) == {**expected(V4[1], 40_000), **expected(V6[1], 41_000)}
        assert [record for record in found if record not in agent.records()] == []
        to_one = records(ask(one, "observe", *to.mine, *udp, "--to-port", "40003"))
        assert sums(to_one) == {(V4[1], 40_003): expected(V4[1], 40_000)[V4[1], 40_003]}
        for command in ("observe", "top"):
            done = ask(one, command, *to.stranger)
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
            assert "does it trust" in done.stderr
        assert agent.stop() == 0, agent.log
        assert "handshake" not in agent.log.lower()


def test_who_looks_on(network: Network, tmp_path: Path) -> None:
    """One that does not read for a while holds up nobody; when the agent goes, it is told."""
    live, said = tmp_path / "live", tmp_path / "said"
    with (
        served(network, tmp_path) as to,
        live.open("w") as out,
        said.open("w") as err,
        to.open("observe", "-f", "--protocol", "udp", stdout=out, stderr=err) as follower,
        to.open("top", "--by", "ports", "--protocol", "udp", "--rounds", "1000",
                stdout=subprocess.PIPE, stderr=subprocess.PIPE) as top,
    ):  # fmt: skip
        agent = to.agent
        try:
            wait_until(lambda: watchers(agent) == 2, "both are served")
            follower.send_signal(signal.SIGSTOP)
            # Below any port that the sender itself may get: a service is at the lower one.
            send(to.one, V4[1], 22_000, 80)
            drains = agent.drains()
            wait_until(lambda: agent.drains() > drains + 2, "it goes on")
            assert agent.wait_drained()["closes"]
            follower.send_signal(signal.SIGCONT)
            wait_until(lambda: live.read_bytes().count(b"\n") >= FLOWS, "the flows that come")
            assert agent.stop() == 0, agent.log
            shown, error = top.communicate(timeout=60)
            wait_until(lambda: "trying again" in said.read_text(), "it is told")
            follower.send_signal(signal.SIGINT)
            assert follower.wait(60) == 1
        finally:
            follower.kill()
            top.kill()
    came = sums([json.loads(line) for line in live.read_text().splitlines()])
    assert came == {place: (2 * packets, 2 * octets)
                    for place, (packets, octets) in expected(V4[1], 22_000).items()}  # fmt: skip
    assert said.read_text().count("\n") == 1
    assert (top.returncode, error) == (0, "")
    # The last table of all.
    last = shown[shown.rindex("by ports") :]
    totals = dict(re.findall(r"^(?:\x1b\[7m)?(udp/\d+) .* (\S+)B", last, re.MULTILINE))
    octets = 2 * COUNT // FLOWS * (14 + 20 + 8 + 100)
    assert totals == {f"udp/{22_000 + n}": f"{octets / 1000:.2f}k" for n in range(FLOWS)}


def test_who_serves_to_whom(network: Network, tmp_path: Path) -> None:
    """Beyond loopback it needs TLS, or a word; and it is said that anybody may look."""
    one, _ = pair(network)
    base = ["run", "--interfaces", one.device, "--sink", "null"]
    done = ask(one, *base, "--observe-address", "0.0.0.0:4244")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "observe: 0.0.0.0:4244 is not loopback: give tls.certificate" in done.stderr
    config = tmp_path / "config.yaml"
    config.write_text("observe: {address: ':4244', plaintext: true}\n")
    with Agent(one.netns, tmp_path, *base[1:], "--config", str(config)) as agent:
        assert "whoever reaches :4244 sees all flows" in agent.log
        assert records(ask(one, "observe", "--server", ADDRESS)) == []
        assert records(ask(one, "observe", "--server", "[::1]:4244")) == []
        done = ask(one, *base, "--observe-address", ADDRESS)
        assert done.returncode == 1
        assert f"cannot serve flows on {ADDRESS}: is the address another's?" in done.stderr
        assert agent.stop() == 0, agent.log
