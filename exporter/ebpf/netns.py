"""Enter a network namespace for the length of a block, in the calling thread only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from exporter.ebpf import _libbpf

OWN = "/proc/thread-self/ns/net"


def inode(path: str = OWN) -> int:
    """The namespace's inode in nsfs: equal for two paths to one namespace. Raises OSError."""
    return Path(path).stat().st_ino


@contextlib.contextmanager
def entered(path: str | None) -> Iterator[None]:
    """
    Be in the network namespace at ``path`` (as in /var/run/netns) within the block.

    ``None`` is the namespace that the thread is in: nothing happens.

    Raises:
        OSError: If the namespace is gone or may not be entered.
    """
    if path is None:
        yield
        return
    home = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _libbpf.setns(target)
        finally:
            os.close(target)
        try:
            yield
        finally:
            _libbpf.setns(home)
    finally:
        os.close(home)
