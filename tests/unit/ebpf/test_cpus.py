"""The kernel's lists of CPUs, and the slots of per-CPU values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from exporter.ebpf import cpus
from exporter.ebpf.cpus import online_cpus, possible_cpus, slot_size, slots, summed
from exporter.ebpf.errors import BpfError


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    possible_cpus.cache_clear()
    yield
    possible_cpus.cache_clear()


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0", (0,)),
        ("0\n", (0,)),
        ("0-0", (0,)),
        ("0-1", (0, 1)),
        ("0-1\r\n", (0, 1)),
        ("0-14", tuple(range(15))),
        ("0-3\n", (0, 1, 2, 3)),
        ("0-3,8-11", (0, 1, 2, 3, 8, 9, 10, 11)),
        ("0-1,4,6-7\n", (0, 1, 4, 6, 7)),
    ],
)
def test_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cpus: tuple[int, ...]
) -> None:
    """Numbers and ranges, in whatever rows they come; those that are possible are counted."""
    (tmp_path / "list").write_text(text)
    monkeypatch.setattr("exporter.ebpf.cpus.POSSIBLE", tmp_path / "list")
    assert online_cpus(tmp_path / "list") == cpus
    assert possible_cpus() == len(cpus)


@pytest.mark.parametrize(("text", "cpus"), [("1", (1,)), ("1-1\n", (1,)), ("3\n", (3,))])
def test_lists_without_cpu_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cpus: tuple[int, ...]
) -> None:
    """CPU 0 may be offline, but it is always possible."""
    (tmp_path / "list").write_text(text)
    monkeypatch.setattr("exporter.ebpf.cpus.POSSIBLE", tmp_path / "list")
    assert online_cpus(tmp_path / "list") == cpus
    with pytest.raises(BpfError, match="is no list of CPUs"):
        possible_cpus()


@pytest.mark.parametrize(
    "text",
    ["", "\n", "\r\n", "a", "0-", "1-", "-1", "0-x", "3-1", "0,", "0,,1", "0--1", "0-3,2", "0 1"],
)
def test_what_is_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Anything else is an error, each time it is asked for."""
    (tmp_path / "list").write_text(text)
    monkeypatch.setattr("exporter.ebpf.cpus.POSSIBLE", tmp_path / "list")
    for _ in range(2):
        with pytest.raises(BpfError, match="is no list of CPUs"):
            online_cpus(tmp_path / "list")
        with pytest.raises(BpfError, match="is no list of CPUs"):
            possible_cpus()
    with pytest.raises(BpfError, match="ENOENT"):
        online_cpus(tmp_path / "gone")


def test_a_failure_is_not_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A list that cannot be read is an error each time; ebpfgo's second answer is 0 CPUs."""
    monkeypatch.setattr(cpus, "POSSIBLE", tmp_path / "possible")
    for _ in range(2):
        with pytest.raises(BpfError, match="list the CPUs that are possible: No such file"):
            possible_cpus()
    (tmp_path / "possible").write_text("nonsense")
    for _ in range(2):
        with pytest.raises(BpfError, match="is no list"):
            possible_cpus()
    (tmp_path / "possible").write_text("0-6\n")
    assert possible_cpus() == 7
    (tmp_path / "possible").unlink()
    assert possible_cpus() == 7


def test_slot_sizes() -> None:
    """Multiples of eight."""
    assert [slot_size(size) for size in (0, 1, 8, 9, 16)] == [0, 8, 8, 16, 16]


def three(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine of three CPUs."""
    monkeypatch.setattr(cpus, "POSSIBLE", tmp_path / "possible")
    (tmp_path / "possible").write_text("0-2\n")


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<u8"])
def test_slots_are_a_view(dtype: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Entries by possible CPUs, padding left out, and their sum."""
    three(monkeypatch, tmp_path)
    raw = np.full((2, 24), 0xEE, np.uint8)
    view = slots(raw, np.dtype(dtype))
    view[:] = [[255, 1, 2], [3, 4, 5]]
    assert (view.shape, raw[0, 0], raw[1, 16]) == ((2, 3), 255, 5)
    assert summed(view).tolist() == [258, 12]


def test_slots_of_structs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Structs are summed field by field, nested ones and arrays too."""
    three(monkeypatch, tmp_path)
    dtype = np.dtype([("a", "<u4"), ("b", [("c", "<u8"), ("d", "<u2", (2,))])])
    raw = np.zeros((1, 3 * slot_size(dtype.itemsize)), np.uint8)
    view = slots(raw, dtype)
    view[0] = [(1, (2, (3, 4))), (10, (20, (30, 40))), (100, (200, (300, 400)))]
    assert summed(view)[0] == np.array((111, (222, (333, 444))), dtype)


def test_slots_of_another_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rows that do not hold all slots, or are not in one piece, are refused."""
    three(monkeypatch, tmp_path)
    for raw in (np.zeros((2, 16), np.uint8), np.zeros((2, 48), np.uint8)[:, ::2]):
        with pytest.raises(ValueError, match="slots of uint32"):
            slots(raw, np.dtype("<u4"))
