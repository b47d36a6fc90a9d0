"""
What bench_maps measures, done through bcc's own Python API (Debian: python3-bpfcc).

Run by the system's Python, which has bcc: ``bcc_maps.py FD TYPE ROWS RUNS SINGLES``. The map comes
as a descriptor, so that nothing is compiled and no kernel headers are needed; every operation on it
is bcc's. Prints seconds of each run as JSON.
"""

from __future__ import annotations

import ctypes  # noqa: TID251 -- what bcc's API takes and gives
import json
import sys
import time
from typing import Any

from bcc.table import HashTable, PerCpuHash


def table_of(descriptor: int, kind: str, entries: int) -> Any:
    """Bcc's table object for a map that exists."""
    base = PerCpuHash if kind == "percpu_hash" else HashTable

    class Table(base):  # type: ignore[misc, valid-type]
        """Knows its map by descriptor; bcc's constructor asks the module that it compiled."""

        def __init__(self) -> None:
            self.map_fd = descriptor
            self.Key: Any = ctypes.c_uint64
            self.sLeaf: Any = ctypes.c_uint64
            self.Leaf: Any = ctypes.c_uint64
            self.max_entries = entries
            self.reducer = None
            if kind == "percpu_hash":
                self.total_cpu = cpus()
                self.alignment = 0
                self.Leaf = self.sLeaf * self.total_cpu

    return Table()


def cpus() -> int:
    """As bcc counts them."""
    from bcc.utils import get_possible_cpus

    return len(get_possible_cpus())


def main() -> None:
    descriptor, kind, rows, runs, singles = (
        int(word) if word.isdigit() else word for word in sys.argv[1:]
    )
    assert isinstance(rows, int)
    assert isinstance(runs, int)
    assert isinstance(singles, int)
    table = table_of(int(descriptor), str(kind), rows)
    keys = (table.Key * rows)(*range(rows))
    values = (table.Leaf * rows)()
    for row in range(rows):
        if kind == "percpu_hash":
            values[row][0] = row
        else:
            values[row] = row
    expected = rows * (rows - 1) // 2
    times: dict[str, list[float]] = {"update": [], "take": [], "single": []}
    for _ in range(runs):
        began = time.perf_counter()
        table.items_update_batch(keys, values)
        filled = time.perf_counter()
        if kind == "percpu_hash":
            total = sum(sum(value) for _, value in table.items_lookup_and_delete_batch())
        else:
            total = sum(value for _, value in table.items_lookup_and_delete_batch())
        drained = time.perf_counter()
        assert total == expected
        singly = [(table.Key(row), values[row]) for row in range(singles)]
        singly = [(key, as_leaf(table, value)) for key, value in singly]
        started = time.perf_counter()
        for key, value in singly:
            table[key] = value
        ended = time.perf_counter()
        assert sum(1 for _ in table.items_lookup_and_delete_batch()) == singles
        times["update"].append(filled - began)
        times["take"].append(drained - filled)
        times["single"].append(ended - started)
    print(json.dumps(times))


def as_leaf(table: Any, value: Any) -> Any:
    """A plain integer is no ctypes object until it is made one."""
    return table.Leaf(value) if isinstance(value, int) else value


if __name__ == "__main__":
    main()
