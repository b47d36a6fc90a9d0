"""
The file sink in a process of its own, to be killed: ``python -m tests.e2e.writer URL``.

Delivers numbered flows without end, two hundred a message, and prints how many are delivered.
"""

from __future__ import annotations

import sys
import time
from itertools import count

import numpy as np

from exporter.config import load
from exporter.sinks.table import make
from exporter.testing import Row, make_batch

ROWS = 200


def main() -> None:
    """Write until killed."""
    (config,) = load(None, {}, {"sinks": [sys.argv[1]]}).sinks
    sink = make(config)
    sink.open()
    batch = make_batch(*[Row()] * ROWS)
    for start in count(0, ROWS):
        batch.packet_count[...] = np.arange(start, start + ROWS)
        for message in sink.encode(batch):
            sink.deliver(message, 10)
        print(start + ROWS, flush=True)
        # Some hundred messages a second: enough to be killed in the middle of one.
        time.sleep(0.001)


if __name__ == "__main__":
    main()
