"""
Octets back to flow records, for whoever consumes what a sink wrote: ``from exporter.decode import
decode``.

::

    for message in consumer:
        for record in decode(message.value):
            print(record.source, record.destination, record.packets)

Needs no sink, no kernel and no configuration. What pbflow does not carry is zero or empty in the
records: VLANs, octets at the IP layer, why the record was cut, network namespaces, and all that
enrichment added. JSON has that: it is in ``FlowRecord.metadata``, by its path in the nested record,
or its key in the flat one.
"""

from __future__ import annotations

import calendar
import functools
import ipaddress
import re
import time
from collections.abc import Iterator
from typing import Any

import orjson

from exporter._pb import flow_pb2
from exporter.batch.attributes import Attribute, Value
from exporter.batch.batch import Details, FlowEndReason, Peer
from exporter.batch.record import WITH_ICMP, FlowRecord, PointName
from exporter.errors import DecodeError

__all__ = ["DecodeError", "FlowRecord", "decode", "decode_json", "decode_record", "decode_records"]

_VERSIONS = {0x0800: 4, 0x86DD: 6}
#: The tag of Records.entries; a Record never begins with it.
_ENTRIES = b"\x0a"
#: Of an object; as a tag it would begin a group, which pbflow has none of.
_OBJECT = b"{"
_DIRECTIONS = ("ingress", "egress")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{9})Z")
_SECOND = 1_000_000_000
#: What a record has without enrichment; beside it, what is text or an integer was added.
_PATHS = frozenset({
    "time.start", "time.end", "source.address", "source.port", "source.mac",
    "destination.address", "destination.port", "destination.mac", "network.type",
    "network.transport", "network.iana_number", "network.vlan.id", "network.inner.vlan.id",
    "flow.bytes", "flow.ip_bytes", "flow.packets", "flow.direction", "flow.dscp",
    "flow.tcp_flags", "flow.icmp.type", "flow.icmp.code", "flow.end_reason", "flow.duplicate",
    "flow.interfaces", "observer.address", "observer.name", "sampling.interval",
})  # fmt: skip
_KEYS = frozenset({
    "SrcMac", "DstMac", "Etype", "TimeFlowStartMs", "TimeFlowEndMs", "TimeReceived", "AgentIP",
    "IfDirections", "Interfaces", "Udns", "Bytes", "Packets", "Sampling", "SrcAddr", "DstAddr",
    "Proto", "Dscp", "SrcPort", "DstPort", "Flags", "IcmpType", "IcmpCode",
})  # fmt: skip
_NO_MAC = "00:00:00:00:00:00"
#: The largest values that our records have.
_U8, _U16, _U32, _U48, _U64 = ((1 << bits) - 1 for bits in (8, 16, 32, 48, 64))


def decode(octets: bytes) -> list[FlowRecord]:
    """
    The records of a message, whichever layout it has.

    Args:
        octets: A ``pbflow.Record``, ``pbflow.Records`` or JSON object of either schema.

    Raises:
        DecodeError: If it is none, or a value cannot be. Nothing else, whatever the octets.
    """
    if octets.startswith(_ENTRIES):
        return decode_records(octets)
    if octets.startswith(_OBJECT):
        return [decode_json(octets)]
    return [decode_record(octets)]


def decode_record(octets: bytes) -> FlowRecord:
    """One ``pbflow.Record``. Raises DecodeError."""
    return _record(_parsed(flow_pb2.Record, octets))


def decode_records(octets: bytes) -> list[FlowRecord]:
    """The entries of a ``pbflow.Records``, all of them or none. Raises DecodeError."""
    return [_record(entry) for entry in _parsed(flow_pb2.Records, octets).entries]


def decode_json(octets: bytes) -> FlowRecord:
    """One object of schema ``otel`` or ``netobserv``. Raises DecodeError."""
    try:
        found = orjson.loads(octets)
        return _netobserv(found) if "SrcAddr" in found else _otel(found)
    except orjson.JSONDecodeError as err:
        raise DecodeError(f"{len(octets)} octets are no JSON: {err}") from None
    except KeyError as err:
        raise DecodeError(f"no flow record: there is no key {err}") from None
    except (AttributeError, IndexError, TypeError, ValueError, OverflowError) as err:
        raise DecodeError(f"no flow record: {' '.join(str(err).split())}") from None


def _parsed(kind: Any, octets: bytes) -> Any:
    from google.protobuf.message import DecodeError as NotProtobuf

    try:
        return kind.FromString(octets)
    except NotProtobuf as err:
        name = kind.DESCRIPTOR.full_name
        raise DecodeError(
            f"{len(octets)} octets are no {name}: {' '.join(str(err).split())}"
        ) from None


