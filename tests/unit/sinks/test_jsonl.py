"""JSON lines: which keys there are for which packets, in both schemas."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given

from exporter.batch.batch import Details, FlowBatch, Interface, Observer, Peer, Point
from exporter.batch.record import records
from exporter.sinks.encodings.jsonl import (
    SHAPES,
    encode,
    netobserv_flags,
    otel,
    protocol_name,
    rfc3339,
)
from exporter.testing import Row, make_batch
from tests.strategies import batches

ETH0, VETH = Point(0, 2, 1), Point(3, 2, 0)


def lines(batch: FlowBatch, schema: str) -> list[dict[str, Any]]:
    """What is printed, parsed again."""
    text = encode(batch, SHAPES[schema])
    assert text.endswith(b"\n") or not text
    return [json.loads(line) for line in text.splitlines()]


def one(schema: str, row: Row) -> dict[str, Any]:
    """The record of a row that was seen leaving eth0 and entering a namespace's eth0."""
    batch = make_batch(
        row,
        interfaces={ETH0: Interface("eth0"), VETH: Interface("eth0", "blue")},
        observer=Observer("192.0.2.9", "node-1"),
    )
    (record,) = lines(batch, schema)
    return record


TCP = Row(
    src_addr="10.1.2.3",
    dst_addr="10.4.5.6",
    src_port=40000,
    dst_port=443,
    direction=1,
    flow_start_ns=1_700_000_000_000_000_001,
    flow_end_ns=1_700_000_001_500_000_000,
    packet_count=3,
    octet_count_l2=300,
    octet_count_l3=258,
    tcp_control_bits=0x112,
    tcp_flag_sets=1,
    dscp=46,
    flow_end_reason=3,
    sampling_interval=50,
    points=(ETH0, VETH),
)


def test_otel_tcp() -> None:
    """The whole record of a TCP flow."""
    assert one("otel", TCP) == {
        "time": {
            "start": "2023-11-14T22:13:20.000000001Z",
            "end": "2023-11-14T22:13:21.500000000Z",
        },
        "source": {"address": "10.1.2.3", "port": 40000, "mac": "02:00:00:00:00:01"},
        "destination": {"address": "10.4.5.6", "port": 443, "mac": "02:00:00:00:00:02"},
        "network": {"type": "ipv4", "transport": "tcp", "iana_number": 6},
        "flow": {
            "bytes": 300,
            "ip_bytes": 258,
            "packets": 3,
            "direction": "egress",
            "dscp": 46,
            "tcp_flags": 0x112,
            "end_reason": "end of flow detected",
            "interfaces": [
                {"name": "eth0", "index": 2, "direction": "egress"},
                {"name": "eth0", "index": 2, "direction": "ingress", "netns": "blue"},
            ],
        },
        "observer": {"address": "192.0.2.9", "name": "node-1"},
        "sampling": {"interval": 50},
    }


def row_of(protocol: int, **changes: Any) -> Row:
    """A row over IPv6 of some protocol, without flags."""
    values: dict[str, Any] = {"src_addr": "2001:db8::1", "dst_addr": "ff02::1", "points": (VETH,)}
    return Row(**values | {"ip_protocol": protocol} | changes)


def test_otel_udp() -> None:
    """Ports, no flags."""
    record = one("otel", row_of(17, src_port=53, dst_port=5353))
    assert record["network"] == {"type": "ipv6", "transport": "udp", "iana_number": 17}
    assert record["source"] == {
        "address": "2001:db8::1",
        "port": 53,
        "mac": "02:00:00:00:00:01",
    }
    assert not {"tcp_flags", "icmp", "end_reason", "duplicate"} & set(record["flow"])


@pytest.mark.parametrize(("protocol", "name"), [(1, "icmp"), (58, "ipv6-icmp")])
def test_otel_icmp(protocol: int, name: str) -> None:
    """Type and code instead of ports."""
    record = one("otel", row_of(protocol, src_port=0, dst_port=135 << 8 | 4))
    assert record["network"]["transport"] == name
    assert record["flow"]["icmp"] == {"type": 135, "code": 4}
    assert "port" not in record["source"]
    assert "port" not in record["destination"]


@pytest.mark.parametrize(("protocol", "name"), [(47, "gre"), (2, "igmp"), (253, "253"), (0, "0")])
def test_otel_other_protocols(protocol: int, name: str) -> None:
    """Neither ports nor type; the number where there is no name."""
    record = one("otel", row_of(protocol, src_port=0, dst_port=0))
    assert record["network"]["transport"] == protocol_name(protocol) == name
    assert record["network"]["iana_number"] == protocol
    assert "port" not in record["source"]
    assert not {"icmp", "tcp_flags"} & set(record["flow"])


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        (0, 0, {}),
        (12, 0, {"vlan": {"id": 12}}),
        (12, 13, {"vlan": {"id": 12}, "inner": {"vlan": {"id": 13}}}),
    ],
)
def test_otel_vlans(outer: int, inner: int, expected: dict[str, Any]) -> None:
    """The tags that there are."""
    network = one("otel", row_of(17, vlan_id=outer, inner_vlan_id=inner))["network"]
    assert {key: network[key] for key in ("vlan", "inner") if key in network} == expected


