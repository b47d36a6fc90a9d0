"""tshark's reading of what is sent: every element of every record, and no complaint."""

from __future__ import annotations

import datetime as dt
import os
import socket
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from exporter.batch.batch import FlowBatch
from tests.conftest import missing
from tests.packets import tshark
from tests.wire.flows import by_family, expected
from tests.wire.stream_collector import StreamCollector, wait_until
from tests.wire.test_ipfix_collectors import flows
from tests.wire.test_ipfix_datagram import receiver
from tests.wire.test_ipfix_datagram import sink as datagram_sink
from tests.wire.test_ipfix_stream import sink as stream_sink

#: Element -> tshark's name. Values are compared as it prints them, numbers as numbers.
_NAMES = {
    "sourceIPv4Address": "srcaddr", "destinationIPv4Address": "dstaddr",
    "sourceIPv6Address": "srcaddrv6", "destinationIPv6Address": "dstaddrv6",
    "sourceTransportPort": "srcport", "destinationTransportPort": "dstport",
    "icmpTypeCodeIPv4": "icmp_type_code_ipv4", "protocolIdentifier": "protocol",
    "vlanId": "vlanid", "postVlanId": "post_vlanid",
    "dot1qCustomerVlanId": "dot1q_customer_vlan_id", "sourceMacAddress": "srcmac",
    "destinationMacAddress": "dstmac", "packetDeltaCount": "packets", "octetDeltaCount": "octets",
    "layer2OctetDeltaCount": "layer2_octet_delta_count", "tcpControlBits": "tcpflags",
    "ipDiffServCodePoint": "ip_dscp", "ipClassOfService": "tos",
    "flowEndReason": "flow_end_reason", "samplingInterval": "sampling_interval",
    "ingressInterface": "inputint", "egressInterface": "outputint", "flowDirection": "direction",
}  # fmt: skip
_TIMES = {"Start": "abstimestart", "End": "abstimeend"}


@pytest.fixture(autouse=True)
def _installed() -> None:
    if not tshark.is_installed():
        missing("tshark")


def dissected(path: Path) -> ET.Element:
    """tshark's whole tree."""
    done = subprocess.run(
        ["tshark", "-n", "-r", str(path), "-T", "pdml"],
        capture_output=True, check=True,
        env=os.environ | {"WIRESHARK_CONFIG_DIR": "/nonexistent", "TZ": "UTC"},
    )  # fmt: skip
    return ET.fromstring(done.stdout)


def of_flow(element: ET.Element) -> dict[str, str]:
    """Field -> what is shown of it, for each field within one record."""
    return {
        field.get("name", "").removeprefix("cflow."): field.get("show", "")
        for field in element.iter("field")
        if field.get("name", "").startswith("cflow.")
    }


def records(tree: ET.Element) -> list[dict[str, str]]:
    """Every Data Record, those of options too."""
    return [
        of_flow(element)
        for element in tree.iter("field")
        if element.get("name") == "" and element.get("show", "").startswith("Flow ")
    ]


def as_tshark(flow: dict[str, Any]) -> dict[str, Any]:
    """What it should show of a flow."""
    shown = {_NAMES[name]: value for name, value in flow.items() if name in _NAMES}
    for which, name in _TIMES.items():
        nanoseconds = flow.get(f"flow{which}Nanoseconds")
        if nanoseconds is None:
            nanoseconds = flow[f"flow{which}Milliseconds"] * 10**6
        shown[name] = nanoseconds
    if "icmpTypeCodeIPv6" in flow:
        shown["icmp_ipv6_type"], shown["icmp_ipv6_code"] = divmod(flow["icmpTypeCodeIPv6"], 256)
    return shown


def read(shown: dict[str, str]) -> dict[str, Any]:
    """What it shows, as values; flags once, as a number."""
    values: dict[str, Any] = {}
    for name, text in shown.items():
        if name in _TIMES.values():
            values[name] = _nanoseconds(text)
        elif name != "timedelta" and not name.startswith("tcpflags."):
            values[name] = int(text, 0) if text.isdigit() or text.startswith("0x") else text
    return values


def _nanoseconds(text: str) -> int:
    """``Nov 14, 2023 22:13:20.123456789 UTC``."""
    whole, _, rest = text.removesuffix(" UTC").partition(".")
    moment = dt.datetime.strptime(whole, "%b %d, %Y %H:%M:%S").replace(tzinfo=dt.UTC)
    return int(moment.timestamp()) * 10**9 + int(rest)


def capture_of_datagrams(batch: FlowBatch, path: Path, time: str) -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.utils import wrpcap

    with (
        receiver(family=socket.AF_INET) as there,
        datagram_sink(there.port, time=time, max_octets=1400) as made,
    ):
        for message in made.encode(batch):
            made.deliver(message, 5)
        there.messages(len(batch))
    frames = [
        IP(src="127.0.0.1", dst="127.0.0.2") / UDP(sport=40_000, dport=4739) / octets
        for octets in there.datagrams
    ]
    wrpcap(str(path), frames)


def capture_of_stream(batch: FlowBatch, path: Path, time: str) -> None:
    """Segments that end wherever they end, as on the wire."""
    from scapy.layers.inet import IP, TCP
    from scapy.utils import wrpcap

    with (
        StreamCollector(path.with_suffix(".kept")) as collector,
        stream_sink(collector.target, time=time) as made,
    ):
        for message in made.encode(batch):
            made.deliver(message, 5)
        wait_until(lambda: len(collector.flows()) == len(batch), "all is read")
        (octets,) = collector.connections()
    head = IP(src="127.0.0.1", dst="127.0.0.2")
    frames = [
        head / TCP(sport=40_000, dport=4739, flags="A", seq=1 + at) / octets[at : at + 1460]
        for at in range(0, len(octets), 1460)
    ]
    wrpcap(str(path), frames)


@pytest.mark.parametrize("time", ["milliseconds", "nanoseconds"])
@pytest.mark.parametrize("capture", [capture_of_datagrams, capture_of_stream])
def test_tshark_reads_everything(tmp_path: Path, capture: Any, time: str) -> None:
    """
    All templates, all options, and every element of every flow as captured; no malformed message,
    no expert's remark, sequence numbers as it expects them.
    """
    batch = flows()
    path = tmp_path / "sent.pcap"
    capture(batch, path, time)
    tree = dissected(path)
    sampling, interface, *shown = records(tree)
    assert sampling == {
        "od_id": str(0xC0000207), "sampling_interval": "1", "sampling_packet_interval": "1",
        "sampling_packet_space": "0", "sampling_probability": "1",
    }  # fmt: skip
    assert interface.items() >= {"inputint": "2", "if_name": "eth0"}.items()
    assert [read(flow) for flow in shown] == [
        as_tshark(flow) for flow in expected(by_family(batch), time)
    ]
    names = [element.get("name", "") for element in tree.iter("field")]
    assert [name for name in names if name.startswith("_ws.")] == []
    protocols = {element.get("name", "") for element in tree.iter("proto")}
    assert "cflow" in protocols
    assert not {name for name in protocols if name.startswith("_ws.")}
    told = [
        int(element.get("show", ""))
        for element in tree.iter("field")
        if element.get("name") == "cflow.template_id"
    ]
    assert told == [256, 257, 258, 259]
