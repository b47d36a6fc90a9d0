"""Names of addresses, learned by the real agent from a real server's answers."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.agent import Agent, wait_until
from tests.e2e.net import End, Network, connect, disconnect, no_offload, plug
from tests.e2e.resolver import Dnsmasq, ask, ask_by_tcp
from tests.e2e.test_exact import by_direction, expected

SERVER, SERVER6 = "192.0.2.2", "2001:db8::2"
FOUR = [f"192.0.2.{number}" for number in range(10, 90)]
SIX = [f"2001:db8::{number:x}" for number in range(10, 20)]
#: Datagrams of a test's own go here.
PORT = 7000
METRICS = "127.0.0.1:9401"


THEIRS = [f"{one}/24" for one in (SERVER, *FOUR)] + [f"{one}/64" for one in (SERVER6, *SIX)]
ADDRESSES = (("192.0.2.1/24", "2001:db8::1/64"), THEIRS)


def cable(network: Network, *, offload: bool = False) -> tuple[End, End]:
    """A client and a server; the link between them is down."""
    client, server = End(network.namespace("a"), "va"), End(network.namespace("b"), "vb")
    plug(client, server)
    if not offload:
        no_offload(client)
        no_offload(server)
    return client, server


def wire(network: Network) -> tuple[End, End]:
    """As :func:`cable`, of many addresses, and the link is up."""
    client, server = cable(network)
    connect(client, server, ADDRESSES)
    return client, server


def configured(directory: Path, **names: Any) -> list[str]:
    """Arguments for an agent that adds names."""
    path = directory / "agent.yaml"
    path.write_text(yaml.safe_dump({"enrich": {"names": names}}))
    return ["--config", str(path), "--interfaces", "va", "--drain-interval", "0.2s",
            "--metrics-address", METRICS]  # fmt: skip


def talk(client: End, addresses: Iterable[str], port: int = PORT) -> None:
    """A datagram to each."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with client.netns.entered():
            sender = socket.socket(family, socket.SOCK_DGRAM)
        with sender:
            for address in addresses:
                if (":" in address) == (family == socket.AF_INET6):
                    sender.sendto(b"hello", (address, port))


def named(agent: Agent, port: int = PORT) -> dict[str, set[str | None]]:
    """destination address -> names that records to a port gave it."""
    found: dict[str, set[str | None]] = {}
    for record in agent.records():
        destination = record["destination"]
        if destination.get("port") == port and record["network"]["transport"] == "udp":
            found.setdefault(destination["address"], set()).add(destination.get("domain"))
    return found


def events(agent: Agent) -> dict[str, float]:
    """What it counts of DNS messages."""
    beginning = 'flow_exporter_enrich_events_total{enricher="names",event="'
    return {
        name.removeprefix(beginning).removesuffix('"}'): count
        for name, count in agent.metrics().items()
        if name.startswith(beginning)
    }


def settle(agent: Agent, addresses: Iterable[str], port: int = PORT) -> dict[str, set[str | None]]:
    """Wait until datagrams to all addresses are in records."""
    wanted = set(addresses)
    wait_until(lambda: set(named(agent, port)) >= wanted, f"records of {len(wanted)} addresses")
    return named(agent, port)


ZONE = [
    "host-record=direct.example.test,192.0.2.10,60",
    "host-record=six.example.test,2001:db8::a,60",
    "cname=www.example.test,second.example.test,120",
    "cname=second.example.test,third.example.test,120",
    "cname=third.example.test,target.example.test,120",
    "host-record=target.example.test,192.0.2.11,2001:db8::b,60",
    *(f"host-record=many.example.test,192.0.2.{number},60" for number in range(12, 20)),
    "host-record=stream.example.test,192.0.2.20,60",
    "host-record=stream6.example.test,2001:db8::c,60",
    "host-record=Upper.Example.TEST,192.0.2.21,60",
    "host-record=never-asked.example.test,192.0.2.22,60",
]


