"""
What finding the owners of sockets costs, beside the flows themselves (``enrich`` has those).

The kernel: BPF_PROG_TEST_RUN as in ``bench_kernel``; first packets are datagrams of real sockets,
and their time is the kernel's own statistics. Sockets: CPU time of the thread that makes and closes
them, and of the one that notes them. Looks: CPU time of one, on this machine as it is.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from benchmarks.report import Table, spread
from exporter.capture.census import CensusTaker
from exporter.capture.cgroups import processes
from exporter.capture.config import CaptureConfig
from exporter.capture.fetcher import Beside, FlowFetcher, NetworkInterface
from exporter.capture.socketdiag import holders
from exporter.capture.sockets import SocketWatcher
from exporter.ebpf._programs import program_info
from tests.e2e.containers import cgroups
from tests.e2e.net import End, Network
from tests.kernel.hooks import take
from tests.kernel.test_owners import THERE, pair

PACKETS, RUNS, FIRSTS, SOCKETS = 1_000_000, 7, 2_000, 2_000
_ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
_STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
_V4 = IP(src="192.0.2.1", dst="192.0.2.2")


def run() -> Table:
    """All of it, as rows of one table."""
    table = Table(
        "processes",
        f"what finding the owners of sockets costs, median of {RUNS} runs",
        ("what", "without", "with"),
    )
    plain, noting = _fetcher(owners=False), _fetcher(owners=True)
    with plain, noting:
        later = [(_later(plain), _later(noting)) for _ in range(RUNS)]
    first = _first()
    for what, times in (
        ("ns per packet of a flow that is there", later),
        ("ns per first packet of a flow, from a socket", first),
    ):
        without, with_ = zip(*times, strict=True)
        table.add(what, spread(without, 0), spread(with_, 0))
    _sockets(table)
    count = len(list(processes()))
    for what, look in (
        ("who holds sockets", _holders),
        ("who lives behind interfaces", _taker().look),
    ):
        table.add(f"ms to look {what}, {count} processes", "-", _cpu(look))
    return table


def _fetcher(*, owners: bool) -> FlowFetcher:
    fetcher = FlowFetcher(CaptureConfig(max_flows=20_000), beside=Beside(owners=owners))
    fetcher.open()
    return fetcher


def _later(fetcher: FlowFetcher) -> float:
    return fetcher.program("tc_ingress").test_run(_frame(1), PACKETS).duration_ns


def _first() -> list[tuple[float, float]]:
    """
    Without and with, of each run: datagrams of a real socket, each to another port.

    The kernel's own clock for programs, which counts itself, too: only the difference says much.
    """
    network = Network()
    before = _STATISTICS.read_text()
    try:
        one, _ = pair(network)
        _STATISTICS.write_text("1")
        with one.netns.entered():
            plain, noting = _fetcher(owners=False), _fetcher(owners=True)
            with plain, noting:
                return [(_sent(plain, one, run), _sent(noting, one, run)) for run in range(RUNS)]
    finally:
        _STATISTICS.write_text(before)
        network.close()


def _sent(fetcher: FlowFetcher, end: End, run: int) -> float:
    """Ns of the program at egress for one, all of them first packets."""
    interface = NetworkInterface(end.netns.index(end.device), end.device)
    fetcher.register(interface)
    began = _spent(fetcher)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port in range(1024 + run * FIRSTS, 1024 + (run + 1) * FIRSTS):
            sender.sendto(bytes(40), (THERE, port))
        own = int.from_bytes(sender.getsockopt(socket.SOL_SOCKET, 57, 8), "little")
    ran, nanoseconds = (now - then for now, then in zip(_spent(fetcher), began, strict=True))
    fetcher.unregister(interface)
    batch = take(fetcher)
    assert ran >= FIRSTS
    if fetcher.owners is not None:
        source, _ = fetcher.owners.ends(batch)
        assert (source.cookies == own).sum() == FIRSTS
    return nanoseconds / ran


def _spent(fetcher: FlowFetcher) -> tuple[int, int]:
    """How often the program at egress has run, and for how long."""
    raw, _ = program_info(fetcher.program("tc_egress").fd)
    return raw.run_cnt, raw.run_time_ns


def _frame(port: int) -> bytes:
    return bytes(_ETHER / _V4 / UDP(sport=port, dport=53) / bytes(40))


def _sockets(table: Table) -> None:
    """Making and closing one, and noting it: from the event alone, and from /proc as well."""
    without = [_make() for _ in range(RUNS)]
    with_: list[float] = []
    told: list[float] = []
    looked: list[float] = []
    with (
        tempfile.TemporaryDirectory() as directory,
        cgroups(Path(directory, "cgroup")) as root,
        _watcher() as watcher,
        _inside(root),
    ):
        _make()
        _note(watcher)
        # What its thread does, of which there is none here: now the cgroup is known.
        watcher._cgroups.walk_if_asked()
        for _ in range(RUNS):
            with_.append(_make())
            told.append(_note(watcher))
            thread = threading.Thread(target=_make)
            thread.start()
            thread.join()
            looked.append(_note(watcher))
        assert watcher.lost() == 0
    table.add("us to make and close a socket", spread(without), spread(with_))
    table.add("us to note a socket", "-", spread(told, 1))
    table.add("us to note one of another thread, from /proc", "-", spread(looked, 1))


@contextmanager
def _inside(root: Path) -> Iterator[None]:
    """In a cgroup of one's own, as services and containers are."""
    group = root / f"flow-exporter-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (root / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


@contextmanager
def _watcher() -> Iterator[SocketWatcher]:
    """Attached, and without its thread: what it would do is done here, and measured."""
    watcher = SocketWatcher()
    watcher._attach()
    try:
        yield watcher
    finally:
        watcher.close()


def _make() -> float:
    """Microseconds of this thread for one."""
    began = time.thread_time()
    for _ in range(SOCKETS):
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    return (time.thread_time() - began) / SOCKETS * 1e6


def _note(watcher: SocketWatcher) -> float:
    before = len(watcher.table)
    began = time.thread_time()
    watcher.catch_up()
    spent = time.thread_time() - began
    # Those of other programs are told of, too.
    noted = len(watcher.table) - before
    assert noted >= SOCKETS, noted
    return spent / noted * 1e6


def _holders() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        cookie = int.from_bytes(one.getsockopt(socket.SOL_SOCKET, 57, 8), "little")
        assert [found.pid for found in holders({cookie})[cookie]] == [os.getpid()]


def _taker() -> CensusTaker:
    own = Path("/proc/self/ns/net")
    return CensusTaker(
        lambda: {own.stat().st_ino: str(own)}, lambda: None, lambda _: None,
        Path("/var/run/netns"), 60,
    )  # fmt: skip


def _cpu(look: Callable[[], object]) -> str:
    times = []
    for _ in range(RUNS):
        began = time.thread_time()
        look()
        times.append(1e3 * (time.thread_time() - began))
    return spread(times, 1)
