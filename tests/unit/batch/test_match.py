"""Conditions: whole batches are chosen from as single records would be."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.batch.attributes import SIDES, EndAttribute, Entities
from exporter.batch.batch import FlowBatch, Interface, Point
from exporter.batch.match import KINDS, Match, names
from exporter.batch.protocols import PROTOCOLS
from exporter.batch.record import WITH_PORTS, FlowRecord, records
from exporter.errors import ConfigError
from exporter.testing import Row, make_batch
from tests.strategies import IPV4, IPV6, POINTS, batches

NETWORKS = ("10.0.0.0/8", "0.0.0.0/0", "::/0", "192.0.2.255", "fe80::/10", "2001:db8::1", "::1/128")
Pairs = list[tuple[str, str]]


def inside(record: FlowRecord, side: str, text: str) -> bool:
    address, network = ipaddress.ip_address(getattr(record, side)), ipaddress.ip_network(text)
    return address.version == network.version and address in network


def port(record: FlowRecord, side: str, text: str) -> bool:
    return record.ip_protocol in WITH_PORTS and getattr(record, f"{side}_port") == int(text)


ENDS: dict[str, Callable[[FlowRecord, str, str], bool]] = {"ip": inside, "port": port}
FLOWS: dict[str, Callable[[FlowRecord, str], bool]] = {
    "protocol": lambda r, text: r.ip_protocol == int(text),
    "ip-version": lambda r, text: r.ip_version == int(text),
    "interface": lambda r, text: text in [point.name for point in r.points],
    "traffic-direction": lambda r, text: ("ingress", "egress")[r.direction] == text,
    "tcp-flags": lambda r, _: r.ip_protocol == 6 and r.tcp_control_bits & 0x12 == 0x12,
}


def holds(record: FlowRecord, name: str, text: str) -> bool:
    """One condition, of one record, as its meaning says."""
    if name in FLOWS:
        return FLOWS[name](record, text)
    head, _, rest = name.partition("-")
    sides = {"from": SIDES[:1], "to": SIDES[1:]}.get(head, SIDES)
    return any(ENDS[rest or head](record, side, text) for side in sides)


def expected(batch: FlowBatch, wanted: Pairs, excluded: Pairs) -> list[bool]:
    def passes(record: FlowRecord) -> bool:
        kinds = {name for name, _ in wanted}
        chosen = all(
            any(holds(record, name, text) for name, text in wanted if name == kind)
            for kind in kinds
        )
        return chosen and not any(holds(record, name, text) for name, text in excluded)

    return [passes(record) for record in records(batch)]


def conditions() -> st.SearchStrategy[Pairs]:
    ends = st.sampled_from(("", "from-", "to-"))
    one = st.one_of(
        st.tuples(ends.map(lambda end: f"{end}ip"), st.sampled_from((*NETWORKS, *IPV4, *IPV6))),
        st.tuples(ends.map(lambda end: f"{end}port"), st.sampled_from(("0", "53", "128", "65535"))),
        st.tuples(st.just("protocol"), st.sampled_from(("6", "17", "58", "255"))),
        st.tuples(st.just("ip-version"), st.sampled_from("46")),
        st.tuples(st.just("traffic-direction"), st.sampled_from(("ingress", "egress"))),
        st.tuples(st.just("interface"), st.sampled_from(("lo", "eth0", "300", "nowhere"))),
        st.just(("tcp-flags", "syn,ack")),
    )
    return st.lists(one, max_size=4)


@given(batches(), conditions(), conditions())
def test_any_conditions(batch: FlowBatch, wanted: Pairs, excluded: Pairs) -> None:
    """Of one kind any, of different kinds all, and none of those that exclude."""
    match = Match(wanted, excluded)
    assert match.mask(batch).tolist() == expected(batch, wanted, excluded)
    assert len(match.take(batch)) == sum(expected(batch, wanted, excluded))


PODS = {
    EndAttribute("k8s.namespace.name", ""): (None, "shop", "shop", "other"),
    EndAttribute("k8s.pod.name", ""): (None, "web-0", "api-1", "web-0"),
}


def enriched() -> FlowBatch:
    """Three rows: shop/web-0 to shop/api-1, the other way, and nothing to other/web-0."""
    source = Entities(np.array([1, 2, 0], np.uint32), {a.of("source"): v for a, v in PODS.items()})
    target = Entities(
        np.array([2, 1, 3], np.uint32), {a.of("destination"): v for a, v in PODS.items()}
    )
    domain = Entities(
        np.array([0, 0, 1], np.uint32),
        {EndAttribute("domain", "").of("source"): (None, "www.example.org")},
    )
    rows = [Row(src_port=number) for number in range(3)]
    app = EndAttribute("k8s.label.app_kubernetes_io_name", "")
    labels = (
        Entities(np.array([1, 0, 0], np.uint32), {app.of("source"): (None, "web")}),
        Entities(np.array([0, 1, 0], np.uint32), {app.of("destination"): (None, "api")}),
    )
    return replace(make_batch(*rows), entities=(source, target, domain, *labels))


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("namespace", "shop", [0, 1]),
        ("from-namespace", "shop", [0, 1]),
        ("to-namespace", "other", [2]),
        ("namespace", "sho", []),
        ("namespace", "s*", [0, 1]),
        ("pod", "web-0", [0, 1, 2]),
        ("pod", "shop/web-0", [0, 1]),
        ("to-pod", "shop/web-*", [1]),
        ("from-pod", "shop/", [0, 1]),
        ("pod", "other/api-1", []),
        ("fqdn", "*", [2]),
        ("from-fqdn", "www.*", [2]),
        ("to-fqdn", "www.example.org", []),
        ("node-name", "*", []),
        ("label", "app.kubernetes.io/name=web", [0]),
        ("label", "app.kubernetes.io/name=w*", [0]),
        ("to-label", "app.kubernetes.io/name", [1]),
        ("label", "app.kubernetes.io/name", [0, 1]),
        ("label", "app=web", []),
    ],
)
def test_what_enrichment_added(name: str, text: str, rows: list[int]) -> None:
    """Names at either end; what is not known is no name, whatever is asked for."""
    assert np.flatnonzero(Match([(name, text)]).mask(enriched())).tolist() == rows


def test_interfaces() -> None:
    """Any of the points that saw the flow; by a name, a beginning, or the index without a name."""
    eth, other = POINTS[0], Point(0, 9, 1)
    batch = make_batch(
        Row(points=(eth, other)), Row(points=(other,)), interfaces={eth: Interface("eth0")}
    )
    for text, expected_rows in (("eth0", [0]), ("eth*", [0]), ("9", [0, 1]), ("*", [0, 1])):
        assert np.flatnonzero(Match([("interface", text)]).mask(batch)).tolist() == expected_rows


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("ip", "10.0.0.300", "10.0.0.300 is no address or network"),
        ("from-port", "65536", "65536 is no port"),
        ("port", "²", "² is no port"),
        ("protocol", "http", "there is no protocol http: use tcp, udp"),
        ("protocol", "256", "there is no protocol 256"),
        ("ip-version", "5", "there is no IP version 5"),
        ("tcp-flags", "syn,foo", "there is no TCP flag foo"),
        ("traffic-direction", "up", "there is no direction up: use ingress or egress"),
        ("where", "protocol", "where protocol: write NAME=VALUE"),
        ("where", "=tcp", "where =tcp: write NAME=VALUE"),
        ("colour", "red", "there is no condition colour: use one of ip, from-ip"),
        ("from-protocol", "tcp", "there is no condition from-protocol"),
    ],
)
def test_what_cannot_be(name: str, text: str, says: str) -> None:
    """One line that says what would do."""
    with pytest.raises(ConfigError) as raised:
        Match([(name, text)])
    assert str(raised.value).startswith(says)


@pytest.mark.parametrize(
    ("name", "number"),
    [*((name, number) for number, name in PROTOCOLS.items()), ("icmpv6", 58), ("icmpv4", 1),
     ("ICMPv6", 58), ("47", 47)],
)  # fmt: skip
def test_protocols(name: str, number: int) -> None:
    """By every name that records have, and by those of others."""
    batch = make_batch(*(Row(ip_protocol=n) for n in range(256)))
    assert np.flatnonzero(Match([("protocol", name)]).mask(batch)).tolist() == [number]


def test_names() -> None:
    """Those of one end have three each."""
    assert len(names()) == sum(3 if kind.of_end else 1 for kind in KINDS.values())
    assert {"ip", "from-ip", "to-ip", "protocol"} < set(names())
