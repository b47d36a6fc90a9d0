"""
What a record out of a ring buffer costs its reader: BCC's Python callbacks first, then ours.

Each run reads a hundred thousand records of 64 octets, which one program has put there before, and
adds up a field of theirs; each checks the sum. Reading is timed, writing is not.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.report import Table, median
from exporter.ebpf.object import Object, ObjectSpec
from exporter.ebpf.ringbuf import RingBuffer
from tests.compile import compile_bpf

BATCHES, BATCH, RUNS = 100, 1000, 7
SUM = BATCHES * sum(range(BATCH))
SOURCE = Path(__file__).with_name("ring.bpf.c")
EVENT = np.dtype([("number", "<u8"), ("fill", "V56")])
_SO_ATTACH_BPF = 50
_first = struct.Struct("<Q").unpack_from


def run() -> Table:
    """Records per second of every reader."""
    table = Table(
        "ring",
        f"ring buffer records read per second, {BATCHES * BATCH} of 64 octets, median of seven",
        ("reader", "records/s", "ns/record", "times bcc's"),
    )
    bcc, ours = _bcc(), _ours()
    floor = median(bcc["bcc: callback, event() and a field"])
    for name, times in (bcc | ours).items():
        middle = median(times)
        table.add(
            name, f"{BATCHES * BATCH / middle:,.0f}", f"{middle / (BATCHES * BATCH) * 1e9:.0f}",
            f"{floor / middle:.1f}",
        )  # fmt: skip
    return table


def _bcc() -> dict[str, list[float]]:
    """BCC runs beside us, on Debian's interpreter; any kernel's headers will do."""
    common = max(Path("/usr/src").glob("linux-headers-*-common"))
    generated = common.with_name(common.name.removesuffix("common") + "amd64")
    script = SOURCE.with_name("bcc_ring.py")
    arguments = [str(part) for part in (script, SOURCE, generated, BATCHES, RUNS)]
    result = subprocess.run(
        ["/usr/bin/python3", *arguments], check=True, capture_output=True, text=True,
        env={**os.environ, "BCC_KERNEL_SOURCE": str(common)},
    )  # fmt: skip
    times = json.loads(result.stdout)
    return {
        "bcc: callback, event() and a field": times["reads"],
        "bcc: callback that only counts": times["counts"],
    }


def _ours() -> dict[str, list[float]]:
    readers: dict[str, Callable[[RingBuffer], int]] = {
        "ours: follow(), a field": _follow,
        "ours: take(), a field": lambda ring: sum(_first(record)[0] for record in ring.take()),
        "ours: read(), a field": lambda ring: int(ring.read()["number"].sum()),
    }
    with tempfile.TemporaryDirectory() as directory:
        target = compile_bpf(SOURCE, Path(directory) / "ring.bpf.o")
        loaded = Object.load(ObjectSpec.open(target))
    times: dict[str, list[float]] = {}
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver, loaded, RingBuffer(loaded.maps["events"], EVENT) as ring:
        receiver.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, loaded.programs["fill"].fd)
        for name, read in readers.items():
            for _ in range(RUNS):
                for _ in range(BATCHES):
                    sender.send(b"x")
                begin = time.perf_counter()
                total = read(ring)
                times.setdefault(name, []).append(time.perf_counter() - begin)
                assert total == SUM
                assert ring.used() == 0
    return times


def _follow(ring: RingBuffer) -> int:
    total = 0
    records = ring.follow()
    for _ in range(BATCHES * BATCH):
        total += _first(next(records))[0]
    return total
