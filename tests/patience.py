"""How long tests wait: several times as long where every instruction is emulated."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

FACTOR = float(os.environ.get("TEST_PATIENCE", "1"))
#: Seconds for what will be so soon.
LONGEST = 30.0 * FACTOR


def wait_until(condition: Callable[[], Any], what: str, patience: float = LONGEST) -> None:
    """Wait for something that will be so soon; fail the test if it is not."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"waited {patience} s in vain: {what}"
        time.sleep(0.02)
