"""From the kernel's clocks to Unix time."""

from __future__ import annotations

import time

#: What bpf_ktime_get_ns() reads; stops while the machine is suspended.
MONOTONIC = time.CLOCK_MONOTONIC
#: What a program's load time is in; goes on while the machine is suspended.
BOOT = time.CLOCK_BOOTTIME


def unix_offset_ns(clock: int = MONOTONIC) -> int:
    """
    What to add to a time of one of the kernel's clocks to get Unix time, now, in ns.

    Read between two reads of the other clock, so that being preempted in between costs half the gap
    at most.

    Args:
        clock: :data:`MONOTONIC` or :data:`BOOT`.
    """
    before = time.clock_gettime_ns(clock)
    unix = time.time_ns()
    after = time.clock_gettime_ns(clock)
    return unix - (before + after) // 2


def unix_time_ns(kernel_ns: int, clock: int = MONOTONIC) -> int:
    """
    One of the kernel's times as Unix time, in ns. For many, take :func:`unix_offset_ns` once.

    Args:
        kernel_ns: A time of ``clock``, in ns.
        clock: :data:`MONOTONIC` or :data:`BOOT`.
    """
    return kernel_ns + unix_offset_ns(clock)
