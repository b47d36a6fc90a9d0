"""
Our protobuf against the protobuf library.

The expected record is made field by field by the library from a row's values; what we write must
decode to just that, presence of sub-messages included, and hold nothing else.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter._pb import flow_pb2
from exporter.batch.batch import FlowBatch, Interface, Observer, Point
from exporter.batch.record import FlowRecord, records
from exporter.fanout.contract import Message
from exporter.sinks.encodings.pbflow import encode
from exporter.sinks.encodings.protobuf import varint
from exporter.sinks.grpc.config import GrpcConfig
from exporter.sinks.grpc.sink import GrpcSink
from exporter.testing import Row, make_batch
from tests.strategies import EDGES, batches

LARGEST = 3_500_000


def address(text: str) -> flow_pb2.IP:
    """An address as the schema has it."""
    parsed = ipaddress.ip_address(text)
    if parsed.version == 4:
        return flow_pb2.IP(ipv4=int(parsed))
    return flow_pb2.IP(ipv6=parsed.packed)


def mac(text: str) -> int:
    return int(text.replace(":", ""), 16)


def expected(record: FlowRecord) -> flow_pb2.Record:
    """The record that the library makes of a row."""
    made = flow_pb2.Record(
        eth_protocol=0x0800 if record.ip_version == 4 else 0x86DD,
        direction=flow_pb2.Direction.Name(record.direction),
        data_link={"src_mac": mac(record.source_mac), "dst_mac": mac(record.destination_mac)},
        network={
            "src_addr": address(record.source),
            "dst_addr": address(record.destination),
            "dscp": record.dscp,
        },
        bytes=record.octets_l2,
        packets=record.packets,
        duplicate=record.duplicate,
        flags=record.tcp_control_bits & 0xFF | record.tcp_flag_sets << 8,
        dup_list=[{"interface": p.name, "direction": p.direction} for p in record.points],
        sampling=record.sampling_interval,
    )
    made.time_flow_start.seconds, made.time_flow_start.nanos = divmod(
        record.time_flow_start_ns, 10**9
    )
    made.time_flow_end.seconds, made.time_flow_end.nanos = divmod(record.time_flow_end_ns, 10**9)
    made.transport.protocol = record.ip_protocol
    if record.icmp is None:
        made.transport.src_port = record.source_port
        made.transport.dst_port = record.destination_port
    else:
        made.icmp_type, made.icmp_code = record.icmp
    if record.agent_ip:
        made.agent_ip.CopyFrom(address(record.agent_ip))
    return made


def decode(message: Message) -> list[flow_pb2.Record]:
    return list(flow_pb2.Records.FromString(message.payload).entries)


def identities(batch: FlowBatch) -> Counter[tuple[object, ...]]:
    """The rows as a multiset."""
    return Counter(
        (record.source, record.destination, record.source_port, record.destination_port,
         record.time_flow_start_ns, record.time_flow_end_ns, record.packets, record.octets_l2,
         record.vlan_id, record.source_mac, record.destination_mac, record.points)
        for record in records(batch)
    )  # fmt: skip


@given(batches())
@settings(max_examples=200)
def test_every_field_is_what_the_library_decodes(batch: FlowBatch) -> None:
    """Entries of a message are its rows, in order, and say exactly what the rows say."""
    for message in encode(batch, 10_000, LARGEST):
        assert decode(message) == [expected(record) for record in records(message.rows)]


@given(batches())
def test_no_unknown_fields(batch: FlowBatch) -> None:
    """The library's own encoding of what it decoded decodes to the same, and is never longer."""
    for message in encode(batch, 10_000, LARGEST):
        decoded = flow_pb2.Records.FromString(message.payload)
        again = decoded.SerializeToString()
        assert flow_pb2.Records.FromString(again) == decoded
        decoded.DiscardUnknownFields()
        assert decoded.SerializeToString() == again
        # Over-long varints are the price of equal layouts.
        assert len(again) <= len(message.payload)


@given(batches())
def test_collectors_do_not_panic(batch: FlowBatch) -> None:
    """flowlogs-pipeline reads network and transport unasked, and 16 octets of an IPv6 address."""
    for message in encode(batch, 10_000, LARGEST):
        for record in decode(message):
            assert record.HasField("network")
            assert record.HasField("transport")
            addresses = [record.network.src_addr, record.network.dst_addr]
            if record.HasField("agent_ip"):
                addresses.append(record.agent_ip)
            for one in addresses:
                assert one.WhichOneof("ip_family") == "ipv4" or len(one.ipv6) == 16
            assert record.eth_protocol in (0x0800, 0x86DD)


