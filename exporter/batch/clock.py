"""From the kernel's CLOCK_MONOTONIC to Unix time, one offset for a whole drain; and its steps."""

from __future__ import annotations

import logging

from exporter.ebpf import clock

log = logging.getLogger(__name__)

#: A change of the clock by less, in ns, between two looks is no step. Looks are a drain apart at
#: most; what synchronizes clocks slews them by 8 % at most (chrony), in which steps of 0.4 s hide.
_SMALLEST_STEP = 500_000_000


def unix_offset_ns() -> int:
    """
    What to add to a CLOCK_MONOTONIC time to get Unix time, now, in ns.

    Sampled once per drain: a stepped clock moves whole drains, never a flow's end before its start.
    """
    return clock.unix_offset_ns(clock.MONOTONIC)


class Steps:
    """
    Notices that somebody has set the clock, which no flow is lost by: the times of those that are
    drained afterwards, and the windows, are the new clock's.

    Compared with CLOCK_BOOTTIME, which goes on while the machine is suspended: to wake up is no
    step.
    """

    def __init__(self) -> None:
        self._offset = clock.unix_offset_ns(clock.BOOT)
        self.count = 0

    def look(self) -> None:
        """Compare with the last look; a step is counted, and said in one line."""
        before, self._offset = self._offset, clock.unix_offset_ns(clock.BOOT)
        if abs(self._offset - before) >= _SMALLEST_STEP:
            # Once more: this thread may have stood still between the reads of the two clocks.
            self._offset = clock.unix_offset_ns(clock.BOOT)
        moved = self._offset - before
        if abs(moved) >= _SMALLEST_STEP:
            self.count += 1
            log.warning(
                "the clock was set %s by %.1f s: times of flows are the new clock's from here on",
                "forward" if moved > 0 else "back",
                abs(moved) / 1e9,
            )
