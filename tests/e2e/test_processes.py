"""Flows are of the process that has the socket, of no other, and of none where it is unclear."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.e2e.agent import Agent, wait_until
from tests.e2e.containers import Container, cgroups
from tests.e2e.net import End, Network, veth
from tests.e2e.talker import Talker

HERE, THERE = "192.0.2.1", "192.0.2.2"


def pair(network: Network) -> tuple[End, End]:
    one, other = End(network.namespace("a"), "va"), End(network.namespace("b"), "vb")
    one.netns.quiet()
    other.netns.quiet()
    veth(one, other, ((f"{HERE}/24",), (f"{THERE}/24",)))
    return one, other


@contextmanager
def watching(end: End, directory: Path, drain: str = "0.2s") -> Iterator[Agent]:
    (directory / "config.yaml").write_text("enrich:\n  processes: {}\n")
    with Agent(end.netns, directory, "--config", str(directory / "config.yaml"),
               "--drain-interval", drain, "--interfaces", end.device) as agent:  # fmt: skip
        yield agent


Known = tuple[int | None, str | None]


def owners(agent: Agent, port: int, side: str) -> set[Known]:
    """What records say of the process at one end of a flow with a port there."""
    ends: list[dict[str, Any]] = [record[side] for record in agent.records()]
    return {
        (one.get("process", {}).get("pid"), one.get("process", {}).get("command"))
        for one in ends
        if one.get("port") == port
    }


def test_sockets_that_live(network: Network, tmp_path: Path) -> None:
    """
    Process and name of clients from their first packet on; of a server's accepted connection once
    it has been looked for; at both ends of both directions, each the truth or nothing.
    """
    one, other = pair(network)
    with (
        cgroups(tmp_path / "cgroup"),
        watching(one, tmp_path) as agent,
        Talker(other.netns, "tcp-server", "far", (THERE, 7001)),
        Talker(one.netns, "tcp-server", "near-server", (HERE, 7002)) as server,
        Talker(one.netns, "tcp", "near-tcp", (THERE, 7001)) as tcp,
        Talker(one.netns, "udp", "near-udp", (THERE, 7003)) as udp,
        Talker(other.netns, "tcp", "far-client", (HERE, 7002)) as client,
    ):

        def is_known(talker: Talker, asked: Talker, side: str) -> bool:
            asked.say()
            return talker.truth in owners(agent, talker.port, side)

        for talker, asked in ((tcp, tcp), (udp, udp), (server, client)):
            for side in ("source", "destination"):
                if (talker, side) != (udp, "destination"):  # nobody answers
                    wait_until(partial(is_known, talker, asked, side), f"{talker.name} {side}")
        for talker in (tcp, udp, server):
            for side in ("source", "destination"):
                assert owners(agent, talker.port, side) <= {talker.truth, (None, None)}
        assert owners(agent, tcp.port, "source") == {tcp.truth}
        assert owners(agent, udp.port, "source") == {udp.truth}
        # The far ends are other namespaces' sockets, seen where their packets come in.
        assert owners(agent, client.port, "source") <= {client.truth, (None, None)}
        assert agent.stop() == 0, agent.log


def test_sockets_that_do_not_live(network: Network, tmp_path: Path) -> None:
    """
    Twenty processes one after the other, all from the same port to the same port, many in one
    drain: none is given another's packets; each from a port of its own: each has its own.
    """
    one, other = pair(network)
    del other
    shared: list[tuple[int, str]] = []
    own: dict[int, tuple[int, str]] = {}
    with cgroups(tmp_path / "cgroup"), watching(one, tmp_path, "1s") as agent:
        for number in range(10):
            with Talker(one.netns, "udp", f"same-{number}", (THERE, 7000), bind=6000) as talker:
                shared.append(talker.truth)
            with Talker(one.netns, "udp", f"own-{number}", (THERE, 7000)) as talker:
                own[talker.port] = talker.truth
        agent.wait_drained()
        assert agent.stop() == 0, agent.log
    for port, truth in own.items():
        assert owners(agent, port, "source") == {truth}
    # One record for several processes is nobody's.
    for record in agent.records():
        if record["source"].get("port") == 6000 and record["flow"]["packets"] > 1:
            assert "process" not in record["source"]
    assert owners(agent, 6000, "source") <= {*shared, (None, None)}


def test_a_process_in_a_container(network: Network, tmp_path: Path) -> None:
    """Container and pod of the socket's cgroup; nothing for a process beside it."""
    one, _ = pair(network)
    with cgroups(tmp_path / "cgroup") as root, Container(root, one.netns, "inside") as container:
        with watching(one, tmp_path) as agent:
            with (
                container.entered(),
                Talker(one.netns, "udp", "inside", (THERE, 7000)) as talker,
            ):

                def found() -> set[Any]:
                    talker.say()
                    return {
                        (
                            record["source"]["container"].get("id"),
                            record["source"]["container"].get("pod_uid"),
                        )
                        for record in agent.records()
                        if record["source"].get("port") == talker.port
                        and "container" in record["source"]
                    }

                wait_until(lambda: (container.id, container.pod) in found(), "the container")
                assert found() <= {(container.id, container.pod), (None, None)}
            with Talker(one.netns, "udp", "outside", (THERE, 7000)) as beside:
                wait_until(
                    lambda: beside.truth in owners(agent, beside.port, "source"), "the other"
                )
            assert agent.stop() == 0, agent.log
        for record in agent.records():
            if record["source"].get("port") == beside.port:
                assert "id" not in record["source"].get("container", {})
