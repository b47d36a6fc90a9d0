"""
Captured flows between the addresses of pods that come and go, and whose they were.

The agent as it is run, packets on a wire, a real API server that is killed meanwhile; each end of
every record is held against who had the address at the time of the flow.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.agent import Agent, wait_until
from tests.e2e.apiserver import ApiServer, reading
from tests.e2e.chatter import FRAMES, PORT, Chatter
from tests.e2e.churn import Churn
from tests.e2e.cluster import Cluster, Owner
from tests.e2e.judge import judge
from tests.e2e.net import End, Network, veth
from tests.e2e.population import Population, populate

#: The measured case has 10000 pods, and the API server is away for 60 s.
_PODS = int(os.environ.get("TEST_PODS", "1000"))
_OUTAGE = float(os.environ.get("TEST_OUTAGE", "1.5"))
#: Changes before the API server goes, and after it has come back.
_CHANGES = int(os.environ.get("TEST_CHANGES", "100"))
_SECOND = 1_000_000_000
_RULES = reading("pods", "services", "nodes", "batch/jobs")
_HEALTHY = 'flow_exporter_enrich_healthy{enricher="kubernetes"}'


def _agent(directory: Path, server: ApiServer, end: End) -> Agent:
    config = directory / "agent.yaml"
    kubeconfig = server.kubeconfig(server.reader("agent", _RULES))
    config.write_text(f"enrich: {{kubernetes: {{kubeconfig: {kubeconfig}}}}}")
    return Agent(
        end.netns, directory, "--config", str(config), "--interfaces", end.device,
        "--drain-interval", "0.5s", "--sink", "stdout", "--metrics-address", "127.0.0.1:9401",
    )  # fmt: skip


def _is_healthy(agent: Agent) -> bool:
    return agent.metrics()[_HEALTHY] == 1


def _flows(agent: Agent) -> list[dict[str, Any]]:
    """Records of what was sent; the agent talks to the API server by another device."""
    return [one for one in agent.records() if one["destination"].get("port") == PORT]


@pytest.mark.parametrize("away", [False, True], ids=["there", "away"])
def test_whose_the_addresses_were(network: Network, tmp_path: Path, away: bool) -> None:
    """
    No end of a flow is given to another than who had the address then, nor to nobody without need.

    Pods follow each other at once while the server is there. One that is away cannot say that an
    address has changed hands, so that addresses rest for some seconds then, as in any cluster.
    """
    one, other = End(network.namespace("a"), "va"), End(network.namespace("b"), "vb")
    for end in (one, other):
        end.netns.quiet()
    veth(one, other)
    with ApiServer(tmp_path, other.netns) as server:
        cluster = Cluster(server)
        pods = populate(cluster, Population(pods=_PODS, dual=True))
        moving = [pod for pod in pods[::3] if pod.holds][:200]
        owners: list[Owner | str] = [cluster.owner("Deployment", "ns-0", "new"), "ns-1"]
        # Pods that stay, nodes by pods in their network, services, and addresses of nobody.
        there = {address for pod in [*moving, *pods[1::9][:200]] for address in pod.addresses}
        there |= {
            one for one in cluster.truth.addresses() if one.startswith(("10.96.", "fd00:10:96"))
        }
        addresses = [*sorted(there), "203.0.113.1", "2001:db8::1"]
        with _agent(tmp_path, server, other) as agent:
            wait_until(lambda: _is_healthy(agent), "all is listed")
            with (
                Churn(cluster, moving, owners, pause=0.02, cooldown=5 if away else 0) as churn,
                Chatter(one, other.netns.mac("vb"), addresses, 400) as chatter,
            ):
                wait_until(lambda: churn.done.total() >= _CHANGES, "changes")
                doubt = (0, 0)
                if away:
                    begun = time.time_ns()
                    server.kill()
                    time.sleep(_OUTAGE)
                    server.start()
                    wait_until(lambda: _is_healthy(agent), "it is well again")
                    doubt = (begun, time.time_ns())
                    wait_until(lambda: churn.done.total() >= 2 * _CHANGES, "more changes")
            agent.stop()
    assert sum(record["flow"]["packets"] for record in _flows(agent)) == FRAMES * chatter.flows
    tally = judge(
        cluster.truth, _flows(agent), lag_ns=3 * _SECOND, slack_ns=_SECOND // 20,
        near_ns=2 * _SECOND,
    )  # fmt: skip
    assert tally.wrong == []
    # Nothing is said while everything is listed anew; of what is over, until that is heard of.
    begun, ended = doubt
    assert [one for one in tally.missed if not begun <= one.end_ns <= ended] == []
    assert [one for one in tally.late if not begun <= one.end_ns <= ended] == []
    assert tally.right > tally.unknown > 0
