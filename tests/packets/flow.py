"""A flow as it is compared: what two readings of a capture must agree on."""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Key(NamedTuple):
    """What makes packets one flow. ``interface`` counts the file's interfaces from 1."""

    source: str
    destination: str
    source_port: int
    destination_port: int
    ip_protocol: int
    vlan: int = 0
    inner_vlan: int = 0
    interface: int = 1
    direction: str = "ingress"


class Counts(NamedTuple):
    """What its packets add up to. ``tcp_flags`` is ``None`` but for TCP."""

    packets: int
    octets_l2: int
    octets_l3: int
    tcp_flags: int | None
    dscp: int
    start_ns: int
    end_ns: int
    source_mac: str
    destination_mac: str


@dataclass
class Reading:
    """What somebody says that a capture holds."""

    frames: int = 0
    not_ip: int = 0
    malformed: int = 0
    flows: dict[Key, Counts] = field(default_factory=dict)

    def add(self, key: Key, packet: Counts) -> None:
        """Count one packet more: the first one's MACs, the last one's DSCP, the times' extremes."""
        flow = self.flows.get(key)
        if flow is None:
            self.flows[key] = packet
            return
        self.flows[key] = Counts(
            packets=flow.packets + packet.packets,
            octets_l2=flow.octets_l2 + packet.octets_l2,
            octets_l3=flow.octets_l3 + packet.octets_l3,
            tcp_flags=None if flow.tcp_flags is None else flow.tcp_flags | (packet.tcp_flags or 0),
            dscp=packet.dscp,
            start_ns=min(flow.start_ns, packet.start_ns),
            end_ns=max(flow.end_ns, packet.end_ns),
            source_mac=flow.source_mac,
            destination_mac=flow.destination_mac,
        )


def from_records(records: Iterable[dict[str, Any]]) -> dict[Key, Counts]:
    """Flows of JSON records in the ``otel`` schema; no two records may be of the same flow."""
    flows: dict[Key, Counts] = {}
    for record in records:
        key, counts = _key(record), _counts(record)
        assert key not in flows, f"two records of one flow: {key}"
        flows[key] = counts
    return flows


def _key(record: dict[str, Any]) -> Key:
    source, destination, network = record["source"], record["destination"], record["network"]
    (interface,) = record["flow"]["interfaces"]
    ports = source.get("port", 0), destination.get("port", 0)
    if "icmp" in record["flow"]:
        ports = 0, record["flow"]["icmp"]["type"] * 256 + record["flow"]["icmp"]["code"]
    return Key(
        source["address"],
        destination["address"],
        *ports,
        ip_protocol=network["iana_number"],
        vlan=network.get("vlan", {}).get("id", 0),
        inner_vlan=network.get("inner", {}).get("vlan", {}).get("id", 0),
        interface=interface["index"],
        direction=record["flow"]["direction"],
    )


def _counts(record: dict[str, Any]) -> Counts:
    flow = record["flow"]
    return Counts(
        packets=flow["packets"],
        octets_l2=flow["bytes"],
        octets_l3=flow["ip_bytes"],
        tcp_flags=flow.get("tcp_flags"),
        dscp=flow["dscp"],
        start_ns=unix_ns(record["time"]["start"]),
        end_ns=unix_ns(record["time"]["end"]),
        source_mac=record["source"].get("mac", ""),
        destination_mac=record["destination"].get("mac", ""),
    )


def unix_ns(text: str) -> int:
    """RFC 3339, UTC, with nine digits of fraction."""
    seconds, fraction = text.removesuffix("Z").split(".")
    assert len(fraction) == 9, text
    return calendar.timegm(time.strptime(seconds, "%Y-%m-%dT%H:%M:%S")) * 10**9 + int(fraction)
