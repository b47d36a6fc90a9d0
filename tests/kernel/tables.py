"""Maps for tests, live and fake."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from exporter.ebpf.maps import Map
from exporter.ebpf.mapspec import MapSpec


def spec(kind: str, key: int = 4, value: int = 8, entries: int = 16, flags: int = 0) -> MapSpec:
    """A specification that needs no name of its own."""
    return MapSpec("test", kind, key, value, entries, flags)


class Tables:
    """Makes maps of one class and closes them."""

    def __init__(self, kind: type[Map], stack: ExitStack) -> None:
        self.kind = kind
        self._stack = stack

    def make(
        self,
        kind: str,
        key: int = 4,
        value: int = 8,
        entries: int = 16,
        *,
        inner: Map | None = None,
    ) -> Map:
        return self.keep(self.kind.create(spec(kind, key, value, entries), inner=inner))

    def keep(self, made: Map) -> Map:
        return self._stack.enter_context(made)


@contextmanager
def bpf_file_system(directory: Path) -> Iterator[Path]:
    """A BPF file system of a test's own."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)
