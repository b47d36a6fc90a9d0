"""
What copying DNS costs per packet in the kernel, and what a message costs in user space.

The kernel: BPF_PROG_TEST_RUN as in ``bench_kernel``, the programs in turn, seven times. Packets
that are no DNS by the million; DNS 3,196 packets at a time, a hundred times: that many fit into its
ring, and each must be there. User space: CPU time of this thread, and dnspython's beside it, which
reads a message and is not asked for the chain.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import dns.flags
import dns.message
import dns.rrset
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from benchmarks.report import Table, median, spread
from exporter.capture.config import CaptureConfig
from exporter.capture.dns import NO_COPYING, DnsCopying
from exporter.capture.fetcher import Beside, FlowFetcher
from exporter.enrich.dns.message import AAAA, A, answers, parse

PACKETS, RUNS, MESSAGES = 1_000_000, 7, 5_000
#: Octets of the ring, and of a record of up to 256 octets in it.
_RING, _RECORD = 1 << 20, 8 + 64 + 256
_ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
_V4 = IP(src="192.0.2.1", dst="192.0.2.2")


def run() -> Table:
    """Both, as rows of one table."""
    table = Table(
        "dns",
        "median of seven runs; ns per packet with DNS not copied and copied, us per message with "
        "dnspython and with ours",
        ("what", "without", "with"),
    )
    plain, copying = _fetcher(NO_COPYING), _fetcher(DnsCopying((53,), _RING))
    with plain, copying:
        for name, port, timed in (
            ("ns per UDP packet that is no DNS", 1, _time),
            ("ns per DNS answer of 120 octets", 53, _time_copying),
        ):
            frame = bytes(_ETHER / _V4 / UDP(sport=port, dport=2) / bytes(120))
            times = [(_time(plain, frame), timed(copying, frame)) for _ in range(RUNS)]
            without, with_ = zip(*times, strict=True)
            table.add(name, spread(list(without), 0), spread(list(with_), 0))
    for addresses, aliases in ((1, 0), (4, 2), (20, 0)):
        octets = _answer(addresses, aliases)
        theirs, ours = _read(dns.message.from_wire, octets), _read(_ours, octets)
        assert len(_ours(octets)) == addresses
        name = f"us per answer of {addresses} addresses, {aliases} aliases"
        table.add(name, f"{theirs:.1f}", f"{ours:.1f}")
    return table


def _fetcher(dns_: DnsCopying) -> FlowFetcher:
    fetcher = FlowFetcher(CaptureConfig(), beside=Beside(dns=dns_))
    fetcher.open()
    return fetcher


def _time(fetcher: FlowFetcher, frame: bytes) -> float:
    return fetcher.program("tc_ingress").test_run(frame, PACKETS).duration_ns


def _time_copying(fetcher: FlowFetcher, frame: bytes) -> float:
    rounds, packets = 100, _RING // _RECORD
    total = 0.0
    for _ in range(rounds):
        total += fetcher.program("tc_ingress").test_run(frame, packets).duration_ns
        copied = fetcher.read_dns()
        assert (len(copied.packets), copied.lost) == (packets, 0)
    return total / rounds


def _answer(addresses: int, aliases: int) -> bytes:
    response = dns.message.make_response(dns.message.make_query("www.service.example.com", "A"))
    name = "www.service.example.com."
    for number in range(aliases):
        target = f"a{number}.cdn.example.net."
        response.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", target))
        name = target
    values = [f"192.0.2.{number}" for number in range(1, addresses + 1)]
    response.answer.append(dns.rrset.from_text(name, 60, "IN", "A", *values))
    response.flags |= dns.flags.RA
    return response.to_wire()


def _ours(octets: bytes) -> tuple[bytes | str, ...]:
    return answers(parse(octets), A, AAAA).values


def _read(reader: Callable[[bytes], object], octets: bytes) -> float:
    """Microseconds of CPU time for a message."""
    times = []
    for _ in range(RUNS):
        begun = time.thread_time()
        for _ in range(MESSAGES // RUNS):
            reader(octets)
        times.append((time.thread_time() - begun) / (MESSAGES // RUNS) * 1e6)
    return median(times)
