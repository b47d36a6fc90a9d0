"""From the kernel's CLOCK_MONOTONIC to Unix time, one offset for a whole drain."""

from __future__ import annotations

from exporter.ebpf import clock


def unix_offset_ns() -> int:
    """
    What to add to a CLOCK_MONOTONIC time to get Unix time, now, in ns.

    Sampled once per drain: a stepped clock moves whole drains, never a flow's end before its start.
    """
    return clock.unix_offset_ns(clock.MONOTONIC)
