"""Which CPUs there are, and how the kernel lays out the slots of per-CPU maps."""

from __future__ import annotations

import errno
import functools
from pathlib import Path

from exporter.ebpf import _libbpf
from exporter.ebpf.errors import BpfError


@functools.cache
def possible_cpus() -> int:
    """
    CPUs that may ever be online: the number of slots in a per-CPU value.

    Source: libbpf_num_possible_cpus(), which reads /sys/devices/system/cpu/possible.
    """
    return int(_libbpf.library().libbpf_num_possible_cpus())


def slot_size(value_size: int) -> int:
    """
    Octets from one CPU's slot to the next.

    Source: kernel/bpf/hashtab.c bpf_percpu_hash_copy(), round_up(map->value_size, 8).
    """
    return (value_size + 7) & ~7


def online_cpus(path: Path = Path("/sys/devices/system/cpu/online")) -> tuple[int, ...]:
    """
    CPUs that run now, ascending. Their numbers need not follow one another.

    Raises:
        BpfError: If the kernel's list cannot be read or is not one.

    Source: Documentation/admin-guide/cputopology.rst; lib/bitmap-str.c bitmap_parselist().
    """
    try:
        text = path.read_text().strip()
        cpus = [cpu for part in text.split(",") for cpu in _range(part)]
    except OSError as err:
        raise BpfError("list the CPUs that are online", err.errno or 0) from err
    except ValueError as err:
        raise BpfError(
            "list the CPUs that are online", errno.EINVAL, f"{text!r} is no list of CPUs"
        ) from err
    return tuple(cpus)


def _range(text: str) -> range:
    first, dash, last = text.partition("-")
    numbers = range(int(first), int(last if dash else first) + 1)
    if not numbers:
        raise ValueError(text)
    return numbers
