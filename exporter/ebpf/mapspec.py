"""What a map is: its type and sizes, and the rules by which the kernel makes one. Pure."""

from __future__ import annotations

import errno as errnos
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from exporter.ebpf.cpus import possible_cpus
from exporter.ebpf.errors import BpfError

#: BPF_MAP_TYPE_*, include/uapi/linux/bpf.h.
TYPES = {
    1: "hash",
    2: "array",
    3: "prog_array",
    4: "perf_event_array",
    5: "percpu_hash",
    6: "percpu_array",
    7: "stack_trace",
    8: "cgroup_array",
    9: "lru_hash",
    10: "lru_percpu_hash",
    11: "lpm_trie",
    12: "array_of_maps",
    13: "hash_of_maps",
    14: "devmap",
    15: "sockmap",
    16: "cpumap",
    17: "xskmap",
    18: "sockhash",
    19: "cgroup_storage",
    20: "reuseport_sockarray",
    21: "percpu_cgroup_storage",
    22: "queue",
    23: "stack",
    24: "sk_storage",
    25: "devmap_hash",
    26: "struct_ops",
    27: "ringbuf",
    28: "inode_storage",
    29: "task_storage",
    30: "bloom_filter",
    31: "user_ringbuf",
    32: "cgrp_storage",
    33: "arena",
}
NUMBERS = {name: number for number, name in TYPES.items()}

PER_CPU = frozenset({"percpu_hash", "percpu_array", "lru_percpu_hash", "percpu_cgroup_storage"})
OF_MAPS = frozenset({"array_of_maps", "hash_of_maps"})
#: Their keys are indexes.
INDEXED = frozenset(
    {
        "array",
        "percpu_array",
        "prog_array",
        "perf_event_array",
        "cgroup_array",
        "array_of_maps",
        "devmap",
        "sockmap",
        "cpumap",
        "xskmap",
        "reuseport_sockarray",
    }
)
#: A batch reads whole buckets of theirs, locked.
HASHED = frozenset({"hash", "percpu_hash", "lru_hash", "lru_percpu_hash"})
#: The kernel takes nothing but BPF_ANY: kernel/bpf/arraymap.c bpf_fd_array_map_update_elem().
ANY_ONLY = frozenset({"array_of_maps", "prog_array", "perf_event_array", "cgroup_array"})
#: Hang on a socket, inode, task or cgroup; the kernel wants their types described.
STORAGE = frozenset({"sk_storage", "inode_storage", "task_storage", "cgrp_storage"})
KEYLESS = frozenset({"queue", "stack", "bloom_filter", "ringbuf", "user_ringbuf"})

_VALUE_IS_A_REFERENCE = OF_MAPS | {"prog_array", "perf_event_array", "cgroup_array"}
_WITHOUT_VALUE = frozenset({"ringbuf", "user_ringbuf", "arena"})
_INDEX_OCTETS = 4
_NAME_OCTETS = 16

BPF_ANY, BPF_NOEXIST, BPF_EXIST = 0, 1, 2
BPF_F_NO_PREALLOC = 1


@dataclass(frozen=True)
class MapSpec:
    """
    What an object file, or the kernel, says of a map.

    Args:
        name: As in the file; the kernel keeps 15 octets of it.
        type: One of :data:`TYPES`.
        key_size: Octets; 0 where there is no key.
        value_size: Octets, of one CPU's slot in a per-CPU map.
        max_entries: Elements; octets of a ring buffer.
        flags: BPF_F_*.
        inner: What the maps within a map of maps are; ``None`` if it is none or that is not known.
    """

    name: str
    type: str
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0
    inner: MapSpec | None = None

    def complete(self) -> MapSpec:
        """
        The specification that the kernel is asked for: what a type leaves no choice in filled in.

        Indexes and references have 4 octets if 0 are given; an LPM trie and a storage are never
        preallocated; a perf event array has an element for each CPU if it has none.

        Raises:
            BpfError: EINVAL with every rule that it breaks.
        """
        made = self
        if made.type in INDEXED and not made.key_size:
            made = replace(made, key_size=_INDEX_OCTETS)
        if made.type in _VALUE_IS_A_REFERENCE and not made.value_size:
            made = replace(made, value_size=_INDEX_OCTETS)
        if made.type in STORAGE | {"lpm_trie"}:
            made = replace(made, flags=made.flags | BPF_F_NO_PREALLOC)
        if made.type == "perf_event_array" and not made.max_entries:
            made = replace(made, max_entries=possible_cpus())
        if wrong := list(made.broken_rules()):
            raise BpfError(f"create map {made.name!r}", errnos.EINVAL, "; ".join(wrong))
        return made

    def broken_rules(self) -> Iterator[str]:
        """What keeps the kernel from making such a map, as far as can be said without asking it."""
        rules = (
            (self.type in NUMBERS, f"there is no map type {self.type!r}"),
            (
                len(self.name.encode()) < _NAME_OCTETS,
                f"a name has at most {_NAME_OCTETS - 1} octets",
            ),
            (
                re.fullmatch(r"[A-Za-z0-9_.]*", self.name),
                "a name has letters, digits, '_' and '.' only",
            ),
            (
                self.type not in INDEXED or self.key_size == _INDEX_OCTETS,
                f"an index has {_INDEX_OCTETS} octets, not {self.key_size}",
            ),
            (
                self.type not in _VALUE_IS_A_REFERENCE or self.value_size == _INDEX_OCTETS,
                f"a reference has {_INDEX_OCTETS} octets, not {self.value_size}",
            ),
            (self.type not in KEYLESS or not self.key_size, f"a {self.type} has no keys"),
            (
                self.type in KEYLESS | {"arena"} or self.key_size >= 1,
                "a key has at least 1 octet",
            ),
            (
                self.type in _WITHOUT_VALUE or self.value_size >= 1,
                "a value has at least 1 octet",
            ),
            (self.inner is None or self.type in OF_MAPS, f"a {self.type} holds no maps"),
            (
                self.inner is None or self.inner.type not in OF_MAPS,
                "a map of maps of maps is one too many",
            ),
        )
        return (wrong for kept, wrong in rules if not kept)


def storage_types(value_size: int) -> bytes:
    """
    BTF of a storage's key and value: type 1 is ``int``, type 3 ``char[value_size]``.

    Source: net/core/bpf_sk_storage.c bpf_local_storage_map_check_btf(): the key must be an int of
    32 bits.
    """
    names = b"\0int\0char\0"
    kind_int, kind_array, signed = 1 << 24, 3 << 24, 1 << 24
    types = b"".join(
        word.to_bytes(4, "little")
        for word in (
            *(1, kind_int, 4, signed | 32),
            *(5, kind_int, 1, signed | 8),
            *(0, kind_array, 0, 2, 1, value_size),
        )
    )
    header = b"\x9f\xeb\x01\x00" + b"".join(
        word.to_bytes(4, "little") for word in (24, 0, len(types), len(types), len(names))
    )
    return header + types + names
