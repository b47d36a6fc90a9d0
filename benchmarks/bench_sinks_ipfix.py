"""
What the IPFIX sink costs per flow: encoding and delivering 100,000 flows, as after each drain.

The collector is a process of its own that reads and throws away. CPU time is this process's, user
and system; three of four flows are IPv4. RSS is this process's after the last delivery.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psutil

from benchmarks.report import median
from exporter.batch.batch import FlowBatch, Observer, Point
from exporter.sinks.ipfix.config import IpfixConfig
from exporter.sinks.ipfix.encode import HEADER_OCTETS, SET_OCTETS
from exporter.sinks.ipfix.sink import IpfixSink
from exporter.testing import Row, make_batch

FLOWS = 100_000
RUNS = 9
#: Variant -> its options. 1472 octets are an Ethernet frame's.
VARIANTS: dict[str, dict[str, object]] = {
    "udp, 1472 octets": {"transport": "udp", "max_octets": 1472, "pace": 0},
    "udp, 1472 octets, 20 MB/s": {"transport": "udp", "max_octets": 1472},
    "udp, 8972 octets": {"transport": "udp", "max_octets": 8972, "pace": 0},
    "tcp": {"transport": "tcp"},
}
_READER = """
import socket, sys
kind = getattr(socket, sys.argv[1])
with socket.socket(socket.AF_INET, kind) as listener:
    listener.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM:
        listener.listen()
    print(listener.getsockname()[1], flush=True)
    link = listener.accept()[0] if kind == socket.SOCK_STREAM else listener
    buffer = bytearray(1 << 20)
    while link.recv_into(buffer):
        pass
"""


def rows() -> list[tuple[str, str, float, int, float, float]]:
    """
    Measure all variants.

    Returns:
        (sink, variant, CPU us per flow, flows/s per core, RSS MB, octets per flow on the wire).
    """
    batch = flows()
    return [("ipfix", name, *_measured(batch, options)) for name, options in VARIANTS.items()]


def flows() -> FlowBatch:
    """100,000 rows, every fourth of them IPv6."""
    four, six = Row(points=(Point(0, 2, 0),)), Row(src_addr="2001:db8::1", dst_addr="2001:db8::2",
                                                   points=(Point(0, 2, 0),))  # fmt: skip
    some = make_batch(four, four, four, six, observer=Observer("192.0.2.7", "node"))
    batch = some.take(np.arange(FLOWS) % 4)
    batch.packet_count[...] = np.arange(FLOWS)
    return batch


def _measured(batch: FlowBatch, options: dict[str, object]) -> tuple[float, int, float, float]:
    kind = "SOCK_STREAM" if options["transport"] == "tcp" else "SOCK_DGRAM"
    with _reader(kind) as port:
        config = IpfixConfig.model_validate({"target": f"127.0.0.1:{port}", **options})
        sink = IpfixSink("ipfix", config)
        sink.open()
        took: list[float] = []
        octets = 0
        try:
            for _ in range(RUNS):
                before, octets = time.process_time(), 0
                for message in sink.encode(batch):
                    sink.deliver(message, 10)
                    octets += _on_the_wire(len(message.payload), message.template.octets, config)
                took.append(time.process_time() - before)
                # The reader has the same two cores.
                time.sleep(0.2)
        finally:
            sink.close()
    # The first run connects, and pays for memory that the others find.
    cpu = 1e6 * median(took[1:]) / FLOWS
    resident = psutil.Process().memory_info().rss / 1e6
    return round(cpu, 3), int(1e6 / cpu), round(resident), round(octets / FLOWS, 1)


def _on_the_wire(payload: int, record: int, config: IpfixConfig) -> int:
    """Octets of messages, UDP's and IP's headers included, TCP's not."""
    limit = config.max_octets or 65_535
    head = HEADER_OCTETS + SET_OCTETS + (28 if config.transport == "udp" else 0)
    each = (limit - HEADER_OCTETS - SET_OCTETS) // record * record
    return payload + -(-payload // each) * head


@contextmanager
def _reader(kind: str) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", _READER, kind], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    for row in rows():
        print(*row, sep=" | ")