def _record(entry: Any) -> FlowRecord:
    if entry.eth_protocol not in _VERSIONS:
        raise DecodeError(f"eth_protocol {entry.eth_protocol:#x} is neither IPv4 nor IPv6")
    if not (entry.HasField("network") and entry.HasField("transport")):
        raise DecodeError("a record without network or transport")
    protocol = _bounded(entry.transport.protocol, _U8, "protocol")
    destination_port = _bounded(entry.transport.dst_port, _U16, "dst_port")
    if protocol in WITH_ICMP:
        icmp = (
            _bounded(entry.icmp_type, _U8, "icmp_type"),
            _bounded(entry.icmp_code, _U8, "icmp_code"),
        )
        destination_port = icmp[0] * 256 + icmp[1]
    flags = _bounded(entry.flags, _U16, "flags")
    return FlowRecord(
        time_flow_start_ns=_time(entry.time_flow_start, "time_flow_start"),
        time_flow_end_ns=_time(entry.time_flow_end, "time_flow_end"),
        source=_address(entry.network.src_addr, "src_addr"),
        destination=_address(entry.network.dst_addr, "dst_addr"),
        source_port=_bounded(entry.transport.src_port, _U16, "src_port"),
        destination_port=destination_port,
        ip_protocol=protocol,
        ip_version=_VERSIONS[entry.eth_protocol],
        vlan_id=0,
        inner_vlan_id=0,
        source_mac=_mac(entry.data_link.src_mac, "src_mac"),
        destination_mac=_mac(entry.data_link.dst_mac, "dst_mac"),
        packets=entry.packets,
        octets_l2=entry.bytes,
        octets_l3=0,
        tcp_control_bits=flags & 0xFF,
        tcp_flag_sets=flags >> 8,
        dscp=_bounded(entry.network.dscp, 63, "dscp"),
        end_reason=0,
        sampling_interval=entry.sampling,
        direction=_bounded(entry.direction, 1, "direction"),
        duplicate=entry.duplicate,
        points=tuple(
            PointName(point.interface, 0, _direction(point.direction), "")
            for point in entry.dup_list
        ),
        agent_ip=_address(entry.agent_ip, "agent_ip") if entry.HasField("agent_ip") else "",
        agent_name="",
    )


