"""The tests' own programs, compiled once."""

from __future__ import annotations

import atexit
import functools
import tempfile
from pathlib import Path

from exporter.ebpf.maps import Map
from exporter.ebpf.object import Object, ObjectSpec
from tests.compile import compile_bpf

_HERE = Path(__file__).parent
#: 60 octets of an ethertype for experiments, and of another.
EXPERIMENTAL = bytes.fromhex("020000000002 020000000001 88b5").ljust(60, b"x")
OTHER = bytes.fromhex("020000000002 020000000001 88b6").ljust(60, b"y")


@functools.cache
def spec(name: str = "samples") -> ObjectSpec:
    """What is in ``samples.bpf.c`` or another source beside it."""
    directory = tempfile.TemporaryDirectory(prefix="samples-")
    atexit.register(directory.cleanup)
    target = Path(directory.name) / f"{name}.bpf.o"
    return ObjectSpec.open(compile_bpf(_HERE / f"{name}.bpf.c", target))


def load(*programs: str) -> Object:
    """Some of the programs, with all maps."""
    return Object.load(spec(), programs=programs)


def number(array: Map, slot: int = 0) -> int:
    """An element of an array of integers."""
    return int.from_bytes(array.lookup(slot.to_bytes(4, "little")), "little")


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
