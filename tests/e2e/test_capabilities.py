"""
Each feature works, exactly, with the capabilities that it is said to need; without one of them the
agent says which, what to do, and ends.
"""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.e2e import traffic
from tests.e2e.agent import Agent, wait_until
from tests.e2e.containers import Container, cgroups
from tests.e2e.net import End, Network, connect, disconnect
from tests.e2e.privileges import BASE, NOBODY, bits, limited, status
from tests.e2e.resolver import Dnsmasq, ask
from tests.e2e.test_errors import one_line
from tests.e2e.test_exact import V4, by_direction, expected, pair
from tests.e2e.test_ledger import assert_nothing_left
from tests.e2e.test_processes import owners
from tests.e2e.user import User
from tests.kernel.bpffs import bpffs
from tests.kernel.hooks import quiet_pair

ADDRESSES = ((f"{V4[0]}/24",), (f"{V4[1]}/24",))
CAPTURE = "tests/packets/captures/udp_sctp.pcap"
#: The arguments that ask for a feature, and what it needs beside the rest.
COMMANDS = {
    "run": (["run"], BASE),
    "replay": (["replay", CAPTURE], BASE),
    "unpin": (["unpin"], ("BPF", "NET_ADMIN")),
}
KEYS = {
    "capture.netns": ("capture: {netns: nowhere}", ("SYS_ADMIN",)),
    "capture.containers": ("capture: {containers: true}", ("SYS_ADMIN", "SYS_PTRACE")),
    "enrich.processes": (
        "enrich: {processes: {}}",
        ("SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"),
    ),
}


def speak(one: End, other: End) -> None:
    """Datagrams of fifty flows, and echoes."""
    connect(one, other, ADDRESSES)
    traffic.run(one.netns, "udp", "--host", V4[1], "--count", 500, "--flows", 50, "--size", 100,
                "--first_port", 40_000)  # fmt: skip
    traffic.run(one.netns, "icmp", "--host", V4[1], "--count", 20, "--size", 100)


def quiet(network: Network) -> tuple[End, End]:
    """A pair that is still down, and on which nobody speaks but the test."""
    one, other = pair(network)
    one.netns.quiet()
    other.netns.quiet()
    return one, other


