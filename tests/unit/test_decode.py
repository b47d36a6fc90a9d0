"""What sinks wrote, read back; and octets that nobody should have written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter._pb import flow_pb2
from exporter.batch.assemble import assemble
from exporter.batch.attributes import Attribute
from exporter.batch.batch import Details, FlowBatch, Interface, Peer, Point
from exporter.batch.record import WITH_ICMP, WITH_PORTS, FlowRecord, records
from exporter.decode import decode, decode_json, decode_record, decode_records
from exporter.enrich.known import recognised
from exporter.errors import DecodeError
from exporter.sinks.encodings.jsonl import netobserv, otel
from exporter.sinks.encodings.pbflow import encode, parts
from exporter.testing import Row, make_batch
from tests.strategies import POD, batches, enriched

KEYS = ("SrcAddr", "DstAddr", "Proto", "Interfaces", "IfDirections", "Etype", "network", "flow",
        "observer", "source", "destination", "time", "iana_number", "address", "start",
        "interfaces", "packets", "type", "vlan", "sampling")  # fmt: skip


def carried(record: FlowRecord) -> FlowRecord:
    """What pbflow carries of a record."""
    return replace(
        record,
        vlan_id=0, inner_vlan_id=0, octets_l3=0, end_reason=0, agent_name="",
        tcp_control_bits=record.tcp_control_bits & 0xFF,
        source_port=0 if record.ip_protocol in WITH_ICMP else record.source_port,
        points=tuple(point._replace(ifindex=0, netns="") for point in record.points),
    )  # fmt: skip


@given(batches(max_rows=4))
@settings(max_examples=40)
def test_what_was_encoded_is_decoded(batch: FlowBatch) -> None:
    """Framed and alone, all fields that pbflow carries."""
    for message in encode(batch, 100, 1 << 20):
        expected = [carried(record) for record in records(message.rows)]
        assert decode(message.payload) == decode_records(message.payload) == expected
    for part, encoder in parts(batch, framed=False):
        octets, size = encoder.encode(part), encoder.octets
        cut = [octets[at : at + size] for at in range(0, len(octets), size)]
        assert [decode_record(one) for one in cut] == [carried(record) for record in records(part)]
        assert [decode(one) for one in cut] == [[carried(record)] for record in records(part)]


@given(batches(max_rows=4))
@settings(max_examples=40)
def test_json_is_decoded(batch: FlowBatch) -> None:
    """Both schemas, all that each carries."""
    for record in records(batch):
        whole = decode_json(orjson.dumps(otel(record)))
        assert whole == replace(
            record,
            tcp_flag_sets=0,
            tcp_control_bits=record.tcp_control_bits if record.ip_protocol == 6 else 0,
            source_port=record.source_port if record.ip_protocol in WITH_PORTS else 0,
            destination_port=_port(record),
        )
        flat = decode_json(orjson.dumps(netobserv(record)))
        tcp = record.ip_protocol == 6
        assert flat == replace(
            carried(record),
            time_flow_start_ns=record.time_flow_start_ns // 10**6 * 10**6,
            time_flow_end_ns=record.time_flow_end_ns // 10**6 * 10**6,
            tcp_control_bits=record.tcp_control_bits & 0xFF if tcp else 0,
            tcp_flag_sets=record.tcp_flag_sets if tcp else 0,
            source_port=record.source_port if record.ip_protocol in WITH_PORTS else 0,
            destination_port=_port(record),
            direction=record.points[0].direction if record.points else 0,
            duplicate=False,
        )


@given(enriched(max_rows=4))
@settings(max_examples=40)
def test_what_was_added_comes_back(batch: FlowBatch) -> None:
    """All of it by its path, or its key in flat records; written again it is the same."""
    for record in records(batch):
        octets = orjson.dumps(otel(record))
        whole = decode_json(octets)
        assert {what.otel: value for what, value in whole.metadata.items()} == {
            what.otel: value for what, value in record.metadata.items()
        }
        assert all(what.number == isinstance(v, int) for what, v in whole.metadata.items())
        assert orjson.dumps(otel(replace(whole, tcp_flag_sets=record.tcp_flag_sets))) == octets
        flat = decode_json(orjson.dumps(netobserv(record)))
        assert {what.netobserv: value for what, value in flat.metadata.items()} == {
            what.netobserv: value for what, value in record.metadata.items()
        }


def test_what_is_known_of_interfaces() -> None:
    """Kind, MAC, peer, container and pod come back; what is not known stays so."""
    veth = Details(
        "veth", "02:00:00:00:00:01", peer=Peer("eth0", 2, 4026532000), container="c" * 64, pod="u-1"
    )
    known, bare, half = Point(0, 2, 0), Point(0, 3, 1), Point(0, 4, 1)
    batch = make_batch(
        Row(points=(known, bare, half)),
        interfaces={
            known: Interface("veth1", "", veth),
            bare: Interface("x"),
            half: Interface("y", details=Details(mac="02:00:00:00:00:02")),
        },
    )
    (record,) = records(batch)
    whole = decode_json(orjson.dumps(otel(record)))
    assert whole.points == record.points
    assert next(iter(records(assemble([whole])))).points == record.points
    hostile = orjson.loads(orjson.dumps(otel(record)))
    hostile["flow"]["interfaces"][0]["peer"] = 7
    with pytest.raises(DecodeError):
        decode_json(orjson.dumps(hostile))


def test_names_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """From either schema to the other: what is known has all its names, other labels their own."""
    pod, team = POD.of("source"), Attribute("labels.x.y", "", netobserv="")
    monkeypatch.setattr(
        "exporter.enrich.known.by_any_name", lambda: {pod.otel: pod, pod.netobserv: pod}
    )
    (record,) = records(make_batch(Row()))
    record = replace(record, metadata={pod: "web-0", team: "a"})
    nested = decode_json(orjson.dumps(otel(record)))
    assert netobserv(replace(nested, metadata=recognised(nested.metadata))).items() >= {
        "SrcK8S_Name": "web-0", "labels.x.y": "a",
    }.items()  # fmt: skip
    flat = decode_json(orjson.dumps(netobserv(replace(record, metadata={pod: "web-0"}))))
    assert recognised(flat.metadata) == {pod: "web-0"}


@pytest.mark.parametrize("depth", [50, 1000])
def test_deep_objects(depth: int) -> None:
    """Somebody else's nesting, as deep as a parser takes it, is a long path and no crash."""
    (record,) = records(make_batch(Row()))
    text = orjson.dumps(otel(record))[:-1] + b',"a":' + b'{"a":' * depth + b"1" + b"}" * depth
    found = decode_json(text + b"}")
    assert [what.otel.count(".") for what in found.metadata] == [depth]


