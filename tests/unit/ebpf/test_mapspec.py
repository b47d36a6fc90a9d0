"""The rules by which maps are made."""

from __future__ import annotations

import errno

import pytest

from exporter.ebpf.btf import Array, Btf, Int
from exporter.ebpf.cpus import possible_cpus
from exporter.ebpf.errors import BpfError
from exporter.ebpf.mapspec import BPF_F_NO_PREALLOC, TYPES, MapSpec, storage_types

INNER = MapSpec("inner", "array", 4, 4, 10)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (MapSpec("m", "array", 0, 2, 5), MapSpec("m", "array", 4, 2, 5)),
        (MapSpec("m", "hash", 3, 5, 1, 2), MapSpec("m", "hash", 3, 5, 1, 2)),
        (MapSpec("m", "prog_array", 0, 0, 5), MapSpec("m", "prog_array", 4, 4, 5)),
        (MapSpec("m", "perf_event_array", 0, 0, 5), MapSpec("m", "perf_event_array", 4, 4, 5)),
        (
            MapSpec("m", "perf_event_array", 0, 0, 0),
            MapSpec("m", "perf_event_array", 4, 4, possible_cpus()),
        ),
        (
            MapSpec("m", "array_of_maps", 0, 0, 5, inner=INNER),
            MapSpec("m", "array_of_maps", 4, 4, 5, inner=INNER),
        ),
        (
            MapSpec("m", "hash_of_maps", 8, 0, 5, inner=INNER),
            MapSpec("m", "hash_of_maps", 8, 4, 5, inner=INNER),
        ),
        (MapSpec("m", "lpm_trie", 8, 8, 5), MapSpec("m", "lpm_trie", 8, 8, 5, BPF_F_NO_PREALLOC)),
        (MapSpec("", "queue", 0, 8, 5), MapSpec("", "queue", 0, 8, 5)),
        (MapSpec("m", "ringbuf", 0, 0, 4096), MapSpec("m", "ringbuf", 0, 0, 4096)),
    ],
)
def test_what_a_type_leaves_no_choice_in(given: MapSpec, expected: MapSpec) -> None:
    """Index and reference sizes, preallocation and the size of a perf event array."""
    assert given.complete() == expected
    assert expected.complete() == expected


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        (MapSpec("m", "hsah", 4, 4, 1), "there is no map type 'hsah'"),
        (MapSpec("sixteen_letters_", "hash", 4, 4, 1), "a name has at most 15 octets"),
        (MapSpec("a-b", "hash", 4, 4, 1), "a name has letters, digits, '_' and '.' only"),
        (MapSpec("m", "array", 8, 4, 1), "an index has 4 octets, not 8"),
        (MapSpec("m", "prog_array", 4, 8, 1), "a reference has 4 octets, not 8"),
        (MapSpec("m", "hash", 0, 4, 1), "a key has at least 1 octet"),
        (MapSpec("m", "hash", 4, 0, 1), "a value has at least 1 octet"),
        (MapSpec("m", "stack", 4, 4, 1), "a stack has no keys"),
        (MapSpec("m", "hash", 4, 4, 1, inner=INNER), "a hash holds no maps"),
        (
            MapSpec("m", "array_of_maps", 4, 4, 1, inner=MapSpec("n", "array_of_maps", 4, 4, 1)),
            "a map of maps of maps is one too many",
        ),
        (MapSpec("m", "hash", 0, 0, 1), "a key has at least 1 octet; a value has at least 1 octet"),
    ],
)
def test_broken_rules(given: MapSpec, rule: str) -> None:
    """Each is named, before the kernel is asked, whose EINVAL says nothing."""
    with pytest.raises(BpfError) as caught:
        given.complete()
    assert (caught.value.errno, caught.value.detail) == (errno.EINVAL, rule)


def test_types_are_the_kernels() -> None:
    """Every number has its name, none is left out."""
    assert list(TYPES) == list(range(1, 34))
    assert [TYPES[number] for number in (1, 11, 13, 24, 27, 31)] == [
        "hash", "lpm_trie", "hash_of_maps", "sk_storage", "ringbuf", "user_ringbuf",
    ]  # fmt: skip


def test_types_of_a_storage() -> None:
    """Types 1 and 3 are an int and an array of as many characters as the value has octets."""
    found = Btf.parse(storage_types(12))
    assert found._resolve(1) == Int(4, signed=True)
    assert found._resolve(3) == Array(Int(1, signed=True), 12)
