"""Flow metrics: exact sums by any labels, in the words of each schema, never too many series."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections import defaultdict
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from exporter.batch.attributes import Attribute, Entities
from exporter.batch.batch import FlowBatch, Interface, Point
from exporter.config import load
from exporter.errors import CaptureError, ConfigError
from exporter.sinks.encodings.series import ATTRIBUTES
from exporter.sinks.prometheus.config import PrometheusConfig
from exporter.sinks.prometheus.names import NAMES, label_text
from exporter.sinks.prometheus.sink import PrometheusSink
from exporter.telemetry import exposition
from exporter.testing import Row, make_batch
from tests.certificates import Authority
from tests.servers import free_port
from tests.strategies import ASN, FIRST, POD, TEAM

ETH0, VETH = Point(0, 2, 0), Point(0, 3, 1)
BATCH = make_batch(
    *(
        Row(
            src_addr=f"10.0.0.{n % 3}" if n % 2 else f"2001:db8::{n % 3}",
            dst_addr="192.0.2.1" if n % 2 else "::1",
            src_port=1000 + n % 5,
            dst_port=443,
            ip_protocol=(6, 17, 1, 58)[n % 4],
            vlan_id=n % 2 * 7,
            packet_count=n,
            octet_count_l2=n * n,
            octet_count_l3=n * n - n,
            direction=n % 2,
            points=(VETH,) if n % 2 else (ETH0,),
        )
        for n in range(1, 400)
    ),
    interfaces={ETH0: Interface("eth0"), VETH: Interface('a"b\\c')},
)
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def sink(**keys: Any) -> PrometheusSink:
    return PrometheusSink("prometheus", PrometheusConfig.model_validate(keys))


def deliver(to: PrometheusSink, batch: FlowBatch) -> None:
    for message in to.encode(batch):
        to.deliver(message, 1)


def scrape(of: PrometheusSink) -> list[Metric]:
    return list(text_string_to_metric_families(exposition(of.metrics).decode()))


def samples(of: PrometheusSink) -> Samples:
    """(name, labels that are not empty) -> value; each is there once."""
    found: Samples = {}
    for family in scrape(of):
        assert family.type == "counter"
        assert family.documentation
        for sample in family.samples:
            labels = frozenset((k, v) for k, v in sample.labels.items() if v)
            assert (sample.name, labels) not in found
            found[sample.name, labels] = sample.value
    return found


def summed(
    metrics: dict[str, str], labels: dict[str, Any], batch: FlowBatch = BATCH
) -> dict[tuple[str, frozenset[tuple[str, str]]], int]:
    """
    What is to come out: metric -> column, label -> its value of a row; made row by row.
    """
    sums: dict[tuple[str, frozenset[tuple[str, str]]], int] = defaultdict(int)
    for row in range(len(batch)):
        values = {name: value(row) for name, value in labels.items()}
        place = frozenset((name, value) for name, value in values.items() if value)
        for metric, column in metrics.items():
            sums[metric, place] += int(getattr(batch, column)[row]) if column else 1
    return sums


def test_otel() -> None:
    """Flows, packets, octets of both layers, by the default labels."""
    of = sink()
    deliver(of, BATCH.take(slice(0, 150)))
    deliver(of, BATCH.take(slice(150, None)))
    protocols = {6: "tcp", 17: "udp", 1: "icmp", 58: "ipv6-icmp"}
    four = BATCH.is_ipv4()
    assert samples(of) == summed(
        {
            "network_flow_records_total": "",
            "network_flow_packets_total": "packet_count",
            "network_flow_bytes_total": "octet_count_l2",
            "network_flow_ip_bytes_total": "octet_count_l3",
        },
        {
            "network_interface_name": lambda r: ("eth0", 'a"b\\c')[BATCH.flow_direction[r]],
            "flow_direction": lambda r: ("ingress", "egress")[BATCH.flow_direction[r]],
            "network_type": lambda r: "ipv4" if four[r] else "ipv6",
            "network_transport": lambda r: protocols[int(BATCH.ip_protocol[r])],
        },
    )


def test_obi() -> None:
    """The names of OBI's metrics; ports only where there are some."""
    of = sink(schema="obi", labels="src_port,ip_protocol,flow_direction,interface")
    deliver(of, BATCH)
    protocols = {6: "TCP", 17: "UDP", 1: "ICMP", 58: "IPV6-ICMP"}
    with_ports = (6, 17)
    assert samples(of) == summed(
        {
            "obi_network_flow_records_total": "",
            "obi_network_flow_packets_total": "packet_count",
            "obi_network_flow_bytes_total": "octet_count_l2",
        },
        {
            "src_port": lambda r: (
                str(BATCH.src_port[r]) if BATCH.ip_protocol[r] in with_ports else ""
            ),
            "transport": lambda r: protocols[int(BATCH.ip_protocol[r])],
            "iface_direction": lambda r: ("ingress", "egress")[BATCH.flow_direction[r]],
            "iface": lambda r: ("eth0", 'a"b\\c')[BATCH.flow_direction[r]],
        },
    )


