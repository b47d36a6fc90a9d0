"""
Put flows into the kernel's active map, as if packets had come: for benchmarks of what follows.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.abi.layout import FLOW_KEY, FLOW_STATS
from exporter.capture.fetcher import FlowFetcher
from exporter.ebpf.cpus import possible_cpus

_AT_ONCE = 100_000


def fill(fetcher: FlowFetcher, flows: int) -> None:
    """
    Write one-packet TCP flows over IPv4 into the active map.

    Args:
        fetcher: Open, with room for them.
        flows: How many, all different.
    """
    for start in range(0, flows, _AT_ONCE):
        numbers = np.arange(start, min(start + _AT_ONCE, flows), dtype=">u4")
        fetcher.active_map().update_batch(_keys(numbers), _values(len(numbers)))
    # The program would have counted them, and a drain makes room for as many as it counted.
    fetcher._created_at_swap -= flows


def _keys(numbers: NDArray[np.uint32]) -> NDArray[Any]:
    keys = np.zeros(len(numbers), FLOW_KEY)
    for address in ("src_addr", "dst_addr"):
        keys[address][:, 10:12] = 0xFF
    keys["src_addr"][:, 12:] = numbers.view(np.uint8).reshape(-1, 4)
    keys["dst_addr"][:, 12:] = (198, 51, 100, 7)
    keys["src_port"], keys["dst_port"], keys["ip_protocol"] = 40_000, 443, 6
    keys["ifindex"], keys["direction"] = 2, 1
    return keys


def _values(rows: int) -> NDArray[Any]:
    values = np.zeros((rows, possible_cpus()), FLOW_STATS)
    slot = values[:, 0]
    slot["first_mono_ns"] = slot["last_mono_ns"] = time.monotonic_ns()
    slot["packets"], slot["octets_l2"], slot["octets_l3"] = 1, 74, 60
    slot["sampling_interval"], slot["tcp_control_bits"] = 1, 2
    slot["src_mac"], slot["dst_mac"] = (2, 0, 0, 0, 0, 1), (2, 0, 0, 0, 0, 2)
    return values
