"""The real agent says what files and its configuration say of addresses, ports and itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests import databases
from tests.e2e import traffic
from tests.e2e.agent import Agent, wait_until
from tests.e2e.net import Network, connect
from tests.e2e.test_exact import ADDRESSES, V4, V6, pair

HERE, THERE = V4
SIX = V6[1]


def configuration(directory: Path, schema: str) -> Path:
    """Networks in the configuration and a table, two databases, services, the agent's place."""
    table = directory / "zones.csv"
    table.write_text(f"{THERE}/32,,zone=a,team=blue\n")
    databases.write(
        directory / "city.mmdb",
        [(f"{THERE}/32", databases.city("DE", "Berlin", "BE")),
         (f"{SIX}/128", databases.city("NZ", continent="OC"))],
    )  # fmt: skip
    databases.write(
        directory / "asn.mmdb", [(f"{THERE}/32", databases.asn(64500, "Example"))],
        kind="GeoLite2-ASN",
    )  # fmt: skip
    content = {
        "enrich": {
            "networks": {
                "cidrs": {"test": [f"{HERE}/24"], "six": [f"{SIX}/64"]},
                "files": [str(table)],
                "labels": ["team"],
            },
            "geoip": {"databases": [str(directory / "city.mmdb"), str(directory / "asn.mmdb")]},
            "services": {"names": {"udp/40000": "shown"}},
        },
        "agent": {"cloud": {"provider": "own", "zone": "rack-3"}},
        "sinks": [{"type": "stdout", "schema": schema}],
    }
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def send(one: Any) -> None:
    for host in (THERE, SIX):
        traffic.run(one.netns, "udp", "--host", host, "--count", 5, "--flows", 1, "--size", 10,
                    "--first_port", 40_000)  # fmt: skip


def by_destination(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last record to each address."""
    return {record["destination"]["address"]: record for record in records}


def test_nested(network: Network, tmp_path: Path) -> None:
    """
    Both ends, IPv4 and IPv6; a table that changes is used by the agent that runs, one that breaks
    is a problem at /metrics and changes nothing.
    """
    one, other = pair(network)
    config = str(configuration(tmp_path, "otel"))
    arguments = (
        "--config",
        config,
        "--drain-interval",
        "0.2s",
        "--metrics-address",
        "127.0.0.1:9401",
    )
    with Agent(one.netns, tmp_path, *arguments) as agent:
        connect(one, other, ADDRESSES)
        send(one)
        agent.wait_drained()
        found = by_destination(agent.records())
        source, destination = found[THERE]["source"], found[THERE]["destination"]
        assert source["network"] == {"name": "test", "cidr": "192.0.2.0/24"}
        assert destination["network"] == {
            "name": "test", "cidr": "192.0.2.0/24", "labels": {"team": "blue"},
        }  # fmt: skip
        assert destination["cloud"] == {"availability_zone": "a"}
        assert destination["geo"] == {
            "continent": {"code": "EU"},
            "country": {"iso_code": "DE"},
            "region": {"iso_code": "DE-BE"},
            "locality": {"name": "Berlin"},
        }
        assert destination["as"] == {"number": 64500, "organization": {"name": "Example"}}
        assert not source.keys() & {"geo", "as", "cloud"}
        assert found[THERE]["network"]["application"] == "shown"
        assert found[THERE]["cloud"] == {"provider": "own", "availability_zone": "rack-3"}
        six = found[SIX]["destination"]
        assert (six["network"]["name"], six["geo"]["country"]) == ("six", {"iso_code": "NZ"})

        _change(tmp_path)
        wait_until(lambda: _zone(one, agent) == "b", "the new table is in use")
        (tmp_path / "zones.csv").write_text("nonsense\n")
        wait_until(lambda: agent.says("zones.csv:1: 'nonsense' is not a network"), "it is told")
        assert _zone(one, agent) == "b"
        healthy = 'flow_exporter_enrich_healthy{enricher="%s"}'
        metrics = agent.metrics()
        assert (metrics[healthy % "networks"], metrics[healthy % "geo"]) == (0, 1)
        assert agent.stop() == 0, agent.log


def _change(directory: Path) -> None:
    beside = directory / "new.csv"
    beside.write_text(f"{THERE}/32,,zone=b\n")
    beside.rename(directory / "zones.csv")


def _zone(one: Any, agent: Agent) -> str:
    """Of a packet that is sent now."""
    before = len(agent.records())
    send(one)
    agent.wait_drained()
    record = by_destination(agent.records()[before:])[THERE]
    return str(record["destination"]["cloud"]["availability_zone"])


def test_flat(network: Network, tmp_path: Path) -> None:
    """With NetObserv's keys."""
    one, other = pair(network)
    config = str(configuration(tmp_path, "netobserv"))
    with Agent(one.netns, tmp_path, "--config", config, "--drain-interval", "0.2s") as agent:
        connect(one, other, ADDRESSES)
        send(one)
        agent.wait_drained()
        assert agent.stop() == 0, agent.log
    (record,) = (one for one in agent.records() if one["DstAddr"] == THERE)
    expected = {
        "SrcSubnetLabel": "test",
        "DstSubnetLabel": "test",
        "DstLocation_CountryName": "DE",
        "DstLocation_CityName": "Berlin",
        "DstAS": 64500,
        "DstASOrganization": "Example",
        "Service": "shown",
    }
    assert {key: record[key] for key in expected} == expected
    assert not record.keys() & {"SrcAS", "SrcLocation_CountryName"}


def test_a_file_that_is_not_there(network: Network, tmp_path: Path) -> None:
    """Flows come all the same, and the log has one line for each file."""
    one, other = pair(network)
    path = tmp_path / "config.yaml"
    missing = {
        "networks": {"files": [str(tmp_path / "none.csv")]},
        "geoip": {"databases": [str(tmp_path / "none.mmdb")]},
    }
    path.write_text(json.dumps({"enrich": missing}))
    with Agent(one.netns, tmp_path, "--config", str(path), "--drain-interval", "0.2s") as agent:
        connect(one, other, ADDRESSES)
        send(one)
        agent.wait_drained()
        assert agent.stop() == 0, agent.log
    assert by_destination(agent.records())[THERE]["flow"]["packets"] == 5
    for name in ("none.csv", "none.mmdb"):
        told = [line for line in agent.log.splitlines() if name in line]
        assert len(told) == 1
        assert "No such file" in told[0]
