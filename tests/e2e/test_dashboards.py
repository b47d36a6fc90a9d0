"""
Every panel of every board has data: a real Prometheus scraped a real agent, whose configuration is
the one that is shipped for the boards.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import databases
from tests.e2e import boards
from tests.e2e.agent import Agent, wait_until
from tests.e2e.apiserver import ApiServer, reading
from tests.e2e.cluster import Cluster
from tests.e2e.net import End, Network, connect, disconnect, plug
from tests.e2e.prometheus import Prometheus

_AGENT = "127.0.0.1:9401"
_PRESET = boards.DIRECTORY.parent / "presets-dashboards.yaml"
_RULES = reading("pods", "services", "nodes", "batch/jobs")
#: They are asked where a broker is: tests/e2e/test_lag.py.
KAFKA = "Kafka consumers"
#: An address of the Internet's, and ports: one that is counted, one that is excluded.
_OUTSIDE, _PORT, _EXCLUDED = "203.0.113.5", 40_000, 40_001
#: Datagrams in each of two rounds, and octets of each frame.
_ROUNDS, _INSIDE, _OUT, _IN, _UNWANTED = 2, 500, 300, 200, 50
_PAYLOAD, _FRAME = 100, 142
#: Whoever scrapes says so, as the chart does.
_NODE = "node-1"
_OF_KAFKA = ("topic", "group")
#: Both may hold one row, and do.
_FULL = {("FlowExporterQueueFilling", "away"), ("FlowExporterQueueFilling", "tiny")}
_RETRY = {"first": "50ms", "longest": "200ms", "timeout": "500ms"}
_SINKS = [
    {"type": "stdout"},
    # Nobody listens there: this one waits on disk, and that one gives up at once.
    {"type": "grpc", "name": "away", "target": "127.0.0.1:9", "queue": {"rows": 1},
     "retry": _RETRY},
    {"type": "grpc", "name": "tiny", "target": "127.0.0.1:9", "queue": {"rows": 1},
     "retry": _RETRY, "spool": {"directory": ""}},
]  # fmt: skip


def _configuration(directory: Path, kubeconfig: Path) -> Path:
    """The preset, with what is only here: where the cluster and the databases are."""
    content: Any = yaml.safe_load(_PRESET.read_text())
    content["enrich"]["kubernetes"]["kubeconfig"] = str(kubeconfig)
    content["enrich"]["geoip"]["databases"] = [
        str(databases.write(directory / "city.mmdb", [(f"{_OUTSIDE}/32", databases.city("DE"))])),
        str(
            databases.write(
                directory / "asn.mmdb",
                [(f"{_OUTSIDE}/32", databases.asn(64500, "Example"))],
                kind="GeoLite2-ASN",
            )
        ),
    ]
    content["metrics"]["address"] = _AGENT
    content["exclude"] = [{"name": "unwanted", "when": f"destination.port == {_EXCLUDED}"}]
    content["spool"] = {"directory": str(directory / "spool")}
    content["sinks"] += _SINKS
    path = directory / "agent.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _pods(server: ApiServer) -> tuple[str, str]:
    """A cluster with two workloads in two namespaces and zones; their addresses."""
    cluster = Cluster(server)
    cluster.namespaces("shop", "data")
    nodes = cluster.make_nodes(2)
    (web,), (database,) = cluster.free_addresses(), cluster.free_addresses()
    cluster.make_pod(cluster.owner("Deployment", "shop", "web"), "web-1", (web,), nodes[0])
    cluster.make_pod(cluster.owner("StatefulSet", "data", "db"), "db-0", (database,), nodes[1])
    return web, database


def _send(one: End, other: End, web: str, database: str) -> None:
    """A round: the workload to the other one and to the Internet, and the Internet to it."""
    for end, host, count, port in (
        (one, database, _INSIDE, _PORT),
        (one, _OUTSIDE, _OUT, _PORT),
        (other, web, _IN, _PORT),
        (one, database, _UNWANTED, _EXCLUDED),
    ):
        with end.netns.entered(), socket.socket(type=socket.SOCK_DGRAM) as sender:
            for _ in range(count):
                assert sender.sendto(bytes(_PAYLOAD), (host, port)) == _PAYLOAD


def _join(stack: ExitStack, one: End, other: End, web: str, database: str) -> None:
    """The pair is up; what is sent is taken, so that nothing is answered."""
    connect(one, other, ([f"{web}/8"], [f"{database}/8", f"{_OUTSIDE}/24"]))
    one.netns.ip("route", "add", f"{_OUTSIDE}/32", "dev", one.device, "src", web)
    other.netns.ip("route", "add", f"{web}/32", "dev", other.device, "src", _OUTSIDE)
    for end in (one, other):
        with end.netns.entered():
            for port in (_PORT, _EXCLUDED):
                taker = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                taker.bind(("0.0.0.0", port))


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, after two rounds of traffic; nothing passes any more."""
    directory = tmp_path_factory.mktemp("dashboards")
    with ExitStack() as stack:
        network = Network()
        stack.callback(network.close)
        one, other = End(network.namespace("a"), "va"), End(network.namespace("b"), "vb")
        for end in (one, other):
            end.netns.quiet()
        plug(one, other)
        server = stack.enter_context(ApiServer(directory, other.netns))
        web, database = _pods(server)
        kubeconfig = server.kubeconfig(server.reader("agent", _RULES))
        agent = stack.enter_context(Agent(
            other.netns, directory, "--config", str(_configuration(directory, kubeconfig)),
            "--interfaces", other.device, "--drain-interval", "0.2s",
        ))  # fmt: skip
        wait_until(
            lambda: agent.metrics()['flow_exporter_enrich_healthy{enricher="kubernetes"}'] == 1,
            "the cluster is listed",
        )
        prometheus = stack.enter_context(
            Prometheus(other.netns, directory / "prometheus", _AGENT, labels={"node": _NODE})
        )
        _join(stack, one, other, web, database)
        sent = _INSIDE + _OUT + _IN
        for number in range(1, _ROUNDS + 1):
            _send(one, other, web, database)
            wait_until(
                lambda number=number: _packets(prometheus) == 2 * [number * sent],  # type: ignore[misc]
                f"Prometheus has what was sent {number} times",
            )
        counters = disconnect(other)
        assert counters.rx_packets + counters.tx_packets == _ROUNDS * (sent + _UNWANTED)
        wait_until(lambda: _settled(prometheus), "the sinks have given up, or spooled")
        yield prometheus


