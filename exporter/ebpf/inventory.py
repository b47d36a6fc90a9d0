"""What the kernel holds, whoever made it: the ids of programs, maps and links."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.ebpf import _programs
from exporter.ebpf.errors import BpfError


def program_ids() -> Iterator[int]:
    """
    Ids of all programs, ascending. One that is unloaded meanwhile may be among them.

    Raises:
        BpfError: EPERM without CAP_SYS_ADMIN.
    """
    return _ids("prog", "programs")


def map_ids() -> Iterator[int]:
    """As :func:`program_ids`, of maps."""
    return _ids("map", "maps")


def link_ids() -> Iterator[int]:
    """As :func:`program_ids`, of links."""
    return _ids("link", "links")


def _ids(kind: str, plural: str) -> Iterator[int]:
    found: int | None = 0
    while True:
        try:
            found = _programs.next_id(kind, found or 0)
        except OSError as err:
            raise BpfError(f"list {plural}", err.errno or 0) from err
        if found is None:
            return
        yield found
