"""How long tests wait: several times as long where every instruction is emulated."""

from __future__ import annotations

import os

FACTOR = float(os.environ.get("TEST_PATIENCE", "1"))