def _packets(prometheus: Prometheus) -> list[float]:
    """Of either sink."""
    return [
        sum(prometheus.query(f"{schema}network_flow_packets_total").values())
        for schema in ("", "obi_")
    ]


def _settled(prometheus: Prometheus) -> bool:
    """Nothing is on its way, and the sinks that deliver nothing have tried again."""
    pending = prometheus.query('flow_exporter_sink_pending_flows{sink!~"away|tiny"}')
    retried = prometheus.query("flow_exporter_sink_retries_total > 0")
    spooled = prometheus.query("flow_exporter_sink_spooled_flows > 0")
    dropped = prometheus.query('increase(flow_exporter_sink_flows_total{state="dropped"}[5m]) > 0')
    found = [len(one) for one in (retried, spooled, dropped)]
    return found == [2, 1, 1] and not any(pending.values())


def _ask(prometheus: Prometheus, board: str, panel: str, name: str = "A") -> dict[Any, float]:
    (one,) = [
        query
        for query in boards.asked()
        if (query.board, query.panel, query.name) == (f"flow-exporter-{board}", panel, name)
    ]
    return prometheus.query(one.expression)


def test_every_panel_has_data(scraped: Prometheus) -> None:
    """And every query of flows finds some: none that is zero."""
    answers = {
        query: scraped.query(query.expression) for query in boards.asked() if query.row != KAFKA
    }
    assert len(answers) > 60
    assert [query for query, found in answers.items() if not found] == []
    flows = {query: found for query, found in answers.items() if "network_flow" in query.expression}
    flows = {query: found for query, found in flows.items() if query.panel != "Without labels"}
    assert len(flows) > 20
    assert [query for query, found in flows.items() if min(found.values()) <= 0] == []


@pytest.mark.parametrize(
    ("board", "panel", "value"),
    [
        ("overview", "Packets so far", _ROUNDS * (_INSIDE + _OUT + _IN)),
        ("overview", "Octets so far", _ROUNDS * (_INSIDE + _OUT + _IN) * _FRAME),
        ("overview", "Agents", 1),
        ("external", "Packets to outside", _ROUNDS * _OUT),
        ("external", "Octets to outside", _ROUNDS * _OUT * _FRAME),
        ("external", "Packets from outside", _ROUNDS * _IN),
        ("agent", "Seen", _ROUNDS * (_INSIDE + _OUT + _IN + _UNWANTED)),
        ("agent", "Seen without a place", 0),
        ("agent", "Not drained yet", 0),
        ("agent", "Lost", 0),
        ("agent", "Does it close", 1),
        ("agent", "Without labels", 0),
    ],
)
def test_what_was_sent(scraped: Prometheus, board: str, panel: str, value: float) -> None:
    """Numbers are the sender's, to the packet."""
    assert list(_ask(scraped, board, panel).values()) == [value]