def test_names_of_answers(network: Network, tmp_path: Path) -> None:
    """
    A, AAAA, CNAME chains, several addresses, DNS over TCP in small segments with several messages
    on a connection: each address has the name that was asked for, in either direction of its
    flows, from the answer on. What nobody asked for has none, and no packet is lost or added.
    """
    client, server = cable(network)
    everything = [*FOUR[:13], *SIX[:3]]
    with (
        Dnsmasq(server, tmp_path / "dnsmasq", ZONE),
        Agent(client.netns, tmp_path, *configured(tmp_path)) as agent,
    ):
        connect(client, server, ADDRESSES)
        talk(client, everything, PORT - 1)
        settle(agent, everything, PORT - 1)
        assert ask(client, SERVER, "direct.example.test") == ["192.0.2.10"]
        assert ask(client, SERVER6, "six.example.test", "AAAA") == ["2001:db8::a"]
        assert ask(client, SERVER, "www.example.test") == ["192.0.2.11"]
        assert ask(client, SERVER, "www.example.test", "AAAA") == ["2001:db8::b"]
        assert len(ask(client, SERVER, "many.example.test")) == 8
        assert ask(client, SERVER, "UPPER.example.test") == ["192.0.2.21"]
        assert ask(client, SERVER, "nothing.example.test") == []
        names = (("stream", "A"), ("many", "A"), ("stream6", "AAAA"))
        questions = [(f"{name}.example.test", kind) for name, kind in names]
        streamed = ask_by_tcp(client, SERVER, *questions)
        assert [len(one) for one in streamed] == [1, 8, 1]
        talk(client, everything)
        found = settle(agent, everything)
        metrics, counted = agent.metrics(), events(agent)
        final = disconnect(client)
        assert agent.stop() == 0
        records = agent.records()
    assert found == {
        "192.0.2.10": {"direct.example.test"},
        "2001:db8::a": {"six.example.test"},
        "192.0.2.11": {"www.example.test"},
        "2001:db8::b": {"www.example.test"},
        **{f"192.0.2.{number}": {"many.example.test"} for number in range(12, 20)},
        "192.0.2.20": {"stream.example.test"},
        "2001:db8::c": {"stream6.example.test"},
        "192.0.2.21": {"upper.example.test"},
        "192.0.2.22": {None},
    }
    assert all(names == {None} for names in named(agent, PORT - 1).values())
    for record in records:
        assert record["source"].get("domain") in (None, *found.get(record["source"]["address"], ()))
    assert metrics['flow_exporter_enrich_entries{enricher="names"}'] == 15
    assert counted["answers"] == 9
    assert counted["empty"] == 1
    assert not any(counted[name] for name in ("unsolicited", "malformed", "lost", "cut"))
    assert by_direction(records) == expected(final)


def test_large_answers(network: Network, tmp_path: Path) -> None:
    """
    What fits into 1,232 octets of EDNS, and what does not: the truncated answer names nothing, the
    one over TCP all, in super-packets as the stack makes them.
    """
    client, server = cable(network, offload=True)
    connect(client, server, ADDRESSES)
    fits = FOUR[:70]
    zone = [f"host-record=fits.example.test,{one},60" for one in fits]
    with (
        Dnsmasq(server, tmp_path / "dnsmasq", zone) as dnsmasq,
        Agent(client.netns, tmp_path, *configured(tmp_path)) as agent,
    ):
        assert sorted(ask(client, SERVER, "fits.example.test", payload=1232)) == sorted(fits)
        talk(client, FOUR)
        found = settle(agent, FOUR)
        assert found == {one: {"fits.example.test" if one in fits else None} for one in FOUR}
        assert dnsmasq.asked("A") == {"fits.example.test": 1}
        # Without EDNS there is room for 512 octets.
        assert sorted(ask(client, SERVER, "FITS.example.test", use_edns=False)) == sorted(fits)
        assert dnsmasq.asked("A") == {"fits.example.test": 1, "FITS.example.test": 2}
        wait_until(lambda: events(agent)["answers"] == 2, "the answer over TCP")
        assert events(agent)["empty"] == 1
        assert agent.stop() == 0


def test_names_expire(network: Network, tmp_path: Path) -> None:
    """
    A name is gone once its TTL of a second and two seconds of grace are over; another of a minute
    holds.
    """
    client, server = wire(network)
    zone = [
        "host-record=short.example.test,192.0.2.10,1",
        "host-record=long.example.test,192.0.2.11,60",
    ]
    with (
        Dnsmasq(server, tmp_path / "dnsmasq", zone),
        Agent(client.netns, tmp_path, *configured(tmp_path, minimum=0, grace=2)) as agent,
    ):
        ask(client, SERVER, "short.example.test")
        ask(client, SERVER, "long.example.test")
        answered = time.monotonic()
        talk(client, FOUR[:2])
        soon = settle(agent, FOUR[:2])
        # A drain counts what held at any time of it: one more is waited for.
        time.sleep(max(answered + 3.1 - time.monotonic(), 0))
        drains = agent.drains()
        wait_until(lambda: agent.drains() > drains, "a drain")
        talk(client, FOUR[:2], PORT + 1)
        late = settle(agent, FOUR[:2], PORT + 1)
        assert agent.stop() == 0
    assert soon == {FOUR[0]: {"short.example.test"}, FOUR[1]: {"long.example.test"}}
    assert late == {FOUR[0]: {None}, FOUR[1]: {"long.example.test"}}
