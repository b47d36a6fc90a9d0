"""Which CPUs there are, and how the kernel lays out the slots of per-CPU maps."""

from __future__ import annotations

import errno as errnos
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.ebpf.errors import BpfError

#: Source: Documentation/ABI/testing/sysfs-devices-system-cpu.
POSSIBLE = Path("/sys/devices/system/cpu/possible")
ONLINE = Path("/sys/devices/system/cpu/online")


def parse_cpus(text: str) -> tuple[int, ...]:
    """
    The CPUs that a list such as ``0-3,8-11`` names.

    Args:
        text: Numbers and ranges in rising order, as the kernel prints them.

    Raises:
        BpfError: EINVAL if it is anything else.

    Source: lib/vsprintf.c bitmap_list_string().
    """
    cpus: list[int] = []
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise _not_a_list(text)
        numbers = range(int(first), int(last or first) + 1)
        if not numbers or (cpus and numbers[0] <= cpus[-1]):
            raise _not_a_list(text)
        cpus += numbers
    return tuple(cpus)


@functools.cache
def possible_cpus() -> int:
    """
    CPUs that may ever be online: the number of slots in a per-CPU value. An answer is remembered,
    a failure is not.

    Raises:
        BpfError: If the kernel's list cannot be read, or lacks CPU 0: then it is not what was
            thought, as every kernel that can run this has one.
    """
    cpus = _read(POSSIBLE, "possible")
    if cpus[0]:
        raise _not_a_list(f"{cpus[0]}-")
    return len(cpus)


def online_cpus(path: Path = ONLINE) -> tuple[int, ...]:
    """
    CPUs that run now, ascending. Their numbers need not follow one another.

    Raises:
        BpfError: If the kernel's list cannot be read or is not one.
    """
    return _read(path, "online")


def slot_size(value_size: int) -> int:
    """
    Octets from one CPU's slot to the next.

    Source: kernel/bpf/hashtab.c bpf_percpu_hash_copy(), round_up(map->value_size, 8).
    """
    return (value_size + 7) & ~7


def slots(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """
    Rows of a per-CPU map as values, whatever their size.

    Args:
        values: First axis n, C-contiguous; every row all slots of one value, padding included.
        dtype: Of one value; its itemsize is the map's value size.

    Returns:
        A view, shape (n, possible CPUs).

    Raises:
        ValueError: If a row is not as long as the slots of such values.
    """
    stride, cpus = slot_size(dtype.itemsize), possible_cpus()
    row = values.itemsize * math.prod(values.shape[1:])
    if row != stride * cpus or not values.flags.c_contiguous:
        raise ValueError(f"{cpus} slots of {dtype} have {stride * cpus} octets, a row has {row}")
    return np.ndarray((len(values), cpus), dtype, values.data, 0, (row, stride))


def summed(values: NDArray[Any]) -> NDArray[Any]:
    """
    All CPUs' slots as one.

    Args:
        values: Shape (n, possible CPUs), as :func:`slots` gives them.

    Returns:
        Shape (n,), a copy. Integers become 64 bits wide; those in fields of a struct keep their
        width, and wrap as the kernel's would.
    """
    if values.dtype.names is None:
        return np.asarray(values.sum(axis=1))
    total = np.zeros(len(values), values.dtype)
    for name in values.dtype.names:
        field = values[name]
        total[name] = (
            field.sum(axis=1, dtype=field.dtype) if not field.dtype.names else (summed(field))
        )
    return total


def _read(path: Path, kind: str) -> tuple[int, ...]:
    try:
        text = path.read_text()
    except OSError as err:
        raise BpfError(f"list the CPUs that are {kind}", err.errno or 0, str(path)) from err
    return parse_cpus(text)


def _not_a_list(text: str) -> BpfError:
    return BpfError("list the CPUs", errnos.EINVAL, f"{text.strip()!r} is no list of CPUs")
