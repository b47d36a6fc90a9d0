"""
How old a stored batch is, whatever anybody does to the wall clock.

Age is time that the host was up, by CLOCK_BOOTTIME, which no step touches and which suspension does
not stop. A batch carries that clock with the boot's identity. Time that the host was off does not
count: only the wall clock could tell it, and that is wrong just then on hosts without a battery.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Stamp:
    """
    A moment.

    Args:
        age_ns: Time that the host was up since the spool was begun.
        boot_ns: CLOCK_BOOTTIME then.
        boot: 16 octets that tell one boot from another.
    """

    age_ns: int = 0
    boot_ns: int = 0
    boot: bytes = bytes(16)


def boot_time_ns() -> int:
    """CLOCK_BOOTTIME, ns."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot_identity() -> bytes:
    """16 octets, another for each boot; zero if the kernel does not say."""
    try:
        return bytes.fromhex(_BOOT_ID.read_text().strip().replace("-", ""))[:16].ljust(16, b"\0")
    except (OSError, ValueError):
        return bytes(16)


class AgeClock:
    """
    Goes on where an earlier agent's stood.

    Args:
        read: CLOCK_BOOTTIME in ns.
        identity: Of this boot.
    """

    def __init__(
        self,
        read: Callable[[], int] = boot_time_ns,
        identity: Callable[[], bytes] = boot_identity,
    ) -> None:
        self._read = read
        self._identity = identity
        self._boot = bytes(16)
        self._offset = 0

    def resume(self, last: Stamp) -> None:
        """Continue after the latest moment that is known."""
        self._boot = self._identity()
        if last.boot == self._boot:
            self._offset = last.age_ns - last.boot_ns
        else:
            # The host has been up at least since it booted.
            self._offset = last.age_ns

    def now(self) -> Stamp:
        """What the clock says."""
        boot_ns = self._read()
        return Stamp(max(self._offset + boot_ns, 0), boot_ns, self._boot)
