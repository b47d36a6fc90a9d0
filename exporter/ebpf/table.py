"""
What the watching of a map needs of it: single elements as bytes.

:class:`exporter.ebpf.maps.Map` is a table, so are the wrappers that watch one, and so is whatever a
test puts in its place.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from exporter.ebpf.errors import KeyNotFound
from exporter.ebpf.maps import BPF_ANY, MapSpec

#: Steps of a walk per entry that the map can hold. A key that goes away under the walk sends it
#: back to the first key; this bounds how often that is accepted, as in a reliable dump.
_STEPS_PER_ENTRY = 4


class Table(Protocol):
    """A map by its single elements. Errors are those of :mod:`exporter.ebpf.errors`."""

    @property
    def spec(self) -> MapSpec:
        """What the map is."""

    def lookup(self, key: bytes, /) -> bytes:
        """The value of ``key``. Raises KeyNotFound, BpfError."""

    def update(self, key: bytes, value: bytes, flags: int = BPF_ANY, /) -> None:
        """Write one element. Raises MapFull, KeyExists, KeyNotFound, BpfError."""

    def delete(self, key: bytes, /) -> None:
        """Remove one element. Raises KeyNotFound, BpfError."""

    def next_key(self, key: bytes | None = None, /) -> bytes | None:
        """The key after ``key``, the first one after ``None``. Raises BpfError."""


def collect_keys(table: Table) -> tuple[list[bytes], bool]:
    """
    All keys of a map, before anything is done to any of them.

    Deleting while walking skips entries on LPM tries: kernels before "bpf: Fix exact match
    conditions in trie_get_next_key()" go on at a wrong place after a key that is gone. For the same
    reason such a trie is walked completely only while nobody deletes from it.

    Args:
        table: May change meanwhile.

    Returns:
        Distinct keys in the kernel's order, and whether the walk came to an end: not so if the map
        changes faster than it can be walked.

    Raises:
        BpfError: If the kernel refuses.

    Source: kernel/bpf/lpm_trie.c trie_get_next_key(); kernel/bpf/hashtab.c htab_map_get_next_key().
    """
    found: dict[bytes, None] = {}
    key = table.next_key()
    for _ in range(_STEPS_PER_ENTRY * table.spec.max_entries):
        if key is None:
            break
        found[key] = None
        key = table.next_key(key)
    return list(found), key is None


def holds(table: Table, key: bytes, value: bytes, keys: Collection[bytes] | None = None) -> bool:
    """
    Whether a map has just this element.

    A lookup in an LPM trie is answered by the longest prefix that covers the key: an equal value
    may be another element's. There the keys are walked, or looked for in ``keys``.

    Args:
        table: The map.
        key: Octets.
        value: Octets.
        keys: All keys of the map if they are known already, which saves the walk.

    Raises:
        BpfError: If the kernel refuses.

    Source: kernel/bpf/lpm_trie.c trie_lookup_elem().
    """
    try:
        if table.lookup(key) != value:
            return False
    except KeyNotFound:
        return False
    if table.spec.type != "lpm_trie":
        return True
    return key in (collect_keys(table)[0] if keys is None else keys)
