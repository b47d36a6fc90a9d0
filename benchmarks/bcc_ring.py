"""
The consuming side of BCC's own Python API, for bench_ring.py: runs on the interpreter that BCC is
installed for, which has nothing of ours.

usage: BCC_KERNEL_SOURCE=COMMON_HEADERS bcc_ring.py SOURCE GENERATED_HEADERS BATCHES RUNS
"""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

from bcc import BPF

SO_ATTACH_BPF = 50


def main() -> None:
    """Print, as JSON, seconds per run of both kinds of callback."""
    source, generated, *numbers = sys.argv[1:]
    batches, runs = map(int, numbers)
    parts = ("include", "arch/x86/include/generated", "arch/x86/include/generated/uapi",
             "include/generated/uapi")  # fmt: skip
    loaded = BPF(
        text=Path(source).read_text(),
        cflags=["-w", *(f"-I{generated}/{part}" for part in parts)],
    )
    program = loaded.load_func("fill", BPF.SOCKET_FILTER)
    events = loaded["events"]
    seen = total = 0

    def counts(_context: Any, _data: Any, _size: int) -> None:
        nonlocal seen
        seen += 1

    def reads(_context: Any, data: Any, _size: int) -> None:
        nonlocal seen, total
        seen += 1
        total += events.event(data).number

    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, SO_ATTACH_BPF, program.fd)
    times: dict[str, list[float]] = {}
    for callback in (counts, reads):
        # BCC keeps one manager of all rings, and adds to it: a new one takes its place.
        loaded._ringbuf_manager = None
        events.open_ring_buffer(callback)
        for _ in range(runs):
            seen = total = 0
            for _ in range(batches):
                sender.send(b"x")
            begin = time.perf_counter()
            loaded.ring_buffer_consume()
            times.setdefault(callback.__name__, []).append(time.perf_counter() - begin)
            assert seen == batches * 1000, seen
            assert callback is counts or total == batches * sum(range(1000))
    print(json.dumps(times))


main()
