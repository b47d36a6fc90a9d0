"""Identity, labels and exclusions in the real agent: what is not published is counted exactly."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import communityid
import pytest
import yaml

from tests.e2e import traffic
from tests.e2e.agent import Agent, wait_until
from tests.e2e.net import End, Network, connect, disconnect
from tests.e2e.test_errors import run
from tests.e2e.test_exact import ADDRESSES, V4, V6, listen, pair
from tests.kernel.loader import chosen
from tests.packets.command import replay

NOISE, OTHER = 7777, 8888
#: Ethernet, IPv4 and UDP headers.
HEADERS = 14 + 20 + 8
IDENTITY = {"community_id": True, "flow_id": True, "initiator": True}


def settings(path: Path, team: str, **exclude: str) -> Path:
    path.write_text(
        yaml.safe_dump(
            {
                "enrich": {
                    "identity": IDENTITY,
                    "labels": {"team": team},
                    "derive": [
                        {
                            "name": "tier",
                            "value": 'cidr(destination.address, "192.0.2.2/32") ? "back" : ""',
                        }
                    ],
                },
                "exclude": [{"name": name, "when": when} for name, when in exclude.items()],
            }
        )
    )
    return path


def send(end: End, port: int, count: int, size: int) -> None:
    traffic.run(end.netns, "udp", "--host", V4[1], "--count", count, "--flows", 1, "--size", size,
                "--first_port", port)  # fmt: skip


def to(records: list[dict[str, Any]], port: int) -> list[dict[str, Any]]:
    return [record for record in records if record["destination"].get("port") == port]


def test_excluded_is_what_was_sent_there(network: Network, tmp_path: Path) -> None:
    """
    Datagrams to one port are dropped, to the packet and the octet, over many drains; everything
    else has its labels; the ledger closes. A new configuration takes effect without a restart, a
    wrong one changes nothing.
    """
    one, other = pair(network)
    path = settings(
        tmp_path / "config.yaml", "a", noise=f"destination.port == {NOISE}", none="false"
    )
    with Agent(one.netns, tmp_path, "--config", str(path), "--interfaces", one.device,
               "--drain-interval", "0.1s",
               "--metrics-address", "127.0.0.1:9401") as agent:  # fmt: skip
        connect(one, other, ADDRESSES)
        for _ in range(3):
            send(one, NOISE, 5000, 100)
            send(one, OTHER, 3000, 30)
        ledger = agent.wait_drained()
        settings(path, "b", later='labels.team == "c"')
        wait_until(lambda: agent.says("enrich.labels changed, exclude changed"), "read again")
        settings(path, "c", wrong="source.prt == 1")
        wait_until(lambda: agent.says("exclude[wrong].when: column 7"), "refused")
        before = len(agent.records())
        send(one, NOISE, 500, 100)
        counters = disconnect(one)
        final = agent.wait_drained()
        metrics = agent.metrics()
        assert agent.stop() == 0, agent.log
    noise = ledger["excluded"]["noise"]
    assert (noise["packets"], noise["octets"]) == (15_000, 15_000 * (100 + HEADERS))
    assert ledger["excluded"]["none"] == {"flows": 0, "packets": 0, "octets": 0}
    for balance in (ledger, final):
        assert balance["closes"]
        for unit in ("flows", "packets", "octets"):
            excluded = sum(totals[unit] for totals in balance["excluded"].values())
            became = balance["deduplicated"][unit] + excluded + balance["published"][unit]
            assert balance["drained"][unit] == became
    assert final["excluded"] == {**ledger["excluded"], "later": dict.fromkeys(noise, 0)}
    assert metrics['flow_exporter_excluded_packets_total{exclusion="noise"}'] == 15_000
    records = agent.records()
    assert len(records) == final["published"]["flows"]
    assert agent.packets() == counters.rx_packets + counters.tx_packets - 15_000
    assert sum(r["flow"]["packets"] for r in to(records[:before], OTHER)) == 9000
    assert not to(records[:before], NOISE)
    assert sum(r["flow"]["packets"] for r in to(records, NOISE)) == 500
    assert {r["labels"]["team"] for r in records} == {"a", "b"}
    assert {r["labels"]["team"] for r in to(records, NOISE)} == {"b"}
    for record in records:
        expected = "back" if record["destination"]["address"] == V4[1] else None
        assert record["labels"].get("tier") == expected


def test_identity(network: Network, tmp_path: Path) -> None:
    """
    Community IDs are the library's, both directions' equal; a flow has one id in every drain; the
    client began every connection, though its port is the lower one.
    """
    one, other = pair(network)
    path = settings(tmp_path / "config.yaml", "a")
    with Agent(one.netns, tmp_path, "--config", str(path), "--interfaces", one.device,
               "--drain-interval", "0.1s") as agent:  # fmt: skip
        connect(one, other, ADDRESSES)
        servers = [listen(other, V4[1], 61_001, 5), listen(other, V6[1], 61_002, 5)]
        senders = [
            traffic.start(one.netns, "tcp", "--host", host, "--port", port, "--connections", 5,
                          "--octets", 2_000_000)
            for host, port in ((V4[1], 61_001), (V6[1], 61_002))
        ]  # fmt: skip
        for process in (*senders, *servers):
            traffic.finish(process)
        disconnect(one)
        agent.wait_drained()
        assert agent.stop() == 0, agent.log
    tcp = [record for record in agent.records() if record["network"]["transport"] == "tcp"]
    ids: dict[tuple[Any, ...], set[int]] = defaultdict(set)
    for record in tcp:
        source, destination, flow = record["source"], record["destination"], record["flow"]
        key = (source["address"], destination["address"], source["port"], destination["port"])
        expected = communityid.CommunityID().calc(communityid.FlowTuple.make_tcp(*key))
        assert record["network"]["community_id"] == expected
        ids[key].add(flow["id"])
        began = "source" if destination["port"] in (61_001, 61_002) else "destination"
        assert (flow["initiator"], flow["biflow_direction"]) == (
            began, {"source": 1, "destination": 2}[began],
        )  # fmt: skip
        assert flow["initiator_rule"] in ("syn", "remembered")
    assert len(ids) == 20
    assert all(len(some) == 1 for some in ids.values())
    assert len(set.union(*ids.values())) == 20


@pytest.mark.parametrize("command", ["check", "run", "replay"])
def test_an_expression_that_is_wrong(tmp_path: Path, command: str) -> None:
    """One line, exit code 2, whatever was asked for."""
    path = settings(tmp_path / "config.yaml", "a", noise="destination.prt == 1")
    files = ["tests/packets/captures/ethernet_tcp.pcap"] if command == "replay" else []
    code, out, err = run(command, "--config", str(path), *files)
    assert (code, out) == (2, "")
    assert err == (
        "flow-exporter: exclude[noise].when: column 12: there is no destination.prt: did you mean "
        "destination.port?\n"
    )


def test_replay(tmp_path: Path) -> None:
    """A capture's flows have labels and ids too, and those that are excluded are counted."""
    capture = Path("tests/packets/captures/ethernet_tcp.pcap").absolute()
    whole = replay(capture, "--loader", chosen())
    ports = {record["destination"]["port"] for record in whole.records}
    port = min(ports)
    path = settings(tmp_path / "config.yaml", "a", some=f"destination.port == {port}")
    done = replay(capture, "--config", str(path), "--loader", chosen())
    assert (done.code, done.errors) == (0, [])
    kept = [record for record in whole.records if record["destination"]["port"] != port]
    assert done.summary["flows"] == len(done.records) == len(kept) < len(whole.records)
    assert done.summary["excluded"] == len(whole.records) - len(kept)
    assert done.summary["packets"] == whole.summary["packets"]
    assert all(record["labels"]["team"] == "a" for record in done.records)
    assert all("community_id" in record["network"] for record in done.records)
