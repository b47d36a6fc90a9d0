"""Reverse look-ups by the real agent at a real server: what is asked, how fast, what it gives."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from pathlib import Path

from exporter.enrich.dns.reverse import pointer_name
from exporter.testing.batch import pack_address
from tests.e2e.agent import Agent, wait_until
from tests.e2e.net import Network
from tests.e2e.resolver import Dnsmasq, ask
from tests.e2e.test_names import (
    FOUR,
    PORT,
    SERVER,
    SIX,
    configured,
    events,
    named,
    settle,
    talk,
    wire,
)

RATE = 20
#: Of FOUR: within the first network, and outside.
INSIDE, OUTSIDE = FOUR[6:22], FOUR[22:30]
NETWORKS = ["192.0.2.16/28", "2001:db8::c/127"]


def zone(own: str) -> list[str]:
    """Names for all but the last four inside."""
    return [
        "local=/2.0.192.in-addr.arpa/",
        "local=/ip6.arpa/",
        *(f"host-record=h{n}.{own},{one},600" for n, one in enumerate((*INSIDE[:-4], *OUTSIDE))),
        f"host-record=six.{own},2001:db8::c,600",
        f"host-record=asked.{own},{INSIDE[0]},600",
    ]


def test_reverse(network: Network, tmp_path: Path) -> None:
    """
    Each address of the networks that has no passive name is asked for once, whatever comes of it,
    and no other; at most 20 a second, as the agent's own flow records have it: each query is a flow
    from a port of its own. Names stand in the records that come after the answer.
    """
    client, server = wire(network)
    everything = [*INSIDE, *OUTSIDE, *SIX[:4]]
    arguments = configured(
        tmp_path, reverse={"resolvers": [SERVER], "networks": NETWORKS, "rate": RATE}
    )
    # 192.0.2.16 to .31 without the passive name, and 2001:db8::c and ::d.
    wanted = [*INSIDE[1:], *SIX[2:4]]
    with (
        Dnsmasq(server, tmp_path / "dnsmasq", zone("example.test")) as dnsmasq,
        Agent(client.netns, tmp_path, *arguments) as agent,
    ):
        assert ask(client, SERVER, "asked.example.test") == [INSIDE[0]]
        for port in (PORT, PORT + 1):
            talk(client, everything, port)
            settle(agent, everything, port)
            wait_until(lambda: dnsmasq.asked("PTR").total() >= len(wanted), "all are asked for")
        counts = events(agent)
        talk(client, everything, PORT + 2)
        found = settle(agent, everything, PORT + 2)
        assert agent.stop() == 0
        asked = dnsmasq.asked("PTR")
        started = starts_of_queries(agent)
    assert asked == {pointer_name(pack_address(one)): 1 for one in wanted}
    assert found == {
        INSIDE[0]: {"asked.example.test"},
        **{one: {f"h{n}.example.test"} for n, one in enumerate(INSIDE[:-4]) if n},
        **{one: {None} for one in (*INSIDE[-4:], *OUTSIDE, *SIX[:2], SIX[3])},
        SIX[2]: {"six.example.test"},
    }
    assert counts["reverse_sent"] == len(wanted) == len(started)
    assert (counts["reverse_named"], counts["reverse_unnamed"]) == (12, 5)
    assert counts["reverse_failed"] == counts["reverse_foreign"] == 0
    # Of the records' times the last three digits are cut off.
    gaps = [later - earlier for earlier, later in pairwise(started)]
    assert min(gaps) >= 1 / RATE - 1e-5


def starts_of_queries(agent: Agent) -> list[float]:
    """Seconds; of flows to the server, each from a port of its own. The first is the client's."""
    flows = {
        record["source"]["port"]: datetime.fromisoformat(record["time"]["start"]).timestamp()
        for record in agent.records()
        if record["destination"].get("port") == 53 and record["flow"]["direction"] == "egress"
    }
    return sorted(flows.values())[1:]


def test_a_server_that_is_away(network: Network, tmp_path: Path) -> None:
    """
    Flows go on without names, /readyz and the metrics say what is wrong, and each address is asked
    for as often as configured.
    """
    client, _ = wire(network)
    arguments = configured(
        tmp_path,
        passive=False,
        reverse={"resolvers": [SERVER], "networks": ["192.0.2.0/24"], "rate": 1000, "timeout": 0.1},
    )
    with Agent(client.netns, tmp_path, *arguments) as agent:
        talk(client, FOUR[:5])
        settle(agent, FOUR[:5])
        # Those five, the agent's own, and the server that it asks.
        wait_until(lambda: events(agent)["reverse_failed"] == 7, "all are given up")
        assert agent.metrics()['flow_exporter_enrich_healthy{enricher="names"}'] == 0
        assert f"no answer from {SERVER}:53" in agent._fetch("/readyz")
        talk(client, FOUR[:5], PORT + 1)
        settle(agent, FOUR[:5], PORT + 1)
        counts = events(agent)
        assert agent.stop() == 0
    assert all(names == {None} for names in named(agent, PORT + 1).values())
    assert (counts["reverse_failed"], counts["reverse_sent"]) == (7, 2 * 7)
