"""A table in memory that refuses what a test wants it to, and a clock that a test moves."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from exporter.ebpf.errors import BpfError, KeyExists, KeyNotFound, MapFull
from exporter.ebpf.maps import BPF_EXIST, BPF_NOEXIST, MapSpec

SPEC = MapSpec("numbers", "hash", 1, 1, 4, 0)


class MemoryTable:
    """As a hash of the kernel: a walk whose key is gone begins again."""

    def __init__(self, max_entries: int = 4, spec: MapSpec = SPEC) -> None:
        self.spec = replace(spec, max_entries=max_entries)
        self.content: dict[bytes, bytes] = {}
        #: key -> errno of the next calls that write it.
        self.refused: dict[bytes, int] = {}
        self.calls: list[tuple[str, bytes]] = []

    def lookup(self, key: bytes, /) -> bytes:
        if key not in self.content:
            raise KeyNotFound("look up", errno.ENOENT)
        return self.content[key]

    def update(self, key: bytes, value: bytes, flags: int = 0, /) -> None:
        self.calls.append(("update", key))
        self._refuse(key)
        if flags == BPF_NOEXIST and key in self.content:
            raise KeyExists("update", errno.EEXIST)
        if flags == BPF_EXIST and key not in self.content:
            raise KeyNotFound("update", errno.ENOENT)
        if key not in self.content and len(self.content) >= self.spec.max_entries:
            raise MapFull("update", errno.E2BIG)
        self.content[key] = value

    def delete(self, key: bytes, /) -> None:
        self.calls.append(("delete", key))
        self._refuse(key)
        if key not in self.content:
            raise KeyNotFound("delete", errno.ENOENT)
        del self.content[key]

    def next_key(self, key: bytes | None = None, /) -> bytes | None:
        keys = list(self.content)
        place = keys.index(key) + 1 if key in self.content else 0
        return keys[place] if place < len(keys) else None

    def _refuse(self, key: bytes) -> None:
        if key in self.refused:
            raise BpfError("write", self.refused[key])


class HandClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._waiters: set[threading.Condition] = set()

    def now(self) -> float:
        return self._now

    def wait(self, condition: threading.Condition, _seconds: float | None) -> None:
        self._waiters.add(condition)
        # The time may have been moved just before this waited.
        condition.wait(0.01)

    def advance(self, seconds: float) -> None:
        self._now += seconds
        for condition in list(self._waiters):
            with condition:
                condition.notify_all()


def eventually(holds: Callable[[], object], seconds: float = 10) -> None:
    """Another thread makes it so, at once but for the scheduler."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.001)
