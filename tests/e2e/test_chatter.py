"""Traffic between addresses that nobody has: all of it is captured."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.agent import Agent, wait_until
from tests.e2e.chatter import FRAMES, PORT, Chatter
from tests.e2e.net import End, Network, veth


def test_all_flows_are_captured(network: Network, tmp_path: Path) -> None:
    """As many packets as were sent, three of each flow, none of an address that was not given."""
    one, other = End(network.namespace("a"), "va"), End(network.namespace("b"), "vb")
    for end in (one, other):
        end.netns.quiet()
    veth(one, other)
    addresses = [f"10.128.0.{number}" for number in range(1, 30)] + ["fd00::1", "fd00::2"]
    agent = Agent(other.netns, tmp_path, "--interfaces", "vb", "--drain-interval", "0.2s")
    with agent:
        with Chatter(one, other.netns.mac("vb"), addresses, 500) as chatter:
            wait_until(lambda: len(agent.records()) > 300, "flows are captured")
        agent.stop()
    flows: dict[tuple[str, str, int], int] = {}
    for record in agent.records():
        source, destination = record["source"], record["destination"]
        assert destination["port"] == PORT
        assert {source["address"], destination["address"]} < set(addresses)
        key = source["address"], destination["address"], source["port"]
        flows[key] = flows.get(key, 0) + record["flow"]["packets"]
    assert len(flows) == chatter.flows
    assert set(flows.values()) == {FRAMES}