def _bounded(value: int, largest: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise DecodeError(f"{name} {value!r:.40} is not within 0 and {largest}")
    return value


def _time(timestamp: Any, name: str) -> int:
    _bounded(timestamp.nanos, _SECOND - 1, f"{name}.nanos")
    # Until the year 2554, as our own columns.
    _bounded(timestamp.seconds, _U64 // _SECOND, f"{name}.seconds")
    return int(timestamp.seconds * _SECOND + timestamp.nanos)


def _address(address: Any, name: str) -> str:
    if address.WhichOneof("ip_family") == "ipv4":
        return str(ipaddress.IPv4Address(address.ipv4))
    if len(address.ipv6) != 16:
        raise DecodeError(f"{name} of {len(address.ipv6)} octets is no IPv6 address")
    parsed = ipaddress.IPv6Address(address.ipv6)
    return str(parsed.ipv4_mapped or parsed)


def _mac(number: int, name: str) -> str:
    return _bounded(number, _U48, name).to_bytes(6, "big").hex(":")


def _otel(found: dict[str, Any]) -> FlowRecord:
    """The other way round than ``encodings.jsonl.otel``."""
    network, flow, observer = found["network"], found["flow"], found["observer"]
    source, destination = found["source"], found["destination"]
    protocol = _bounded(network["iana_number"], _U8, "iana_number")
    reasons = {reason.text: int(reason) for reason in FlowEndReason}
    icmp = flow.get("icmp", {"type": 0, "code": 0})
    port = destination.get("port", 0)
    if protocol in WITH_ICMP:
        port = _bounded(icmp["type"], _U8, "type") * 256 + _bounded(icmp["code"], _U8, "code")
    return FlowRecord(
        time_flow_start_ns=_rfc3339(found["time"]["start"]),
        time_flow_end_ns=_rfc3339(found["time"]["end"]),
        source=_text_address(source["address"]),
        destination=_text_address(destination["address"]),
        source_port=_bounded(source.get("port", 0), _U16, "port"),
        destination_port=_bounded(port, _U16, "port"),
        ip_protocol=protocol,
        ip_version={"ipv4": 4, "ipv6": 6}[network["type"]],
        vlan_id=_bounded(network.get("vlan", {}).get("id", 0), _U16, "vlan"),
        inner_vlan_id=_bounded(
            network.get("inner", {}).get("vlan", {}).get("id", 0), _U16, "inner.vlan"
        ),
        source_mac=_text(source.get("mac", _NO_MAC)),
        destination_mac=_text(destination.get("mac", _NO_MAC)),
        packets=_bounded(flow["packets"], _U64, "packets"),
        octets_l2=_bounded(flow["bytes"], _U64, "bytes"),
        octets_l3=_bounded(flow.get("ip_bytes", 0), _U64, "ip_bytes"),
        tcp_control_bits=_bounded(flow.get("tcp_flags", 0), _U16, "tcp_flags"),
        tcp_flag_sets=0,
        dscp=_bounded(flow["dscp"], 63, "dscp"),
        end_reason=reasons[flow["end_reason"]] if "end_reason" in flow else 0,
        sampling_interval=_bounded(found["sampling"]["interval"], _U32, "interval"),
        direction=_DIRECTIONS.index(flow["direction"]),
        duplicate=flow.get("duplicate", False) is True,
        points=tuple(
            PointName(
                _text(point["name"]),
                _bounded(point["index"], _U32, "index"),
                _DIRECTIONS.index(point["direction"]),
                _text(point.get("netns", "")),
                _details(point),
            )
            for point in flow["interfaces"]
        ),
        agent_ip=_text(observer["address"]),
        agent_name=_text(observer["name"]),
        metadata=dict(_added(found)),
    )


def _added(found: dict[str, Any]) -> Iterator[tuple[Attribute, Value]]:
    """What is beside the paths of every record, in its order."""
    waiting = list(reversed(found.items()))
    while waiting:
        path, value = waiting.pop()
        if path in _PATHS:
            continue
        if isinstance(value, dict):
            waiting += [(f"{path}.{name}", one) for name, one in reversed(value.items())]
        elif _is_value(value):
            yield _attribute(path, "", isinstance(value, int)), value


def _is_value(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool) and value != ""


@functools.lru_cache(maxsize=4096)
def _attribute(path: str, key: str, number: bool) -> Attribute:  # noqa: FBT001 - of a cache
    return Attribute(path, "", netobserv=key, number=number)


def _details(point: dict[str, Any]) -> Details:
    """What is known of an interface; its own namespace's inode is not in a record."""
    peer = point.get("peer")
    return Details(
        kind=_text(point.get("kind", "")),
        mac=_text(point.get("mac", "")),
        peer=Peer(
            name=_text(peer.get("name", "")),
            ifindex=_bounded(peer.get("index", 0), _U32, "peer.index"),
            inode=_bounded(peer.get("netns_inode", 0), _U64, "peer.netns_inode"),
        )
        if peer
        else None,
        container=_text(point.get("container", {}).get("id", "")),
        pod=_text(point.get("k8s", {}).get("pod", {}).get("uid", "")),
    )


def _netobserv(found: dict[str, Any]) -> FlowRecord:
    """The other way round than ``encodings.jsonl.netobserv``."""
    protocol = _bounded(found["Proto"], _U8, "Proto")
    port = _bounded(found.get("DstPort", 0), _U16, "DstPort")
    if protocol in WITH_ICMP:
        kind, code = found.get("IcmpType", 0), found.get("IcmpCode", 0)
        port = _bounded(kind, _U8, "IcmpType") * 256 + _bounded(code, _U8, "IcmpCode")
    flags = _bounded(found.get("Flags", 0), _U16, "Flags")
    names, directions = found["Interfaces"] or (), found["IfDirections"] or ()
    milliseconds = _U64 // 1_000_000
    return FlowRecord(
        time_flow_start_ns=_bounded(found["TimeFlowStartMs"], milliseconds, "start") * 1_000_000,
        time_flow_end_ns=_bounded(found["TimeFlowEndMs"], milliseconds, "end") * 1_000_000,
        source=_text_address(found["SrcAddr"]),
        destination=_text_address(found["DstAddr"]),
        source_port=_bounded(found.get("SrcPort", 0), _U16, "SrcPort"),
        destination_port=port,
        ip_protocol=protocol,
        ip_version=_VERSIONS[found["Etype"]],
        vlan_id=0,
        inner_vlan_id=0,
        source_mac=_text(found["SrcMac"]),
        destination_mac=_text(found["DstMac"]),
        packets=_bounded(found.get("Packets", 0), _U64, "Packets"),
        octets_l2=_bounded(found.get("Bytes", 0), _U64, "Bytes"),
        octets_l3=0,
        tcp_control_bits=flags & 0xFF,
        tcp_flag_sets=flags >> 8,
        dscp=_bounded(found.get("Dscp", 0), 63, "Dscp"),
        end_reason=0,
        sampling_interval=_bounded(found.get("Sampling", 0), _U32, "Sampling"),
        direction=_direction(directions[0]) if directions else 0,
        duplicate=False,
        points=tuple(
            PointName(_text(name), 0, _direction(direction), "")
            for name, direction in zip(names, directions, strict=True)
        ),
        agent_ip=_text(found["AgentIP"]),
        agent_name="",
        metadata={
            _attribute(key, key, isinstance(value, int)): value
            for key, value in found.items()
            if key not in _KEYS and _is_value(value)
        },
    )


def _direction(number: int) -> int:
    """NetObserv's agents say 3 for both directions of an interface: shown as egress."""
    return min(_bounded(number, 3, "direction"), 1)


def _rfc3339(text: str) -> int:
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise DecodeError(f"{text!r:.40} is no time")
    seconds = calendar.timegm(time.strptime(match[1], "%Y-%m-%dT%H:%M:%S"))
    return _bounded(seconds * _SECOND + int(match[2]), _U64, "time")


def _text_address(text: str) -> str:
    return str(ipaddress.ip_address(_text(text)))


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise DecodeError(f"{text!r:.40} is no text")
    return text