@pytest.mark.parametrize(("uid", "hook"), [(0, "tc"), (NOBODY, "tcx")])
def test_the_least_set_suffices(network: Network, tmp_path: Path, uid: int, hook: str) -> None:
    """Root with three capabilities, and nobody with the same: every packet, in both ways."""
    one, other = quiet(network)
    with Agent(one.netns, tmp_path, "--interfaces", one.device, "--attach", hook,
               program=limited(BASE, uid)) as agent:  # fmt: skip
        speak(one, other)
        seen = disconnect(one)
        found = status(agent)
        assert agent.stop() == 0, agent.log
    assert by_direction(agent.records()) == expected(seen)
    assert seen.tx_packets >= 520
    assert found["Uid"].split() == [str(uid)] * 4
    assert {found[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {bits(BASE)}
    assert found["NoNewPrivs"] == "1"
    assert_nothing_left(one)


def test_without_each(network: Network, tmp_path: Path) -> None:
    """One line with what needs what, an exit code, and nothing attached: all features, all sets."""
    one, _ = quiet_pair(network)
    cases: list[tuple[str, str, list[str], tuple[str, ...]]] = []
    for name, (arguments, needs) in COMMANDS.items():
        cases += [(name, lacking, arguments, needs) for lacking in needs]
    for number, (name, (config, more)) in enumerate(KEYS.items()):
        path = tmp_path / f"{number}.yaml"
        path.write_text(f"{config}\n")
        # CAP_SYS_ADMIN would make up for CAP_BPF and CAP_PERFMON, which are in the first cases.
        cases += [
            (name, lacking, ["run", "--config", str(path)], (*BASE, *more)) for lacking in more
        ]
    running = [
        subprocess.Popen(
            one.netns.command(*limited([has for has in needs if has != lacking]), *arguments),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _, lacking, arguments, needs in cases
    ]  # fmt: skip
    for (name, lacking, _, _), process in zip(cases, running, strict=True):
        out, err = process.communicate()
        line = one_line(err)
        assert line.startswith(f"flow-exporter: '{name}' needs CAP_{lacking}: root lacks them here")
        assert f"so add {lacking} to what the container or the service may have" in line
        assert (f"or leave {name} out" in line.replace("--netns and ", "")) == (name in KEYS)
        assert (process.returncode, out) == (1, "")
    assert len(cases) == 14
    assert_nothing_left(one)


def test_nobody_without_any(network: Network) -> None:
    """Who is not root is told to be, or what to be granted."""
    one, _ = quiet_pair(network)
    done = subprocess.run(one.netns.command(*limited((), NOBODY), "run"), capture_output=True,
                          text=True, check=False)  # fmt: skip
    line = one_line(done.stderr)
    assert "'run' needs CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN: run it as root" in line
    assert "or grant them" in line
    assert done.returncode == 1


def test_replay_and_bcc() -> None:
    """A capture file through the program that this host's compiler made."""
    done = subprocess.run(
        [*limited(BASE), "replay", "--loader", "bcc", CAPTURE],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "frames: 6  flows: 5  packets: 6 " in done.stderr


def test_pins(network: Network, tmp_path: Path) -> None:
    """Pins need none: a successor goes on without a gap, and they are taken away with fewer."""
    one, other = quiet(network)
    with bpffs(tmp_path) as root:
        arguments = ["--interfaces", one.device, "--pin", str(root / "pins")]
        (tmp_path / "first").mkdir()
        with Agent(one.netns, tmp_path / "first", *arguments, program=limited(BASE)) as first:
            assert first.stop() == 0, first.log
        speak(one, other)
        (tmp_path / "second").mkdir()
        with Agent(one.netns, tmp_path / "second", *arguments, program=limited(BASE)) as second:
            seen = disconnect(one)
            assert second.stop() == 0, second.log
        assert by_direction(first.records() + second.records()) == expected(seen)
        done = subprocess.run(
            one.netns.command(*limited(COMMANDS["unpin"][1]), "unpin", str(root / "pins")),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert_nothing_left(one)


def test_pins_without_a_file_system(network: Network, tmp_path: Path) -> None:
    """Only who may mount has one mounted by the agent; the others are told how."""
    one, _ = quiet_pair(network)
    gone = ["sh", "-c", 'while umount -l /sys/fs/bpf 2>/dev/null; do :; done; exec "$@"', "sh"]
    done = subprocess.run(
        one.netns.command(*gone, *limited(BASE), "run", "--pin"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    line = one_line(done.stderr)
    assert "mount a BPF file system at /sys/fs/bpf: Operation not permitted (EPERM)" in line
    assert "needs CAP_SYS_ADMIN: run 'mount -t bpf bpf /sys/fs/bpf' before" in line
    assert done.returncode == 1


def test_names(network: Network, tmp_path: Path) -> None:
    """Names from answers on the wire need none: a real server's."""
    one, other = quiet(network)
    (tmp_path / "config.yaml").write_text("enrich: {names: {}}\n")
    with (
        Dnsmasq(other, tmp_path / "dns", [f"address=/web.test/{V4[1]}"]),
        Agent(one.netns, tmp_path, "--config", str(tmp_path / "config.yaml"), "--interfaces",
              one.device, program=limited(BASE)) as agent,
    ):  # fmt: skip
        connect(one, other, ADDRESSES)
        assert ask(one, V4[1], "web.test") == [V4[1]]
        traffic.run(one.netns, "icmp", "--host", V4[1], "--count", 1, "--size", 9)
        assert agent.stop() == 0, agent.log
    echoes = [r for r in agent.records() if r["flow"].get("icmp", {}).get("type") == 8]
    assert [record["destination"].get("domain") for record in echoes] == ["web.test"]


def test_namespaces(network: Network, tmp_path: Path) -> None:
    """Another namespace's interface, from outside of it."""
    one, other = quiet(network)
    here = network.namespace("here")
    with Agent(here, tmp_path, "--interfaces", one.device, "--netns", one.netns.name,
               program=limited([*BASE, "SYS_ADMIN"])) as agent:  # fmt: skip
        wait_until(partial(agent.says, f"observing {one.device} "), "it is observed")
        speak(one, other)
        seen = disconnect(one)
        assert agent.stop() == 0, agent.log
    assert by_direction(agent.records()) == expected(seen)
    assert_nothing_left(one)


def test_processes_and_containers(network: Network, tmp_path: Path) -> None:
    """
    The process of another user that has a socket since before the agent was there, and the
    container behind an interface.
    """
    one, other = quiet(network)
    needs = {*KEYS["enrich.processes"][1], *KEYS["capture.containers"][1]}
    (tmp_path / "config.yaml").write_text(
        "capture: {containers: true, poll_interval: 100ms}\nenrich: {processes: {}}\n"
    )
    connect(one, other, ADDRESSES)
    with (
        cgroups(tmp_path / "cgroup") as root,
        Container(root, other.netns, "there") as container,
        User(one.netns, NOBODY, (V4[1], 7000)) as user,
        Agent(one.netns, tmp_path, "--config", str(tmp_path / "config.yaml"), "--interfaces",
              one.device, "--drain-interval", "0.2s",
              program=limited([*BASE, *sorted(needs)])) as agent,
    ):  # fmt: skip
        wait_until(partial(agent.says, f"is of container {container.id}"), "the container")

        def is_known() -> bool:
            user.say()
            return (user.pid, user.name) in owners(agent, user.port, "source")

        wait_until(is_known, "the process")
        assert agent.stop() == 0, agent.log