def test_labels_that_begin_like_others() -> None:
    """A name that is also the beginning of another: neither is lost, whichever comes first."""
    names = ("labels.app", "labels.app.kubernetes.io/name", "labels.app.kubernetes")
    (record,) = records(make_batch(Row()))
    for order in permutations(names):
        added = {Attribute(name, ""): name for name in order}
        nested = otel(replace(record, metadata=added))["labels"]
        found = decode_json(orjson.dumps({**otel(record), "labels": nested})).metadata
        assert {what.otel.rstrip("."): value for what, value in found.items()} == {
            name: name for name in names
        }


def _port(record: FlowRecord) -> int:
    known = record.ip_protocol in WITH_PORTS | WITH_ICMP
    return record.destination_port if known else 0


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=3),
        lambda inner: st.dictionaries(st.sampled_from(KEYS), inner) | st.lists(inner, max_size=3),
    )
)
def test_any_json(value: object) -> None:
    """Objects with our keys and any values: one clear error."""
    with pytest.raises(DecodeError) as found:
        decode_json(orjson.dumps(value))
    assert "\n" not in str(found.value)


def complaint(function: Callable[[bytes], object], octets: bytes) -> str:
    """What it says of octets; nothing if they are records."""
    try:
        function(octets)
    except DecodeError as err:
        return str(err)
    return ""


@given(st.binary(max_size=200))
def test_any_octets(octets: bytes) -> None:
    """Records, or one clear error; never anything else."""
    for function in (decode, decode_record, decode_records, decode_json):
        assert "\n" not in complaint(function, octets)


@given(batches(max_rows=2), st.data())
@settings(max_examples=60)
def test_damaged_octets(batch: FlowBatch, data: st.DataObject) -> None:
    """Cut short, or with an octet changed."""
    for message in encode(batch, 100, 1 << 20):
        damaged = bytearray(message.payload[: data.draw(st.integers(1, len(message.payload)))])
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        assert "\n" not in complaint(decode, bytes(damaged))


def valid() -> flow_pb2.Record:
    """A record that can be decoded."""
    record = flow_pb2.Record(eth_protocol=0x86DD, network={"src_addr": {"ipv6": bytes(16)},
                             "dst_addr": {"ipv6": bytes(16)}})  # fmt: skip
    record.transport.protocol = 6
    return record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.network.src_addr.__setattr__("ipv6", b"short"), "src_addr of 5 octets"),
        (lambda r: r.network.dst_addr.Clear(), "dst_addr of 0 octets"),
        (lambda r: r.ClearField("network"), "without network or transport"),
        (lambda r: r.ClearField("transport"), "without network or transport"),
        (lambda r: r.__setattr__("eth_protocol", 0x0806), "neither IPv4 nor IPv6"),
        (lambda r: r.transport.__setattr__("src_port", 65536), "src_port 65536 is not within"),
        (lambda r: r.transport.__setattr__("protocol", 256), "protocol 256"),
        (lambda r: r.time_flow_end.__setattr__("nanos", -1), "time_flow_end.nanos -1"),
        (lambda r: r.time_flow_start.__setattr__("seconds", 1 << 62), "time_flow_start.seconds"),
        (lambda r: r.data_link.__setattr__("src_mac", 1 << 48), "src_mac"),
        (lambda r: r.network.__setattr__("dscp", 64), "dscp 64"),
    ],
)
def test_values_that_cannot_be(change: object, message: str) -> None:
    """Each is named."""
    record = valid()
    assert decode_record(record.SerializeToString()).source == "::"
    assert callable(change)
    change(record)
    with pytest.raises(DecodeError, match=message):
        decode_record(record.SerializeToString())


def test_what_netobserv_says() -> None:
    """Its agents report 3, both directions, for an interface; unknown fields are skipped."""
    record = valid()
    record.dup_list.add(interface="eth0").direction = 3  # type: ignore[assignment]
    octets = record.SerializeToString() + b"\xf8\x7f\x01"
    assert decode_record(octets).points[0][:3] == ("eth0", 0, 1)