def test_otel_without_link_layer_and_marked() -> None:
    """No MAC where there is none; a duplicate says so."""
    row = row_of(17, src_mac="00:00:00:00:00:00", dst_mac="00:00:00:00:00:00", duplicate=True)
    record = one("otel", row)
    assert "mac" not in record["source"]
    assert "mac" not in record["destination"]
    assert record["flow"]["duplicate"] is True


def test_netobserv_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole record of a TCP flow: flowlogs-pipeline's keys."""
    monkeypatch.setattr(time, "time", lambda: 1_700_000_009.9)
    assert one("netobserv", TCP) == {
        "SrcMac": "02:00:00:00:00:01",
        "DstMac": "02:00:00:00:00:02",
        "Etype": 0x0800,
        "TimeFlowStartMs": 1_700_000_000_000,
        "TimeFlowEndMs": 1_700_000_001_500,
        "TimeReceived": 1_700_000_009,
        "AgentIP": "192.0.2.9",
        "IfDirections": [1, 0],
        "Interfaces": ["eth0", "eth0"],
        "Udns": ["", ""],
        "Bytes": 300,
        "Packets": 3,
        "Sampling": 50,
        "SrcAddr": "10.1.2.3",
        "DstAddr": "10.4.5.6",
        "Proto": 6,
        "Dscp": 46,
        "SrcPort": 40000,
        "DstPort": 443,
        "Flags": 0x112,
    }


@pytest.mark.parametrize(
    ("protocol", "keys"),
    [
        (6, {"SrcPort", "DstPort", "Flags"}),
        (17, {"SrcPort", "DstPort"}),
        (132, {"SrcPort", "DstPort"}),
        (1, {"IcmpType", "IcmpCode"}),
        (58, {"IcmpType", "IcmpCode"}),
        (47, set()),
    ],
)
def test_netobserv_keys_by_protocol(protocol: int, keys: set[str]) -> None:
    """Ports, flags, type and code only where the protocol has them."""
    optional = {"SrcPort", "DstPort", "Flags", "IcmpType", "IcmpCode"}
    record = one("netobserv", row_of(protocol, dst_port=128 << 8))
    assert optional & set(record) == keys
    assert record["Etype"] == 0x86DD
    if "IcmpType" in keys:
        assert (record["IcmpType"], record["IcmpCode"]) == (128, 0)


def test_netobserv_without_points() -> None:
    """Interface lists are null when they are empty, and then there are no Udns."""
    (record,) = lines(make_batch(Row()), "netobserv")
    assert (record["Interfaces"], record["IfDirections"]) == (None, None)
    assert "Udns" not in record


@pytest.mark.parametrize(
    ("bits", "sets", "expected"),
    [(0x02, 0, 0x02), (0x12, 1, 0x112), (0x11, 2, 0x211), (0x14, 4, 0x414), (0xF02, 0, 0x02)],
)
def test_netobserv_flags(bits: int, sets: int, expected: int) -> None:
    """The header's eight bits and the sets; the ninth bit and up would read as sets."""
    assert netobserv_flags(bits, sets) == expected


@given(batches())
def test_one_line_for_each_row(batch: FlowBatch) -> None:
    """Any row can be printed in either schema, and numbers come back as they were."""
    for record, packets in zip(lines(batch, "otel"), batch.packet_count.tolist(), strict=True):
        assert record["flow"]["packets"] == packets
    for record, octets in zip(
        lines(batch, "netobserv"), batch.octet_count_l2.tolist(), strict=True
    ):
        assert record["Bytes"] == octets


@pytest.mark.parametrize(
    ("unix_ns", "expected"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (999_999_999, "1970-01-01T00:00:00.999999999Z"),
        (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
    ],
)
def test_rfc3339(unix_ns: int, expected: str) -> None:
    """UTC, nine digits."""
    assert rfc3339(unix_ns) == expected


def test_what_is_known_of_an_interface() -> None:
    """Keys for what is known and no others; the flat schema has no place for it."""
    veth = Details("veth", "02:00:00:00:00:01", 7, Peer("eth0", 2, 9), "c1", "p1")
    unknown_peer = Details("veth", peer=Peer("", 2))
    batch = make_batch(
        Row(points=(ETH0, VETH)),
        interfaces={ETH0: Interface("c0", details=veth), VETH: Interface("c1", "", unknown_peer)},
    )
    (record,) = lines(batch, "otel")
    assert record["flow"]["interfaces"] == [
        {
            "name": "c0",
            "index": ETH0.ifindex,
            "direction": ("ingress", "egress")[ETH0.direction],
            "kind": "veth",
            "mac": "02:00:00:00:00:01",
            "peer": {"name": "eth0", "index": 2, "netns_inode": 9},
            "container": {"id": "c1"},
            "k8s": {"pod": {"uid": "p1"}},
        },
        {
            "name": "c1",
            "index": VETH.ifindex,
            "direction": ("ingress", "egress")[VETH.direction],
            "kind": "veth",
            "peer": {"index": 2},
        },
    ]
    (flat,) = lines(batch, "netobserv")
    assert flat["Interfaces"] == ["c0", "c1"]
    assert otel(next(records(batch))) == record
