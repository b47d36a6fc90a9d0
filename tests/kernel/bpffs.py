"""A BPF file system of a test's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def bpffs(directory: Path) -> Iterator[Path]:
    """Mounted below a directory; unmounted, and all that was pinned gone, after the block."""
    point = directory / "bpffs"
    point.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)
