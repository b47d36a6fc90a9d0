"""
What a map costs per entry, through our API and through bcc's own Python API.

Both do the same on a map of the same kind and size: write every entry in one batch; look up and
delete them all and add up the values; write entries one by one. Each checks the sum, and that the
map is empty afterwards. bcc runs in the system's Python; see bcc_maps.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Table, spread
from exporter.ebpf.batches import BatchCursor
from exporter.ebpf.cpus import possible_cpus
from exporter.ebpf.maps import Map
from exporter.ebpf.mapspec import PER_CPU, MapSpec

KINDS = ("hash", "percpu_hash")
ROWS, RUNS, SINGLES = (1_000, 10_000, 100_000), 7, 1_000
#: Room for one call, as the agent's drain has it.
BATCH = 16_384
#: Debian's python3-bpfcc is installed for it.
SYSTEM_PYTHON = "/usr/bin/python3"
_TITLES = {
    "update": "update, in batches",
    "take": "look up, delete and add up, in batches",
    "single": "update, one by one",
}


def run() -> Table:
    """Ns per entry of every operation, ours and bcc's."""
    table = Table(
        "maps",
        "ns per entry of 8 octets key and 8 octets value, median of seven runs",
        ("operation", "entries", "ours", "bcc", "bcc / ours"),
    )
    for kind in KINDS:
        for rows in ROWS:
            # Twice the room: entries of a hash are preallocated, and CPUs keep some to themselves.
            with Map.create(MapSpec("bench", kind, 8, 8, 2 * rows)) as ours:
                mine = _measure(ours, rows)
            with Map.create(MapSpec("bench", kind, 8, 8, 2 * rows)) as theirs:
                other = _measure_bcc(theirs, rows)
                assert theirs.next_key() is None
            for operation, title in _TITLES.items():
                count = SINGLES if operation == "single" else rows
                a = [1e9 * seconds / count for seconds in mine[operation]]
                b = [1e9 * seconds / count for seconds in other[operation]]
                ratio = np.median(b) / np.median(a)
                table.add(
                    f"{kind}: {title}", f"{rows:,}", spread(a, 0), spread(b, 0), f"{ratio:.1f}"
                )
    return table


def _measure(table: Map, rows: int) -> dict[str, list[float]]:
    per_cpu = table.spec.type in PER_CPU
    keys = np.arange(rows, dtype=np.uint64)
    values = np.zeros((rows, possible_cpus()) if per_cpu else rows, np.uint64)
    (values[:, 0] if per_cpu else values)[:] = keys
    room = min(rows, BATCH)
    taken = np.empty(room, np.uint64), np.empty((room, *values.shape[1:]), np.uint64)
    singly = [(keys[row].tobytes(), values[row].tobytes()) for row in range(SINGLES)]
    times: dict[str, list[float]] = {"update": [], "take": [], "single": []}
    for _ in range(RUNS):
        began = time.perf_counter()
        table.update_batch(keys, values)
        filled = time.perf_counter()
        total = _drain(table, *taken)
        drained = time.perf_counter()
        assert total == (rows * (rows - 1) // 2, rows)
        started = time.perf_counter()
        for key, value in singly:
            table.update(key, value)
        ended = time.perf_counter()
        assert _drain(table, *taken)[1] == SINGLES
        assert table.next_key() is None
        times["update"].append(filled - began)
        times["take"].append(drained - filled)
        times["single"].append(ended - started)
    return times


def _drain(table: Map, keys: Any, values: Any) -> tuple[int, int]:
    cursor, total, count = BatchCursor(), 0, 0
    while not cursor.done:
        rows = table.take_batch(keys, values, cursor)
        total += int(values[:rows].sum())
        count += rows
    return total, count


def _measure_bcc(table: Map, rows: int) -> dict[str, list[float]]:
    script = Path(__file__).with_name("bcc_maps.py")
    done = subprocess.run(
        [SYSTEM_PYTHON, str(script), str(table.fd), table.spec.type, str(rows), str(RUNS),
         str(SINGLES)],
        pass_fds=[table.fd], stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    times: dict[str, list[float]] = json.loads(done.stdout)
    return times


if __name__ == "__main__":
    print(run().markdown())
