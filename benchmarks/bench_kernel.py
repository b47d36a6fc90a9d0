"""
What the kernel program costs per packet: BPF_PROG_TEST_RUN, an empty program first.

Each case runs a million packets of one flow, seven times, the programs in turn; each checks that
the program counted every packet.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1Q, Ether

from benchmarks.report import Table, median, spread
from exporter.capture.config import CaptureConfig
from exporter.capture.fetcher import FlowFetcher
from exporter.ebpf.object import Object, ObjectSpec
from tests.compile import compile_bpf

PACKETS, RUNS = 1_000_000, 7

_ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
_V4, _V6 = IP(src="192.0.2.1", dst="192.0.2.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")
CASES: dict[str, Any] = {
    "IPv4 TCP": _ETHER / _V4 / TCP(sport=1, dport=2, flags="A") / bytes(40),
    "IPv4 UDP": _ETHER / _V4 / UDP(sport=1, dport=2) / bytes(40),
    "IPv6 TCP": _ETHER / _V6 / TCP(sport=1, dport=2, flags="A") / bytes(40),
    "IPv4 TCP in a VLAN": _ETHER / Dot1Q(vlan=7) / _V4 / TCP(sport=1, dport=2, flags="A"),
    "IPv4 ICMP": _ETHER / _V4 / ICMP() / bytes(40),
    "IPv6 with two extension headers": (
        _ETHER / _V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2)
    ),
    "ARP": _ETHER / ARP(),
}


def run() -> Table:
    """Ns per packet of every case."""
    table = Table(
        "kernel",
        "ns per packet, BPF_PROG_TEST_RUN, median of seven runs of a million packets",
        ("packet", "empty program", "ours", "ours, --clock precise"),
    )
    with tempfile.TemporaryDirectory() as directory:
        floor = Object.load(ObjectSpec.open(_empty(Path(directory))))
    ours, precise = _fetcher("auto"), _fetcher("precise")
    with floor, ours, precise:
        for name, packet in CASES.items():
            frame = bytes(packet)
            times: dict[str, list[float]] = {"empty": [], "ours": [], "precise": []}
            for _ in range(RUNS):
                empty = floor.programs["empty"].test_run(frame, PACKETS)
                times["empty"].append(empty.duration_ns)
                times["ours"].append(_time(ours, frame))
                times["precise"].append(_time(precise, frame))
            table.add(
                name, f"{median(times['empty']):.0f}", spread(times["ours"], 0),
                spread(times["precise"], 0),
            )  # fmt: skip
    return table


def _fetcher(clock: str) -> FlowFetcher:
    fetcher = FlowFetcher(CaptureConfig(clock=clock))
    fetcher.open()
    return fetcher


def _time(fetcher: FlowFetcher, frame: bytes) -> float:
    before = fetcher.counts()
    result = fetcher.program("tc_ingress").test_run(frame, PACKETS)
    after = fetcher.counts()
    assert after.seen.packets - before.seen.packets == PACKETS
    assert after.accounted == after.seen
    return result.duration_ns


def _empty(directory: Path) -> Path:
    return compile_bpf(Path(__file__).with_name("empty.bpf.c"), directory / "empty.bpf.o")
