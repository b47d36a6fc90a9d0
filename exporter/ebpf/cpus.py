"""How the kernel lays out the slots of per-CPU maps."""

from __future__ import annotations

import functools

from exporter.ebpf import _libbpf


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