def test_netobserv() -> None:
    """flowlogs-pipeline's fields, numbers as it has them."""
    of = sink(schema="netobserv", labels=["ip_protocol", "ip_version", "flow_direction", "vlan_id"])
    deliver(of, BATCH)
    four = BATCH.is_ipv4()
    assert samples(of) == summed(
        {
            "netobserv_flow_records_total": "",
            "netobserv_flow_packets_total": "packet_count",
            "netobserv_flow_bytes_total": "octet_count_l2",
        },
        {
            "Proto": lambda r: str(BATCH.ip_protocol[r]),
            "Etype": lambda r: "2048" if four[r] else "34525",
            "IfDirection": lambda r: str(BATCH.flow_direction[r]),
            "VlanID": lambda r: "7" if BATCH.vlan_id[r] else "",
        },
    )


def test_every_attribute_has_a_label_in_every_schema() -> None:
    """And no two have the same."""
    for names in NAMES.values():
        assert set(names.labels) == set(ATTRIBUTES)
        assert len(set(names.labels.values())) == len(ATTRIBUTES)


ADDED = (POD.of("source"), POD.of("destination"), ASN.of("source"), TEAM, FIRST)


@pytest.mark.parametrize(
    ("schema", "labels"),
    [
        ("otel", ("source_k8s_pod_name", "destination_k8s_pod_name", "source_as_number")),
        ("obi", ("k8s_src_name", "k8s_dst_name", "source_as_number")),
        ("netobserv", ("SrcK8S_Name", "DstK8S_Name", "SrcAS")),
    ],
)
def test_labels_of_what_was_added(schema: str, labels: tuple[str, ...]) -> None:
    """Named by schema; what is not known is no label; sums are those of the records."""
    pods = (None, "web-0", 'a"b\\c\nd', "")
    rows = np.arange(len(BATCH), dtype=np.uint32)
    entities = (
        Entities(rows % 4, {ADDED[0]: pods}),
        Entities(rows % 3, {ADDED[1]: pods[:3]}),
        Entities(rows % 2, {ADDED[2]: (None, 64500)}),
    )
    config = PrometheusConfig.model_validate(
        {"schema": schema, "labels": "src_k8s_pod_name,dst_k8s_pod_name,src_as_number,no_such"}
    )
    of = PrometheusSink("prometheus", config, ADDED)
    deliver(of, replace(BATCH, entities=entities))
    wanted: dict[frozenset[tuple[str, str]], float] = defaultdict(float)
    for row, packets in enumerate(BATCH.packet_count.tolist()):
        values = (pods[row % 4], pods[row % 3], (None, 64500)[row % 2])
        has = zip(labels, map(str, values), values, strict=True)
        wanted[frozenset((label, text) for label, text, value in has if value)] += packets
    found = samples(of)
    name = next(name for name, _ in found if name.endswith("packets_total"))
    assert {key: value for (metric, key), value in found.items() if metric == name} == wanted


def test_labels_of_any_attribute_differ() -> None:
    """What a label cannot have becomes ``_``, and two that are the same then do not clash."""
    added = (
        Attribute("labels.größe", ""),
        Attribute("labels.a/b", ""),
        Attribute("labels.a-b", ""),
    )
    names = [one.name for one in added]
    assert NAMES["otel"].labels_of(names, added) == ("labels_gr__e", "labels_a_b", "labels_a_b_")
    assert label_text("2x.y") == "_2x_y"


