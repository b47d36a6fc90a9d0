"""
Flow records as JSON, one object per line.

Two shapes: ``otel`` is nested, names after OpenTelemetry's semantic conventions and the Elastic
Common Schema; ``netobserv`` is flat, the keys that flowlogs-pipeline produces.

A shape is written down twice: as a function of one record, which says what it is, and as a template
for whole batches, which the tests hold to the same octets.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import orjson

from exporter.batch.batch import FlowBatch, FlowEndReason
from exporter.batch.record import TCP, WITH_PORTS, FlowRecord, PointName
from exporter.sinks.encodings.additions import JSON_FLAT, JSON_NESTED, Additions, nested
from exporter.sinks.encodings.additions import flat as flat_metadata
from exporter.sinks.encodings.columns import HOLES, MASKS, point_lists, same
from exporter.sinks.encodings.protocols import protocol_name
from exporter.sinks.encodings.template import Part, Template

__all__ = [
    "SHAPES",
    "Shape",
    "encode",
    "netobserv",
    "netobserv_flags",
    "otel",
    "protocol_name",
    "rfc3339",
]

Shape = Callable[[FlowRecord], dict[str, Any]]

_DIRECTIONS = ("ingress", "egress")
_ETHERTYPE = {4: 0x0800, 6: 0x86DD}
_NO_MAC = "00:00:00:00:00:00"


def otel(record: FlowRecord) -> dict[str, Any]:
    """The nested record."""
    network: dict[str, Any] = {
        "type": f"ipv{record.ip_version}",
        "transport": protocol_name(record.ip_protocol),
        "iana_number": record.ip_protocol,
    }
    if record.vlan_id:
        network["vlan"] = {"id": record.vlan_id}
    if record.inner_vlan_id:
        network["inner"] = {"vlan": {"id": record.inner_vlan_id}}
    more = nested(record.metadata)
    return {
        "time": {
            "start": rfc3339(record.time_flow_start_ns),
            "end": rfc3339(record.time_flow_end_ns),
        },
        "source": _end(record, record.source, record.source_port, record.source_mac)
        | more.pop("source", {}),
        "destination": _end(
            record, record.destination, record.destination_port, record.destination_mac
        )
        | more.pop("destination", {}),
        "network": network | more.pop("network", {}),
        "flow": _flow(record) | more.pop("flow", {}),
        "observer": {"address": record.agent_ip, "name": record.agent_name},
        "sampling": {"interval": record.sampling_interval},
        **more,
    }


def netobserv(record: FlowRecord) -> dict[str, Any]:
    """The flat record, keys and presence as flowlogs-pipeline's decoder has them."""
    flat: dict[str, Any] = {
        "SrcMac": record.source_mac,
        "DstMac": record.destination_mac,
        "Etype": _ETHERTYPE[record.ip_version],
        "TimeFlowStartMs": record.time_flow_start_ns // 1_000_000,
        "TimeFlowEndMs": record.time_flow_end_ns // 1_000_000,
        "TimeReceived": int(time.time()),
        "AgentIP": record.agent_ip,
        "IfDirections": [point.direction for point in record.points] or None,
        "Interfaces": [point.name for point in record.points] or None,
        "Bytes": record.octets_l2,
        "Packets": record.packets,
        "Sampling": record.sampling_interval,
        "SrcAddr": record.source,
        "DstAddr": record.destination,
        "Proto": record.ip_protocol,
        "Dscp": record.dscp,
    }
    if record.points:
        flat["Udns"] = ["" for _ in record.points]
    if record.ip_protocol in WITH_PORTS:
        flat |= {"SrcPort": record.source_port, "DstPort": record.destination_port}
    if record.ip_protocol == TCP:
        flat["Flags"] = netobserv_flags(record.tcp_control_bits, record.tcp_flag_sets)
    if record.icmp is not None:
        flat["IcmpType"], flat["IcmpCode"] = record.icmp
    return flat | flat_metadata(record.metadata)


SHAPES: dict[str, Shape] = {"otel": otel, "netobserv": netobserv}

