"""From the kernel's CLOCK_MONOTONIC to Unix time, one offset for a whole drain."""

from __future__ import annotations

import time


def unix_offset_ns() -> int:
    """
    What to add to a CLOCK_MONOTONIC time to get Unix time, now, in ns.

    Read between two reads of the other clock, so that being preempted in between costs half the gap
    at most. Sampled once per drain: a stepped clock moves whole drains, never a flow's end before
    its start.
    """
    before = time.monotonic_ns()
    unix = time.time_ns()
    after = time.monotonic_ns()
    return unix - (before + after) // 2