@given(batches(), st.integers(1, 5), st.integers(1024, 4096))
def test_limits(batch: FlowBatch, max_flows: int, max_octets: int) -> None:
    """No message has more records or octets than allowed; every row is in exactly one message."""
    messages = list(encode(batch, max_flows, max_octets))
    for message in messages:
        assert 1 <= len(message.rows) <= max_flows
        assert len(message.payload) <= max_octets
        assert len(decode(message)) == len(message.rows)
    found: Counter[tuple[object, ...]] = Counter()
    for message in messages:
        found += identities(message.rows)
    assert found == identities(batch)


@pytest.mark.parametrize("value", EDGES)
def test_edges_of_varints(value: int) -> None:
    """Values at which a varint grows, alone and beside small and large ones."""
    batch = make_batch(*(Row(packet_count=n, octet_count_l2=n) for n in (value, 0, value, 5)))
    (message,) = encode(batch, 100, LARGEST)
    assert [(r.packets, r.bytes) for r in decode(message)] == [(n, n) for n in (value, 0, value, 5)]


@pytest.mark.parametrize("value", [*EDGES, 300, 16_384 * 3])
def test_varint(value: int) -> None:
    """Base 128; over-long up to a width, never shorter than the value needs."""
    shortest = varint(value)
    assert len(shortest) == max((value.bit_length() + 6) // 7, 1)
    for octets in (shortest, varint(value, 10)):
        assert sum((octet & 0x7F) << 7 * place for place, octet in enumerate(octets)) == value
        assert all(octet & 0x80 for octet in octets[:-1])
        assert not octets[-1] & 0x80
    assert len(varint(value, 10)) == 10


def test_an_empty_batch_has_no_message() -> None:
    """Nothing is sent for nothing."""
    assert list(encode(make_batch(), 10, LARGEST)) == []


def test_a_large_batch_is_cut_by_octets() -> None:
    """100,000 rows within 3.5 MB a message: as many records as fit, none left over."""
    batch = make_batch(Row(points=(Point(0, 2, 0),))).take(np.zeros(100_000, np.int64))
    messages = list(encode(batch, 1_000_000, LARGEST))
    sizes = [len(message.payload) for message in messages]
    assert max(sizes) <= LARGEST
    record = sizes[0] // len(messages[0].rows)
    assert all(size > LARGEST - record for size in sizes[:-1])
    assert sum(len(message.rows) for message in messages) == 100_000


def test_a_record_larger_than_the_limit_goes_alone() -> None:
    """A limit that no record can keep gives messages of one record."""
    points = tuple(Point(0, n, 0) for n in range(200))
    batch = make_batch(Row(points=points), Row(points=points))
    messages = list(encode(batch, 100, 1024))
    assert [len(message.rows) for message in messages] == [1, 1]
    assert len(decode(messages[0])[0].dup_list) == 200


def test_rows_without_points() -> None:
    """Not deduplicated, not enriched: no interfaces, no agent, all the rest."""
    (message,) = encode(make_batch(Row(), Row()), 10, LARGEST)
    for record in decode(message):
        assert not record.dup_list
        assert not record.HasField("agent_ip")
        assert record.packets == 10


@pytest.mark.parametrize("agent", ["192.0.2.7", "2001:db8::7", "::ffff:192.0.2.7"])
def test_agent_address(agent: str) -> None:
    """Of either family, as it was written."""
    batch = replace(make_batch(Row()), observer=Observer(agent))
    (message,) = encode(batch, 10, LARGEST)
    assert decode(message)[0].agent_ip == address(agent)


def test_interface_names() -> None:
    """A point without a name has its index; names are UTF-8; both directions of one interface."""
    points = (Point(0, 2, 0), Point(0, 2, 1), Point(1, 7, 1))
    names = {points[0]: Interface("wlan-ü"), points[1]: Interface("wlan-ü")}
    (message,) = encode(make_batch(Row(points=points), interfaces=names), 10, LARGEST)
    listed = [(entry.interface, entry.direction) for entry in decode(message)[0].dup_list]
    assert listed == [("wlan-ü", 0), ("wlan-ü", 1), ("7", 1)]


def test_split_halves() -> None:
    """A message that was too large comes again in two, with the same rows; one row does not."""
    sink = GrpcSink("grpc", GrpcConfig(target="127.0.0.1:1"))
    (message,) = sink.encode(make_batch(*(Row(src_port=n) for n in range(5))))
    parts = list(sink.split(message))
    assert [part.rows.src_port.tolist() for part in parts] == [[0, 1, 2], [3, 4]]
    assert [len(decode(part)) for part in parts] == [3, 2]
    (single,) = sink.encode(make_batch(Row()))
    assert list(sink.split(single)) == []