#: With ``(name,)`` where what enrichment added to an object stands; without a name, to the record.
_OTEL: tuple[Part | tuple[str], ...] = (
    '{"time":{"start":"<start>","end":"<end>"},"source":{"address":"<source>"',
    ("ports", ',"port":<source_port>'),
    ("source_mac", ',"mac":"<source_mac>"'),
    ("source",),
    '},"destination":{"address":"<destination>"',
    ("ports", ',"port":<destination_port>'),
    ("destination_mac", ',"mac":"<destination_mac>"'),
    ("destination",),
    '},"network":{"type":"ipv<version>","transport":"<transport>","iana_number":<protocol>',
    ("vlan", ',"vlan":{"id":<vlan>}'),
    ("inner_vlan", ',"inner":{"vlan":{"id":<inner_vlan>}}'),
    ("network",),
    '},"flow":{"bytes":<octets>,"ip_bytes":<ip_octets>,"packets":<packets>',
    ',"direction":"<direction>","dscp":<dscp>',
    ("tcp", ',"tcp_flags":<control_bits>'),
    ("icmp", ',"icmp":{"type":<icmp_type>,"code":<icmp_code>}'),
    ("ended", ',"end_reason":"<end_reason>"'),
    ("duplicate", ',"duplicate":true'),
    ',"interfaces":<interfaces>',
    ("flow",),
    '},"observer":<observer>,"sampling":{"interval":<sampling>}',
    ("",),
    "}\n",
)
_NETOBSERV: tuple[Part | tuple[str], ...] = (
    '{"SrcMac":"<source_mac>","DstMac":"<destination_mac>","Etype":<ethertype>',
    ',"TimeFlowStartMs":<start_ms>,"TimeFlowEndMs":<end_ms>,"TimeReceived":<received>',
    ',"AgentIP":<agent>,<interfaces>,"Bytes":<octets>,"Packets":<packets>,"Sampling":<sampling>',
    ',"SrcAddr":"<source>","DstAddr":"<destination>","Proto":<protocol>,"Dscp":<dscp><udns>',
    ("ports", ',"SrcPort":<source_port>,"DstPort":<destination_port>'),
    ("tcp", ',"Flags":<flags>'),
    ("icmp", ',"IcmpType":<icmp_type>,"IcmpCode":<icmp_code>'),
    ("",),
    "}\n",
)


def encode(batch: FlowBatch, shape: Shape) -> bytes:
    """
    One JSON object and a newline for each row, in order.

    Args:
        batch: Enriched or not.
        shape: Of ``SHAPES``.
    """
    observer = batch.observer
    if shape is otel:
        who = orjson.dumps({"address": observer.address, "name": observer.name})
        more = {"observer": same(who), "interfaces": point_lists(batch, _interfaces)}
        parts, additions = _OTEL, Additions(batch, JSON_NESTED)
    else:
        more = {
            "agent": same(orjson.dumps(observer.address)),
            "received": same(b"%d" % time.time()),
            "interfaces": point_lists(batch, _netobserv_interfaces),
            "udns": point_lists(batch, _udns),
        }
        parts, additions = _NETOBSERV, Additions(batch, JSON_FLAT)
    template = Template(*additions.within(parts))
    holes = additions.all_holes({**HOLES, **more})
    return b"".join(template.fill(batch, holes, additions.all_masks(MASKS)))


def _interfaces(points: tuple[PointName, ...]) -> bytes:
    return orjson.dumps([_interface(point) for point in points])


def _netobserv_interfaces(points: tuple[PointName, ...]) -> bytes:
    directions = orjson.dumps([point.direction for point in points] or None)
    names = orjson.dumps([point.name for point in points] or None)
    return b'"IfDirections":%s,"Interfaces":%s' % (directions, names)


def _udns(points: tuple[PointName, ...]) -> bytes:
    return b',"Udns":%s' % orjson.dumps(["" for _ in points]) if points else b""


def netobserv_flags(control_bits: int, flag_sets: int) -> int:
    """The header's eight flags, and 0x100 SYN+ACK, 0x200 FIN+ACK, 0x400 RST+ACK in one packet."""
    return control_bits & 0xFF | flag_sets << 8


def rfc3339(unix_ns: int) -> str:
    """UTC with nanoseconds."""
    seconds, nanoseconds = divmod(unix_ns, 1_000_000_000)
    return f"{_second(seconds)}.{nanoseconds:09d}Z"


@functools.lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _end(record: FlowRecord, address: str, port: int, mac: str) -> dict[str, Any]:
    end: dict[str, Any] = {"address": address}
    if record.ip_protocol in WITH_PORTS:
        end["port"] = port
    if mac != _NO_MAC:
        end["mac"] = mac
    return end


def _flow(record: FlowRecord) -> dict[str, Any]:
    flow: dict[str, Any] = {
        "bytes": record.octets_l2,
        "ip_bytes": record.octets_l3,
        "packets": record.packets,
        "direction": _DIRECTIONS[record.direction],
        "dscp": record.dscp,
    }
    if record.ip_protocol == TCP:
        flow["tcp_flags"] = record.tcp_control_bits
    if record.icmp is not None:
        flow["icmp"] = {"type": record.icmp[0], "code": record.icmp[1]}
    if record.end_reason:
        flow["end_reason"] = FlowEndReason(record.end_reason).text
    if record.duplicate:
        flow["duplicate"] = True
    flow["interfaces"] = [_interface(point) for point in record.points]
    return flow


def _interface(point: Any) -> dict[str, Any]:
    interface = {
        "name": point.name,
        "index": point.ifindex,
        "direction": _DIRECTIONS[point.direction],
    }
    if point.netns:
        interface["netns"] = point.netns
    return interface
