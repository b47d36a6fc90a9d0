"""What nfcapd and nfacctd show of flows sent to them over UDP is what was captured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.batch.attributes import SIDES, Entities
from exporter.batch.batch import FlowBatch, Interface, Observer, Point
from exporter.sinks.ipfix.config import IpfixConfig
from exporter.sinks.ipfix.sink import IpfixSink
from exporter.testing import Row, make_batch
from tests.strategies import ASN, NUMBER
from tests.wire.collectors import Nfacctd, Nfcapd
from tests.wire.flows import expected

POINTS = (Point(0, 2, 0), Point(0, 3, 1))
OBSERVER = Observer("192.0.2.7", "node-1")
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp", 47: "gre"}


def flows() -> FlowBatch:
    """
    Hundreds of flows that differ in every field: both families and directions, all protocols with
    ports and without, VLANs, all end reasons, counts beyond 32 bits.
    """
    rows = []
    for number in range(600):
        protocol = (6, 17, 132, 1, 47)[number % 5]
        icmp, ports = protocol == 1, protocol in (6, 17, 132)
        six = number % 2 == 1
        rows.append(
            Row(
                src_addr=f"2001:db8::{number:x}" if six else f"10.1.{number // 256}.{number % 256}",
                dst_addr="2001:db8:ffff::1" if six else "198.51.100.7",
                ip_protocol=58 if icmp and six else protocol,
                src_port=1000 + number if ports else 0,
                dst_port=(number % 256) * 256 + number % 16 if icmp else number + 1 if ports else 0,
                ifindex=POINTS[number % 3 % 2].ifindex,
                direction=POINTS[number % 3 % 2].direction,
                vlan_id=number % 7 * 100,
                inner_vlan_id=number % 11,
                flow_start_ns=1_700_000_000_123_456_789 + number * 1_234_567,
                flow_end_ns=1_700_000_009_999_999_999 + number * 1_234_567,
                packet_count=number + 1 if number % 13 else 5 * 10**9 + number,
                octet_count_l2=(number + 1) * 154 if number % 13 else 6 * 10**12 + number,
                octet_count_l3=(number + 1) * 140 if number % 13 else 5 * 10**12 + number,
                # nfcapd keeps eight of its bits.
                tcp_control_bits=number % 256 if protocol == 6 else 0,
                dscp=number % 64,
                src_mac=f"02:00:00:00:{number // 256:02x}:{number % 256:02x}",
                dst_mac=f"02:ff:00:00:{number // 256:02x}:{number % 256:02x}",
                flow_end_reason=number % 5 + 1,
                points=(POINTS[number % 3 % 2],),
            )
        )
    return make_batch(
        *rows, observer=OBSERVER, interfaces={POINTS[0]: Interface("eth0")},
    )  # fmt: skip


def send(target: str, batch: FlowBatch, **section: Any) -> None:
    config = IpfixConfig(target=target, **section)
    sink = IpfixSink("ipfix", config, batch.attributes())
    sink.open()
    try:
        for message in sink.encode(batch):
            sink.deliver(message, 5)
    finally:
        sink.close()


def by_source(found: list[dict[str, Any]], name: str) -> dict[str, dict[str, Any]]:
    indexed = {flow[name]: flow for flow in found}
    assert len(indexed) == len(found)
    return indexed


def of(flow: dict[str, Any], name: str) -> Any:
    """An element that has another number for each family."""
    return flow.get(f"{name}IPv4Address", flow.get(f"{name}IPv6Address"))


def nfdump_time(milliseconds: int) -> str:
    import datetime as dt

    moment = dt.datetime.fromtimestamp(milliseconds // 1000, dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03}"


def as_nfdump(flow: dict[str, Any]) -> dict[str, Any]:
    """What nfdump 1.7.1 should show of a flow."""
    family = 4 if "sourceIPv4Address" in flow else 6
    shown = {
        "type": "FLOW", "sampled": 1, "export_sysid": 1,
        "first": nfdump_time(flow["flowStartMilliseconds"]),
        "last": nfdump_time(flow["flowEndMilliseconds"]),
        "in_packets": flow["packetDeltaCount"], "in_bytes": flow["octetDeltaCount"],
        "proto": flow["protocolIdentifier"], "src_tos": flow["ipClassOfService"],
        f"src{family}_addr": of(flow, "source"), f"dst{family}_addr": of(flow, "destination"),
        "input_snmp": flow["ingressInterface"], "output_snmp": flow["egressInterface"],
        "direction": flow["flowDirection"],
        "src_vlan": flow["vlanId"], "dst_vlan": flow["postVlanId"],
        "in_src_mac": flow["sourceMacAddress"], "in_dst_mac": flow["destinationMacAddress"],
        "ip4_router": "127.0.0.1",
    }  # fmt: skip
    if flow["protocolIdentifier"] in (1, 58):
        shown["icmp_type"], shown["icmp_code"] = divmod(flow["destinationTransportPort"], 256)
    else:
        shown["src_port"] = flow["sourceTransportPort"]
        shown["dst_port"] = flow["destinationTransportPort"]
        shown["tcp_flags"] = "".join(
            letter if flow["tcpControlBits"] & bit else "."
            for letter, bit in zip("CEUAPRSF", (128, 64, 32, 16, 8, 4, 2, 1), strict=True)
        )
    return shown


#: What nfdump shows beside, of elements that are not sent or of itself.
_NFDUMP_OTHERS = {
    "received", "src_mask", "dst_mask", "src_net", "dst_net", "fwd_status", "dst_tos",
    "out_dst_mac", "out_src_mac", "label",
}  # fmt: skip


def test_nfcapd_shows_what_was_sent(tmp_path: Path) -> None:
    """
    Each of its fields, of each flow; and no sequence error. Autonomous systems that enrichment
    added, too; what nfdump does not know, as a flow's id, does not disturb it.
    """
    batch = flows()
    systems = (None, *range(4_200_000_000, 4_200_000_050))
    ends = [
        Entities(np.arange(600, dtype=np.uint32) * step % 51, {ASN.of(side): systems})
        for step, side in zip((1, 7), SIDES, strict=True)
    ]
    ids = np.arange(600, dtype=np.uint64) << np.uint64(54)
    batch = replace(batch, entities=tuple(ends), added={NUMBER: ids})
    with Nfcapd(tmp_path) as collector:
        send(collector.target, batch)
        found = by_source_address(collector.flows())
    assert "Flows: 600," in collector.log
    assert "Sequence Errors: 0," in collector.log
    wanted = {of(flow, "source"): as_nfdump(flow) for flow in expected(batch)}
    for number, flow in enumerate(wanted.values()):
        for step, name in ((1, "src_as"), (7, "dst_as")):
            flow[name] = systems[number * step % 51] or 0
    shown = {
        source: {name: value for name, value in flow.items() if name not in _NFDUMP_OTHERS}
        for source, flow in found.items()
    }
    assert shown == wanted


def by_source_address(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    indexed = {flow.get("src4_addr", flow.get("src6_addr")): flow for flow in found}
    assert len(indexed) == len(found)
    return {str(source): flow for source, flow in indexed.items()}


def test_nfcapd_scales_by_the_sampling_that_it_was_told(tmp_path: Path) -> None:
    """Of 1 in 100 packets it shows a hundred times what was counted: the option was understood."""
    batch = replace(flows(), sampling_interval=flows().sampling_interval * 100)
    with Nfcapd(tmp_path) as collector:
        send(collector.target, batch)
        found = collector.flows()
    assert "algorithm: 0, packet interval: 1, packet space: 99" in collector.log
    assert sum(flow["in_packets"] for flow in found) == 100 * batch.totals.packets
    assert sum(flow["in_bytes"] for flow in found) == 100 * int(batch.octet_count_l3.sum())


def as_pmacct(flow: dict[str, Any]) -> dict[str, Any]:
    """What nfacctd 1.7.7 should show of a flow."""
    six = "sourceIPv6Address" in flow

    def moment(milliseconds: int) -> str:
        return nfdump_time(milliseconds).replace("T", " ") + "000"

    return {
        "ip_src": of(flow, "source"), "ip_dst": of(flow, "destination"),
        "port_src": flow["sourceTransportPort"], "port_dst": flow["destinationTransportPort"],
        "ip_proto": _PROTOCOLS[flow["protocolIdentifier"]], "tos": flow["ipClassOfService"],
        "vlan": flow["postVlanId"] if flow["flowDirection"] else flow["vlanId"],
        "iface_in": flow["ingressInterface"], "iface_out": flow["egressInterface"],
        "mac_src": flow["sourceMacAddress"], "mac_dst": flow["destinationMacAddress"],
        "timestamp_start": moment(flow["flowStartMilliseconds"]),
        "timestamp_end": moment(flow["flowEndMilliseconds"]),
        "sampling_rate": flow["samplingInterval"],
        "sampling_direction": "ie"[flow["flowDirection"]],
        "export_proto_sysid": 0xC0000207, "flows": 1, "event_type": "purge",
        "packets": flow["packetDeltaCount"], "bytes": flow["octetDeltaCount"],
        "icmptypecodeipv4": flow.get("icmpTypeCodeIPv4", 0),
        "icmptypecodeipv6": flow["icmpTypeCodeIPv6"] if six else 0,
    } | {
        name.lower(): flow[name]
        for name in ("tcpControlBits", "flowEndReason", "ipDiffServCodePoint", "flowDirection",
                     "dot1qCustomerVlanId", "layer2OctetDeltaCount", "samplingInterval")
    }  # fmt: skip


@pytest.mark.parametrize("interval", [1, 100])
def test_nfacctd_shows_what_was_sent(tmp_path: Path, interval: int) -> None:
    """Each of its fields, and the elements that it was told of, of each flow."""
    batch = flows()
    batch = replace(batch, sampling_interval=batch.sampling_interval * interval)
    with Nfacctd(tmp_path) as collector:
        send(collector.target, batch)
        found = by_source(collector.flows(len(batch)), "ip_src")
    wanted = {of(flow, "source"): as_pmacct(flow) for flow in expected(batch)}
    assert {source: _numbers(flow) for source, flow in found.items()} == wanted
    assert "WARN" not in collector.log


def _numbers(flow: dict[str, Any]) -> dict[str, Any]:
    """Elements that it was told of are shown as text."""
    number: Callable[[Any], Any] = lambda value: (  # noqa: E731 - a name for one expression
        int(value) if isinstance(value, str) and value.isdigit() else value
    )
    return {name.lower(): number(value) for name, value in flow.items()}
