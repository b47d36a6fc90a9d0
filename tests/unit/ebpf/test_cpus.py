"""The kernel's lists of CPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.ebpf.cpus import online_cpus
from exporter.ebpf.errors import BpfError


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0\n", (0,)),
        ("0-3\n", (0, 1, 2, 3)),
        ("0-1,4,6-7\n", (0, 1, 4, 6, 7)),
        ("1-1\n", (1,)),
        ("3\n", (3,)),
    ],
)
def test_lists(tmp_path: Path, text: str, cpus: tuple[int, ...]) -> None:
    """Numbers and ranges, in whatever rows they come."""
    (tmp_path / "online").write_text(text)
    assert online_cpus(tmp_path / "online") == cpus


@pytest.mark.parametrize("text", ["", "\n", "a", "0-", "-1", "3-1", "0,", "0--1"])
def test_what_is_no_list(tmp_path: Path, text: str) -> None:
    """Anything else is an error, each time it is asked for."""
    (tmp_path / "online").write_text(text)
    for _ in range(2):
        with pytest.raises(BpfError, match="is no list of CPUs"):
            online_cpus(tmp_path / "online")
    with pytest.raises(BpfError, match="ENOENT"):
        online_cpus(tmp_path / "gone")