def test_the_accounts(scraped: Prometheus) -> None:
    """Tables of the ledger add up to what was sent."""
    sent = _ROUNDS * (_INSIDE + _OUT + _IN + _UNWANTED)
    kernel = "Kernel: seen = all of these"
    for name, factor in (("A", 1), ("B", _FRAME)):
        assert sum(_ask(scraped, "agent", kernel, name).values()) == sent * factor
    stages = "Stages: drained = deduplicated + excluded + published"
    found = {dict(k)["stage"]: v for k, v in _ask(scraped, "agent", stages).items()}
    assert found == {
        "drained": sent, "deduplicated": 0, "excluded": _ROUNDS * _UNWANTED,
        "published": sent - _ROUNDS * _UNWANTED,
    }  # fmt: skip
    account = "Account: queued + recovered = delivered + dropped + pending + spooled"
    sinks: dict[str, dict[str, float]] = {}
    for labels, value in _ask(scraped, "sinks", account).items():
        sinks.setdefault(dict(labels)["sink"], {})[dict(labels)["state"]] = value
    queued = sinks["stdout"]["queued"]
    assert all(one["queued"] == queued > 0 for one in sinks.values())
    for name in ("flows", "talkers", "stdout"):
        assert sinks[name]["delivered"] == queued
    assert sinks["tiny"]["dropped"] > 0 == sinks["away"]["dropped"]


def test_room(scraped: Prometheus) -> None:
    """
    Queues of one row are full, or hold a batch that is larger; a spool is in use and far from full;
    the cluster's news are new.
    """
    full = {dict(k)["sink"]: v for k, v in _ask(scraped, "sinks", "Queue in use").items()}
    assert (full["tiny"], full["stdout"]) == (1, 0)
    assert full["away"] >= 1
    used = {dict(k)["sink"]: v for k, v in _ask(scraped, "sinks", "Spool in use").items()}
    assert "tiny" not in used
    assert 0 < used["away"] < 0.01
    ((enricher, age),) = _ask(scraped, "agent", "Age of the news").items()
    assert dict(enricher) == {"enricher": "kubernetes"}
    assert 0 <= age < 300


def test_who_it_was(scraped: Prometheus) -> None:
    """Names of both ends, of all that can be told apart, and no others."""
    web = {"source_k8s_namespace_name": "shop", "source_k8s_owner_name": "web"}
    inside = web | {
        "destination_k8s_namespace_name": "data", "destination_k8s_owner_name": "db",
    }  # fmt: skip
    pairs = [dict(one) for one in _ask(scraped, "overview", "Pairs of workloads")]
    assert sorted(pairs, key=len) == [web, inside]
    (zones,) = _ask(scraped, "overview", "From zone to zone")
    assert dict(zones) == {
        "source_k8s_zone": "eu-west-1a", "destination_k8s_zone": "eu-west-1b"
    }  # fmt: skip
    (system,) = _ask(scraped, "external", "To which autonomous system")
    assert dict(system) == {
        "destination_as_number": "64500", "destination_as_organization_name": "Example"
    }  # fmt: skip
    for panel, label in (("To", "destination"), ("From", "source")):
        (country,) = _ask(scraped, "external", f"{panel} which country")
        assert dict(country) == {f"{label}_geo_country_iso_code": "DE"}
    assert len(_ask(scraped, "overview", "Pairs of addresses")) == 3
    both = {"source_network_name": "private", "destination_network_name": "private"}
    networks = [dict(one) for one in _ask(scraped, "overview", "From network to network")]
    assert len(networks) == 3
    assert all(one.items() <= both.items() for one in networks)


def test_alerts(scraped: Prometheus) -> None:
    """
    Expressions of the alerts find, in what a real agent says, the two sinks that nobody listens to,
    and nothing else.
    """
    rules = yaml.safe_load((boards.DIRECTORY.parent / "files" / "alerts.yaml").read_text())
    found = {
        (rule["alert"], dict(labels).get("sink", ""))
        for group in rules["groups"]
        for rule in group["rules"]
        for labels in scraped.query(rule["expr"])
    }
    assert found == {
        ("FlowExporterSinkCircuitOpen", "away"), ("FlowExporterSinkCircuitOpen", "tiny"),
        ("FlowExporterSinkDropping", "tiny"), *_FULL,
    }  # fmt: skip


def test_choices(scraped: Prometheus) -> None:
    """Variables have values."""
    expected = {
        "job": {"flows"}, "instance": {_AGENT}, "node": {_NODE},
        "sink": {"flows", "talkers", "stdout", "away", "tiny"},
    }  # fmt: skip
    asked = [one for one in boards.choices() if one[1] not in _OF_KAFKA]
    assert len(asked) == 3 * len(boards.boards()) + 1
    for board, name, series, label in asked:
        values = scraped.values(series, label)
        assert values == expected[name], (board, name)
