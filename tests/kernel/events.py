"""Events of tests/kernel/events.bpf.c, sent from a CPU of choice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from exporter.ebpf.maps import Map
from exporter.ebpf.object import Object, ObjectSpec
from tests.compile import compile_bpf

SOURCE = Path(__file__).with_name("events.bpf.c")


def event(octets: int = 64) -> np.dtype[np.void]:
    """``struct event``, cut to a length."""
    return np.dtype(
        {
            "names": ["number", "cpu", "length"],
            "formats": ["<u4", "<u4", "<u4"],
            "offsets": [0, 4, 8],
            "itemsize": octets,
        }
    )


def number_of(data: bytes) -> int:
    """Of an event's octets."""
    return int.from_bytes(data[:4], "little")


def length_of(data: bytes) -> int:
    """As the sender says."""
    return int.from_bytes(data[8:12], "little")


class Sender:
    """A loaded program and what it sent."""

    def __init__(self, loaded: Object, name: str) -> None:
        self.maps: dict[str, Map] = loaded.maps
        self._program = loaded.programs[name]

    def send(self, count: int, cpu: int | None = None) -> None:
        """``count`` numbered events from one CPU."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, before if cpu is None else {cpu})
        try:
            self._program.test_run(bytes(64), count)
        finally:
            os.sched_setaffinity(0, before)

    @property
    def sent(self) -> int:
        return self._count(0)

    @property
    def refused(self) -> int:
        return self._count(1)

    def _count(self, slot: int) -> int:
        return int.from_bytes(self.maps["counts"].lookup(slot.to_bytes(4, "little")), "little")


def build(directory: Path) -> Path:
    """The object."""
    return compile_bpf(SOURCE, directory / "events.bpf.o")


@contextmanager
def sending(path: Path, name: str, *, ring_octets: int = 4096, **settings: int) -> Iterator[Sender]:
    """Load one of the programs."""
    with Object.load(
        ObjectSpec.open(path),
        settings=settings,
        max_entries={"ring": ring_octets},
        programs=(name,),
    ) as loaded:
        yield Sender(loaded, name)
