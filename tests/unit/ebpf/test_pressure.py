"""The gauge of a map's fill."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exporter.ebpf.pressure import Pressure
from tests.unit.ebpf.tables import SPEC

HUNDRED = replace(SPEC, max_entries=100)


@pytest.mark.parametrize(
    ("threshold", "size", "expected"),
    [
        (0.0, 0, None),
        (0.0, 1, 0.01),
        (0.5, 50, None),
        (0.5, 51, 0.51),
        (0.5, 100, 1.0),
        (0.5, 150, 1.5),
    ],
)
def test_reading(threshold: float, size: int, expected: float | None) -> None:
    """The ratio is exposed only above the threshold, and gone again below."""
    pressure = Pressure(HUNDRED, threshold)
    pressure.feed(100)
    assert pressure.reading() == 1.0
    pressure.feed(size)
    assert pressure.reading() == expected
    assert pressure.ratio == size / 100


@pytest.mark.parametrize("kind", ["lru_hash", "lru_percpu_hash"])
def test_a_map_that_evicts_has_no_reading(kind: str) -> None:
    """An LRU map is always full: it is skipped, although its ratio is known."""
    pressure = Pressure(replace(HUNDRED, type=kind))
    pressure.feed(100)
    assert pressure.reading() is None
    assert pressure.ratio == 1.0


def test_capacity_and_name() -> None:
    """What the map holds, whatever number that is, and what it is called."""
    pressure = Pressure(replace(SPEC, max_entries=65536))
    assert (pressure.name, pressure.capacity) == ("numbers", 65536)
    assert Pressure(SPEC, name="numbers of all sorts").name == "numbers of all sorts"


def test_a_map_without_capacity() -> None:
    """A map that holds nothing is never full."""
    assert Pressure(replace(SPEC, max_entries=0)).reading() is None
