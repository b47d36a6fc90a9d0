"""The agent's records in a real IPFIX collector: all fields, all packets; and what a path takes."""

from __future__ import annotations

import datetime as dt
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from exporter.sinks.ipfix.config import IpfixConfig
from exporter.sinks.ipfix.datagram import DatagramTransport
from exporter.sinks.ipfix.sink import IpfixSink
from tests.e2e.agent import Agent
from tests.e2e.net import Network, connect, disconnect
from tests.e2e.test_exact import ADDRESSES, V4, V6, all_kinds, pair
from tests.wire.collectors import Nfcapd
from tests.wire.ipfix import Read, Reader
from tests.wire.stream_collector import StreamCollector, wait_until
from tests.wire.test_ipfix_datagram import flows, many

PORT = 19_998


def from_json(record: dict[str, Any]) -> tuple[Any, ...]:
    """What nfdump should show of a printed record."""
    flow, source, destination = record["flow"], record["source"], record["destination"]
    icmp = flow.get("icmp")
    index = next(p["index"] for p in flow["interfaces"])
    ingress = flow["direction"] == "ingress"
    return (
        record["time"]["start"][:23], record["time"]["end"][:23],
        source["address"], destination["address"], record["network"]["iana_number"],
        source.get("port", 0), destination.get("port", 0),
        (icmp["type"], icmp["code"]) if icmp else None,
        flow["packets"], flow["ip_bytes"], flow["dscp"],
        flow.get("tcp_flags", 0) & 0xFF,
        source["mac"], destination["mac"],
        (index, 0) if ingress else (0, index), 0 if ingress else 1,
    )  # fmt: skip


def from_nfdump(flow: dict[str, Any]) -> tuple[Any, ...]:
    icmp = (flow["icmp_type"], flow["icmp_code"]) if "icmp_type" in flow else None
    flags = flow.get("tcp_flags", "........")
    return (
        flow["first"], flow["last"],
        flow.get("src4_addr", flow.get("src6_addr")), flow.get("dst4_addr", flow.get("dst6_addr")),
        flow["proto"], flow.get("src_port", 0), flow.get("dst_port", 0), icmp,
        flow["in_packets"], flow["in_bytes"], flow["src_tos"] >> 2,
        sum(0x80 >> place for place, letter in enumerate(flags) if letter != "."),
        flow["in_src_mac"], flow["in_dst_mac"], (flow["input_snmp"], flow["output_snmp"]),
        flow["direction"],
    )  # fmt: skip


def test_every_field_arrives(network: Network, tmp_path: Path) -> None:
    """
    What nfdump shows, and what comes over TCP, is what the agent printed, for all protocols; their
    packets are those of the interface, and octets at the IP layer are without its frames' headers.
    """
    one, other = pair(network)
    with (
        one.netns.entered(),
        Nfcapd(tmp_path, one.netns, PORT) as nfcapd,
        StreamCollector(tmp_path / "kept", port=PORT) as stream,
        Agent(one.netns, tmp_path, "--interfaces", one.device, "--drain-interval", "0.2s", "--sink",
              "stdout", "--sink", f"ipfix+udp://{nfcapd.target}",
              "--sink", f"ipfix+tcp://{stream.target}?time=nanoseconds") as agent,
    ):  # fmt: skip
        connect(one, other, ADDRESSES)
        all_kinds(one, other)
        counters = disconnect(one)
        ledger = agent.wait_drained()
        assert agent.stop() == 0, agent.log
        printed = agent.records()
        wait_until(lambda: len(stream.flows()) == len(printed), "all came over TCP")
        streamed = stream.flows()
        shown = nfcapd.flows()
    assert Counter(map(from_nfdump, shown)) == Counter(map(from_json, printed))
    packets = counters.rx_packets + counters.tx_packets
    octets = counters.rx_octets + counters.tx_octets
    assert sum(flow["in_packets"] for flow in shown) == packets
    assert sum(flow["in_bytes"] for flow in shown) == octets - 14 * packets
    assert sum(flow["packetDeltaCount"] for flow in streamed) == packets
    assert sum(flow["layer2OctetDeltaCount"] for flow in streamed) == octets
    assert Counter(flow["flowStartNanoseconds"] for flow in streamed) == Counter(
        nanoseconds(record["time"]["start"]) for record in printed
    )
    assert "Sequence Errors: 0," in nfcapd.log
    for name in ("ipfix", "ipfix2"):
        sink = ledger["sinks"][name]
        assert sink["delivered"] == sink["queued"] == ledger["published"]


def nanoseconds(text: str) -> int:
    whole, _, rest = text.removesuffix("Z").partition(".")
    moment = dt.datetime.fromisoformat(whole).replace(tzinfo=dt.UTC)
    return int(moment.timestamp()) * 10**9 + int(rest.ljust(9, "0"))


def test_messages_fit_the_path(network: Network) -> None:
    """
    As long as the path takes and no longer, over both families; when it takes less, or more again,
    messages are as long, and none is lost or comes twice.
    """
    one, other = pair(network)
    connect(one, other, ADDRESSES)
    for host, family, head in ((V4[1], socket.AF_INET, 28), (V6[1], socket.AF_INET6, 48)):
        with other.netns.entered():
            there = socket.socket(family, socket.SOCK_DGRAM)
            there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            there.bind((host, 4739))
            there.settimeout(2)
        target = f"[{host}]:4739" if ":" in host else f"{host}:4739"
        sink = IpfixSink("ipfix", IpfixConfig(target=target))
        reader, found = Reader(), list[Read]()
        try:
            for mtu in (1500, 1280, 1400):
                for end in (one, other):
                    end.netns.ip("link", "set", end.device, "mtu", str(mtu))
                with one.netns.entered():
                    for message in sink.encode(many(1000)):
                        sink.deliver(message, 5)
                longest = mtu - head
                read: list[Read] = []
                while len(flows(read)) < 1000:
                    read.append(reader.message(there.recv(65_536)))
                assert longest - 110 < max(one.octets for one in read) <= longest
                found += read
        finally:
            sink.close()
            there.close()
        numbers = [flow["layer2OctetDeltaCount"] for flow in flows(found)]
        assert numbers == [*range(1000)] * 3
        assert reader.missing == 0


def test_a_path_that_takes_less_than_the_kernel_said(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is refused as too long goes in shorter messages, from the first that was refused on."""
    one, other = pair(network)
    connect(one, other, ADDRESSES)
    for end in (one, other):
        end.netns.ip("link", "set", end.device, "mtu", "1280")
    stale = iter([1472])
    ask = DatagramTransport._longest
    monkeypatch.setattr(
        DatagramTransport, "_longest", lambda self, link: next(stale, 0) or ask(self, link)
    )
    with other.netns.entered():
        there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        there.bind((V4[1], 4739))
        there.settimeout(2)
    sink = IpfixSink("ipfix", IpfixConfig(target=f"{V4[1]}:4739"))
    reader, found = Reader(), list[Read]()
    try:
        with one.netns.entered():
            for message in sink.encode(many(1000)):
                sink.deliver(message, 5)
        while len(flows(found)) < 1000:
            found.append(reader.message(there.recv(65_536)))
    finally:
        sink.close()
        there.close()
    assert [flow["layer2OctetDeltaCount"] for flow in flows(found)] == list(range(1000))
    assert max(one.octets for one in found) <= 1252
    assert reader.missing == 0
