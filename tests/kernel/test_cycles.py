"""Many lives of the whole kernel side leave the process and the kernel as they were."""

from __future__ import annotations

import gc
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from exporter.capture.store import unpin_all
from exporter.ebpf import inventory
from exporter.ebpf.links import Hook
from tests.e2e.agent import wait_until
from tests.e2e.net import End, Network
from tests.kernel.bpffs import bpffs
from tests.kernel.hooks import quiet_pair, send, take, watching
from tests.kernel.test_take_over import life

#: The other hook differs in what is attached, which is counted exactly after any number of lives.
LIVES: dict[Hook, int] = {"tcx": 100, "tc": 35}
#: What libraries grow in the first lives (caches, the allocator's pools) is no leak.
WARM = 20
#: A leak of one page in each life would be less; a map or a log buffer is more.
SLACK = 1 << 18
FRAME = bytes(Ether() / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=9, dport=9) / bytes(18))


def in_kernel() -> set[tuple[str, int]]:
    """Every program, map and link that the kernel has, by kind and id."""
    return {
        (kind, number)
        for kind, ids in (
            ("program", inventory.program_ids()),
            ("map", inventory.map_ids()),
            ("link", inventory.link_ids()),
        )
        for number in ids
    }


def live(end: End, hook: Hook) -> None:
    """One life, in which one packet is counted."""
    with watching(end, max_flows=64, hook=hook) as fetcher:
        send(end, FRAME)
        assert take(fetcher).totals.packets == 1


def live_pinned(end: End, hook: Hook, pins: Path) -> None:
    """One life whose maps, programs and links outlive it, until they are removed."""
    with life(pins, end, max_flows=64, hook=hook) as fetcher:
        send(end, FRAME)
        assert take(fetcher).totals.packets == 1
    left = unpin_all(str(pins))
    assert left is not None
    assert left.points == 2
    assert not pins.exists()


def resident(process: psutil.Process) -> int:
    """Octets that the process has in memory."""
    gc.collect()
    return int(process.memory_info().rss)


def lives(end: End, hook: Hook, pins: Path) -> None:
    """Many, every second one pinned, in this process, which is as it was after the first ones."""
    process = psutil.Process()
    for number in range(WARM):
        live_pinned(end, hook, pins) if number % 2 else live(end, hook)
    descriptors, threads = len(list(Path("/proc/self/fd").iterdir())), process.num_threads()
    octets = [resident(process)]
    for _ in range(3):
        for number in range((LIVES[hook] - WARM) // 3):
            live_pinned(end, hook, pins) if number % 2 else live(end, hook)
        octets.append(resident(process))
    # An allocator takes a megabyte or two now and then; what leaks is taken each time.
    assert min(later - before for before, later in pairwise(octets)) < SLACK
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert process.num_threads() == threads


@pytest.mark.parametrize("hook", LIVES)
def test_many_lives(network: Network, hook: Hook, tmp_path: Path) -> None:
    """
    Opened, attached, drained and closed, or unpinned: descriptors, memory, programs, maps, links,
    qdiscs, pins.

    The lives are those of a process of their own: what hundreds of other tests left in this one
    comes and goes by megabytes.
    """
    one, _ = quiet_pair(network)
    kernel, qdiscs = in_kernel(), one.netns.run("tc", "qdisc", "show", "dev", one.device)
    with bpffs(tmp_path) as root:
        pinned = sorted(root.iterdir())
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(lives, one, hook, root / "agent").result()
        assert sorted(root.iterdir()) == pinned
    # The kernel frees what nobody holds a grace period later.
    wait_until(lambda: in_kernel() <= kernel, "programs, maps and links are gone")
    assert one.netns.run("tc", "qdisc", "show", "dev", one.device) == qdiscs
