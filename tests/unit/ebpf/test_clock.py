"""From the kernel's clocks to Unix time."""

from __future__ import annotations

import time

import pytest

from exporter.ebpf.clock import BOOT, MONOTONIC, unix_offset_ns, unix_time_ns


@pytest.mark.parametrize("clock", [MONOTONIC, BOOT])
def test_now_is_now(clock: int) -> None:
    """A kernel's time of now is Unix time of now, to a fraction of ebpfgo's whole second."""
    error = min(
        abs(unix_time_ns(time.clock_gettime_ns(clock), clock) - time.time_ns()) for _ in range(10)
    )
    assert error < 1_000_000


def test_time_passes_alike() -> None:
    """Two times that are apart stay apart by as much."""
    offset = unix_offset_ns()
    assert unix_time_ns(10**9) - unix_time_ns(0) == pytest.approx(10**9, abs=1e6)
    assert abs(unix_offset_ns() - offset) < 1_000_000


def test_the_clocks_are_the_kernels() -> None:
    """Python's monotonic clock is what bpf_ktime_get_ns() reads; the other goes on in suspend."""
    before = time.monotonic_ns()
    now = time.clock_gettime_ns(MONOTONIC)
    assert before <= now <= time.monotonic_ns()
    assert time.clock_gettime_ns(BOOT) >= now