def test_too_many_series() -> None:
    """The series that there is no room for is told by its label, and the sums stay those of all."""
    of = sink(labels="src_addr,src_port,ip_protocol", limit=5)
    deliver(of, BATCH)
    found = samples(of)
    for metric, column in (("packets", "packet_count"), ("bytes", "octet_count_l2")):
        values = {
            labels: v
            for (name, labels), v in found.items()
            if name == f"network_flow_{metric}_total"
        }
        assert len(values) == len(of.metrics) == 5
        assert sum(values.values()) == getattr(BATCH, column).sum()
        assert values[frozenset({("otel_metric_overflow", "true")})] > 0


def test_idle_series_go_once_they_were_scraped(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody scrapes nothing is forgotten; what is idle is scraped once more, then not."""
    now = [1000.0]
    of = sink(labels="ip_protocol", idle="60s")
    monkeypatch.setattr(of.metrics._series, "_clock", lambda: now[0])
    deliver(of, make_batch(Row(ip_protocol=6), Row(ip_protocol=17)))
    now[0] += 1000
    deliver(of, make_batch(Row(ip_protocol=17)))
    udp, tcp = (frozenset({("network_transport", name)}) for name in ("udp", "tcp"))
    name = "network_flow_packets_total"
    first, second = samples(of), samples(of)
    assert (first[name, tcp], first[name, udp]) == (10, 20)
    assert (name, tcp) not in second
    assert second[name, udp] == 20
    assert (len(of.metrics), of.metrics.forgotten) == (1, 1)


def test_its_own_address_over_tls(tmp_path: Path) -> None:
    """Believed by who trusts its authority, and by nobody else; needs an address."""
    authority, other = Authority(tmp_path / "good"), Authority(tmp_path / "other")
    certificate, key = authority.issue("server", "IP:127.0.0.1")
    tls = {"certificate": certificate, "key": key}
    port = free_port()
    of = sink(address=f"127.0.0.1:{port}", tls=tls)
    of.open()

    def scraped(trust: Path) -> bytes:
        context = ssl.create_default_context(cafile=trust)
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)
        with closing(connection):
            connection.request("GET", "/metrics")
            return connection.getresponse().read()

    assert scraped(authority.pem) == exposition(of.metrics)
    with pytest.raises(ssl.SSLCertVerificationError):
        scraped(other.pem)
    of.close()
    with pytest.raises(ValidationError, match="tls is that of address"):
        sink(tls=tls)


def test_its_own_address() -> None:
    """Scraped there until it is closed; a second one cannot have the same."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    of = sink(address=f"127.0.0.1:{port}")
    assert not of.at_agents
    of.open()
    deliver(of, BATCH)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read()
    assert text == exposition(of.metrics)
    connection.close()
    with pytest.raises(CaptureError, match="Address already in use"):
        sink(address=f"127.0.0.1:{port}").open()
    of.close()
    of.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


@pytest.mark.parametrize(
    ("sinks", "address", "expected"),
    [
        (["prometheus://"], "", "or needs an address of its own"),
        (["prometheus://", "prometheus://"], ":9401", "have the same names"),
        (["prometheus://?labels=colour"], ":9401", "there is no attribute 'colour': use src_addr"),
        (["prometheus://h:1/x"], "", "it has no path"),
        (["prometheus://h"], "", "is not HOST:PORT"),
        (["prometheus://:9?limit=1"], "", "greater than or equal to 2"),
    ],
)
def test_configurations_that_cannot_be(sinks: list[str], address: str, expected: str) -> None:
    """One line that says what would be right."""
    with pytest.raises(ConfigError, match=expected):
        load(None, {}, {"sinks": sinks, "metrics": {"address": address}})


def test_two_that_differ() -> None:
    """Another schema, or another address."""
    sinks = [
        "prometheus://?schema=obi",
        "prometheus://",
        "prometheus://[::1]:9?labels=dscp,vlan_id",
    ]
    config = load(None, {}, {"sinks": sinks, "metrics": {"address": ":9401"}})
    last = config.sinks[2]
    assert isinstance(last, PrometheusConfig)
    assert (last.address, last.labels) == ("[::1]:9", ("dscp", "vlan_id"))
    with pytest.raises(ValidationError, match="named twice"):
        PrometheusConfig.model_validate({"labels": "dscp,dscp"})
