"""Compile a program of a test's own."""

from __future__ import annotations

import subprocess
from pathlib import Path


def compile_bpf(source: Path, target: Path) -> Path:
    """
    Compile C for the kernel, as ``bpf/Makefile`` does.

    Args:
        source: A file.
        target: The object to write.

    Returns:
        The target.
    """
    multiarch = subprocess.run(
        ["clang", "-print-multiarch"], capture_output=True, text=True, check=True
    ).stdout.strip()
    subprocess.run(
        ["clang", "-O2", "-g", "-target", "bpf", f"-I/usr/include/{multiarch}", "-c", str(source),
         "-o", str(target)],
        check=True,
    )  # fmt: skip
    return target
