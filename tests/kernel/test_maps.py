"""
Maps of every kind: the same expectations of the kernel's, of the kernel's without batch operations,
and of the fakes.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.capture.loader import OBJECT_PATH
from exporter.ebpf import _libbpf, batches
from exporter.ebpf.batches import OPERATIONS, BatchCursor
from exporter.ebpf.cpus import possible_cpus, slot_size, slots, summed
from exporter.ebpf.errors import BpfError, DumpIncomplete, KeyExists, KeyNotFound, MapFull
from exporter.ebpf.fakes import FakeMap
from exporter.ebpf.maps import Map
from exporter.ebpf.mapspec import BPF_EXIST, BPF_NOEXIST, TYPES, MapSpec
from exporter.ebpf.object import Object, ObjectSpec
from exporter.ebpf.typed import OCTETS, PREFIX, SIGNED, TEXT, UNSIGNED, TypedMap, record
from tests.kernel.tables import Tables, bpf_file_system, spec

HASHES = ("hash", "lru_hash", "percpu_hash", "lru_percpu_hash")
PAIR = np.dtype([("port", ">u2"), ("_pad", "V2"), ("count", "<u4")])


@pytest.fixture(params=["kernel", "kernel, one by one", "fake"])
def tables(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tables]:
    """What makes maps: live ones, live ones of a kernel without batch operations, or fakes."""
    if request.param == "kernel, one by one":
        old = {(kind, operation): False for kind in TYPES.values() for operation in OPERATIONS}
        monkeypatch.setattr(batches, "_remembered", old)
    with ExitStack() as stack:
        yield Tables(FakeMap if request.param == "fake" else Map, stack)


@pytest.fixture(params=["kernel", "fake"])
def pins(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[type[Map], Path]]:
    """A class of maps and a directory where they can be pinned."""
    if request.param == "fake":
        yield FakeMap, tmp_path
    else:
        with bpf_file_system(tmp_path / "bpf") as directory:
            yield Map, directory


def remove(kind: type[Map], path: Path) -> None:
    """Unpin."""
    if issubclass(kind, FakeMap):
        kind.unpin(path)
    else:
        path.unlink()


def u32(*numbers: int) -> list[bytes]:
    return [number.to_bytes(4, "little") for number in numbers]


# One by one


@pytest.mark.parametrize("kind", ["hash", "lru_hash"])
def test_texts_in_a_hash(tables: Tables, kind: str) -> None:
    """Insert, upsert, update and delete, with texts; a miss and a duplicate are named."""
    table = tables.make(kind, 8, 8, 10)
    table.insert("str1", "value1")
    table.insert("str123", "value2")
    table.insert("empty", "")
    table.upsert("upsert1", "upvalue1")
    assert table.lookup("str123") == b"value2\0\0"
    assert table.lookup_text("str1") == "value1"
    assert table.lookup_text("empty") == ""
    assert table.lookup_text("upsert1") == "upvalue1"
    table.replace("str123", "newval")
    assert table.lookup_text("str123") == "newval"
    table.upsert("upsert1", "newupval")
    assert table.lookup_text("upsert1") == "newupval"
    table.delete("str1")
    with pytest.raises(KeyNotFound, match="look up in map test: No such file or directory"):
        table.lookup("str1")
    with pytest.raises(KeyExists, match="update map test: File exists"):
        table.insert("str123", "value2")
    with pytest.raises(KeyNotFound, match="update map test"):
        table.replace("dummy", "1")
    with pytest.raises(KeyNotFound, match="delete from map test"):
        table.delete("dummy")
    assert sorted(table.keys()) == [b"empty\0\0\0", b"str123\0\0", b"upsert1\0"]


@pytest.mark.parametrize("kind", ["array", "percpu_array"])
def test_small_integers_in_an_array(tables: Tables, kind: str) -> None:
    """Two octets hold what fits; the elements are all there, and none can be deleted."""
    table = tables.make(kind, 0, 2, 5)
    for index in range(5):
        assert table.lookup_int(index) == 0
        table.replace(index, index + 1)
    assert [table.lookup_int(index) for index in range(5)] == [1, 2, 3, 4, 5]
    for value in (0, 0xFF, 256, 4095, 0xFFF, 0xFFFF):
        table.replace(0, value)
        assert table.lookup_int(0) == value
    with pytest.raises(BpfError, match="1048575 does not fit in 2") as caught:
        table.replace(0, 0xFFFFF)
    assert caught.value.errno == errno.EOVERFLOW
    with pytest.raises(KeyNotFound):
        table.lookup_int(100)
    with pytest.raises(KeyExists):
        table.insert(0, 1)
    with pytest.raises(MapFull):
        table.upsert(5, 1)
    with pytest.raises(BpfError) as refused:
        table.delete(0)
    assert refused.value.errno == errno.EINVAL
    assert list(table.keys()) == u32(0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    "value", [0, -1, -10000000000, 0x7FFFFFFFFFFFFFFF, 0xFF, 256, 4095, 0xFFFF]
)
def test_signed_integers(tables: Tables, value: int) -> None:
    """Eight octets hold every one of 64 bits."""
    table = tables.make("array", 4, 8, 5)
    table.replace(0, value)
    assert table.lookup_int(0, signed=True) == value


def test_unsigned_integers(tables: Tables) -> None:
    """Above what a signed one holds."""
    table = tables.make("array", 4, 8, 5)
    for index in range(5):
        table.replace(index, (1 << 63) + index)
    assert [table.lookup_int(index) - (1 << 63) for index in range(5)] == [0, 1, 2, 3, 4]


def test_no_integer_has_nine_octets(tables: Tables) -> None:
    """A value that is too long for an integer is an error, not a part of it."""
    table = tables.make("hash", 4, 9)
    table.insert(1, b"123456789")
    with pytest.raises(BpfError, match="1 to 8 octets, not 9"):
        table.lookup_int(1)


def test_octets_must_be_whole(tables: Tables) -> None:
    """A short key or value is refused in so many words; nothing is padded behind one's back."""
    table = tables.make("hash", 8, 4)
    with pytest.raises(BpfError, match="a key has 8 octets, not 5"):
        table.lookup(b"short")
    with pytest.raises(BpfError, match="a value has 4 octets, not 5"):
        table.update(bytes(8), b"short")
    with pytest.raises(BpfError, match="a value has 4 octets, not 8"):
        table.update(bytes(8), np.zeros(1, "<u8"))


def test_a_full_hash(tables: Tables) -> None:
    """No room is MapFull; an LRU hash forgets instead."""
    full, forgetful = tables.make("hash", entries=4), tables.make("lru_hash", entries=4)
    for number in range(4):
        full.insert(number, number)
    with pytest.raises(MapFull, match="update map test: Argument list too long"):
        full.insert(4, 4)
    full.replace(3, 33)
    for number in range(40):
        forgetful.insert(number, number)
    assert len(list(forgetful.keys())) <= 4


def test_prefixes(tables: Tables) -> None:
    """The longest prefix wins; texts, networks and addresses name one."""
    table = tables.make("lpm_trie", 8, 8, 3)
    table.insert("192.168.0.0/16", "value16")
    table.insert(ip_network("192.168.0.0/24"), "value24")
    assert table.lookup_text("192.168.0.10") == "value24"
    with pytest.raises(KeyNotFound):
        table.lookup_text("10.10.10.10")
    table.insert("0.0.0.0/0", "value0")
    assert table.lookup_text("222.222.222.222") == "value0"
    table.replace("192.168.0.77/24", "masked")
    assert table.lookup_text("192.168.0.10") == "masked"
    with pytest.raises(MapFull, match="No space left"):
        table.insert("10.0.0.0/8", "full")
    with pytest.raises(BpfError, match="prefix"):
        table.lookup("garbage")
    table.delete("192.168.0.0/24")
    assert table.lookup_text("192.168.0.10") == "value16"
    with pytest.raises(KeyNotFound):
        table.delete("192.168.0.0/24")


def test_long_prefixes(tables: Tables) -> None:
    """IPv6, as a view with prefixes for keys."""
    table = TypedMap(tables.make("lpm_trie", 20, 8, 10), PREFIX, TEXT)
    table.insert("fafa::fbf8/120", "value120")
    table.insert("fafa::fbf8/125", "val125")
    assert table.lookup("fafa::fbfa") == "val125"
    with pytest.raises(KeyNotFound):
        table.lookup("1afa::fbfa")
    table.insert("::/0", "value0")
    assert table.lookup("1111::1111") == "value0"
    assert dict(table.items()) == {
        ip_network("fafa::fb00/120"): "value120",
        ip_network("fafa::fbf8/125"): "val125",
        ip_network("::/0"): "value0",
    }
    with pytest.raises(BpfError, match="a key has 20 octets, not 8"):
        tables.make("lpm_trie", 20, 8).insert("10.0.0.0/8", "short")


def test_similar_prefixes_are_all_deleted_while_walking(tables: Tables) -> None:
    """Each key that is walked over may be deleted at once, in a trie too."""
    table = tables.make("lpm_trie", 8, 4, 8)
    for host in range(4):
        table.insert(f"10.0.0.{host}", host)
    for key in table:
        table.delete(key)
    assert list(table.keys()) == []


def test_queue_and_stack(tables: Tables) -> None:
    """Values without keys: first in first out, or last; looked at or taken."""
    for kind, order in (("queue", [1, 2, 3]), ("stack", [3, 2, 1])):
        table = tables.make(kind, 0, 4, 3)
        for number in (1, 2, 3):
            table.upsert(b"", number)
        with pytest.raises(MapFull):
            table.upsert(b"", 4)
        assert table.lookup_int(b"") == order[0]
        assert [int.from_bytes(table.take(), "little") for _ in range(3)] == order
        with pytest.raises(KeyNotFound, match="take from map test"):
            table.take()


@pytest.mark.parametrize("kind", [*HASHES, "lpm_trie"])
def test_take_one(tables: Tables, kind: str) -> None:
    """Look-up and deletion in one call, also where the kernel needs two."""
    table = tables.make(kind, 8, 8)
    key = "10.0.0.0/8" if kind == "lpm_trie" else 7
    table.insert(key, 5)
    assert int.from_bytes(table.take(key)[:8], "little") == 5
    with pytest.raises(KeyNotFound):
        table.take(key)


# CPU by CPU


@pytest.mark.parametrize("size", [1, 3, 4, 8])
def test_slots_are_summed(tables: Tables, size: int) -> None:
    """Every CPU's slot counts once, whatever its size: 3 octets 8 apart, too."""
    table = tables.make("percpu_hash", 4, size)
    cpus, stride = possible_cpus(), slot_size(size)
    table.insert("str1", b"".join(bytes([cpu + 1]).ljust(stride, b"\0") for cpu in range(cpus)))
    assert table.lookup_int("str1") == sum(range(1, cpus + 1))
    assert table.lookup_int("str1", signed=True) == sum(range(1, cpus + 1))
    for cpu, slot in enumerate(table.lookup("str1")[::stride]):
        assert slot == cpu + 1


def test_one_value_goes_to_the_first_slot(tables: Tables) -> None:
    """So that the sum is that value; and it must fit in one slot, not in all of them."""
    table = tables.make("percpu_array", 4, 4)
    table.upsert(1, 0xFFFFFFFF)
    assert table.lookup_int(1) == 0xFFFFFFFF
    assert table.per_cpu(1, np.dtype("<u4")).tolist() == [0xFFFFFFFF] + [0] * (possible_cpus() - 1)
    with pytest.raises(BpfError, match="does not fit in 4"):
        table.upsert(1, 1 << 32)
    with pytest.raises(BpfError, match="a text for each CPU"):
        table.lookup_text(1)


def test_slots_as_an_array(tables: Tables) -> None:
    """One value for each possible CPU, written and read."""
    table = tables.make("percpu_hash", 4, 4)
    values = np.arange(10, 10 + possible_cpus(), dtype="<u4")
    table.insert(1, values)
    assert table.per_cpu(1, values.dtype).tolist() == values.tolist()
    assert TypedMap(table, UNSIGNED, UNSIGNED).per_cpu(1) == values.tolist()
    assert TypedMap(table, UNSIGNED, record(values.dtype)).per_cpu(1) == values.tolist()
    with pytest.raises(BpfError, match="slots of 4 octets"):
        table.upsert(1, values.astype("<u8"))
    with pytest.raises(BpfError, match="slots of 4 octets"):
        table.upsert(1, values[:0])
    with pytest.raises(BpfError, match="a value has 4 octets, not 8"):
        table.per_cpu(1, np.dtype("<u8"))


# By kind


@pytest.mark.parametrize(("key_size", "value_size"), [(8, 8), (4, 8), (8, 2), (2, 1)])
def test_next_key_has_the_size_of_a_key(tables: Tables, key_size: int, value_size: int) -> None:
    """Whatever the size of a value: ebpfgo decodes keys by that."""
    table = TypedMap(tables.make("hash", key_size, value_size), UNSIGNED, UNSIGNED)
    content = {1234: 1, 5678: 2, 9012: 3, 0: 4}
    for key, value in content.items():
        table.insert(key, value)
    seen, following = {}, table.next_key()
    while following is not None:
        seen[following] = table.lookup(following)
        following = table.next_key(following)
    assert seen == content == dict(table.items())
    assert sorted(table.keys()) == sorted(content)


def test_walk_texts(tables: Tables) -> None:
    """The empty text is a key like others, and the walk's end is not an error."""
    table = TypedMap(tables.make("hash", 8, 8, 10), TEXT, TEXT)
    content = {"key1": "val1", "key2": "val2", "key3": "val3", "": "val4"}
    assert table.next_key() is None
    for key, value in content.items():
        table.insert(key, value)
    seen, following = {}, table.next_key()
    while following is not None:
        seen[following] = table.lookup(following)
        following = table.next_key(following)
    assert seen == content


def test_records(tables: Tables) -> None:
    """Structs go in as scalars, tuples or octets, and come out as scalars of their own."""
    table = TypedMap(tables.make("hash", 8, 8), record(PAIR), record(np.dtype("<i8")))
    table.insert((80, b"", 7), -5)
    scalar = np.array((80, b"", 7), PAIR)[()]
    assert table.lookup(scalar) == -5
    assert tables_key(table) == (80, 7)
    table.replace(scalar, np.int64(-6))
    assert dict(table.table.items()) == {b"\0\x50\0\0\7\0\0\0": b"\xfa" + b"\xff" * 7}
    table.delete(scalar)
    assert table.next_key() is None


def tables_key(table: TypedMap[Any, Any]) -> tuple[int, int]:
    (key,) = table
    return int(key["port"]), int(key["count"])


def test_views_pad_octets(tables: Tables) -> None:
    """Octets are padded as ebpfgo's table says; what comes out is whole."""
    table = TypedMap(tables.make("hash", 4, 4), OCTETS, SIGNED)
    table.insert(b"a", b"b")
    table.upsert(b"n", np.int32(-1))
    assert dict(table.items()) == {b"a\0\0\0": 98, b"n\0\0\0": -1}
    with pytest.raises(KeyNotFound):
        table.delete(b"c")


def test_a_view_has_no_single_value_of_all_cpus(tables: Tables) -> None:
    """Which CPU's value is meant must be said."""
    table = TypedMap(tables.make("percpu_array"), UNSIGNED, UNSIGNED)
    table.upsert(0, b"\1")
    assert table.per_cpu(0) == [1] + [0] * (possible_cpus() - 1)
    with pytest.raises(BpfError, match=r"per_cpu\(\)"):
        table.lookup(0)


# Maps of maps


@pytest.mark.parametrize("kind", ["array_of_maps", "hash_of_maps"])
def test_maps_of_maps(tables: Tables, kind: str) -> None:
    """Inner maps are written as what is open here and read as what can be opened anywhere."""
    template = tables.make("array", 4, 4, 10)
    outer = tables.make(kind, 4, 0, 10, inner=template)
    for index in range(5):
        inner = tables.keep(template.clone())
        inner.replace(3, index)
        outer.upsert(index, inner)
        inner.close()
    for index in range(5):
        with outer.lookup_map(index) as found:
            assert found.lookup_int(3) == index
            assert found.spec == template.spec
            assert found.info().id == outer.lookup_int(index)
    with pytest.raises(KeyNotFound):
        outer.lookup_map(7)
    outer.delete(2)
    with pytest.raises(KeyNotFound):
        outer.lookup_map(2)
    with pytest.raises(BpfError) as caught:
        outer.upsert(0, 1 << 30)
    assert caught.value.errno == errno.EBADF


def test_an_array_of_maps_takes_every_write(tables: Tables) -> None:
    """The kernel knows neither "new" nor "there" for it; a hash of maps does."""
    template = tables.make("array", 4, 4, 10)
    outer = tables.make("array_of_maps", 0, 0, 4, inner=template)
    outer.replace(0, template)
    outer.insert(0, template)
    for flags in (BPF_NOEXIST, BPF_EXIST):
        with pytest.raises(BpfError) as caught:
            outer.update(0, template, flags)
        assert caught.value.errno == errno.EINVAL
    named = tables.make("hash_of_maps", 8, 0, 4, inner=template)
    with pytest.raises(KeyNotFound):
        named.replace("one", template)
    named.insert("one", template)
    with pytest.raises(KeyExists):
        named.insert("one", template)


def test_inner_maps_by_specification(tables: Tables) -> None:
    """The template need not exist; none at all is an error that says so."""
    inner = MapSpec("inner", "hash", 4, 4, 10)
    outer = tables.keep(tables.kind.create(MapSpec("o", "array_of_maps", 4, 4, 2, inner=inner)))
    outer.upsert(0, tables.keep(tables.kind.create(inner)))
    copy = tables.keep(outer.clone("copy"))
    assert copy.spec.inner == inner
    with pytest.raises(BpfError, match="give the specification of inner maps"):
        tables.kind.create(spec("array_of_maps", 4, 4))


# Making and finding


def test_clone(tables: Tables) -> None:
    """A new map of the same specification: empty, and another."""
    table = tables.make("hash", 4, 4, 100)
    table.insert(1, 1)
    copy = tables.keep(table.clone())
    assert copy.spec == table.spec
    assert copy.info().id != table.info().id
    assert list(copy.keys()) == []


def test_broken_rules_reach_nobody(tables: Tables) -> None:
    """What cannot be made says why, and leaves nothing open."""
    with pytest.raises(BpfError, match="at most 15 octets; an index has 4 octets, not 5"):
        tables.kind.create(MapSpec("a_name_too_long_", "array", 5, 4, 1))


def test_closing_twice(tables: Tables) -> None:
    """Closing again is fine, use after it an error of the kernel's."""
    table = tables.make("array")
    table.close()
    table.close()
    for use in (lambda: table.lookup(0), lambda: table.upsert(0, 0), table.next_key):
        with pytest.raises(BpfError) as caught:
            use()
        assert caught.value.errno == errno.EBADF
    with pytest.raises(BpfError, match="inspect map test: File descriptor in bad state"):
        table.info()


def test_the_same_map_by_id_and_descriptor(tables: Tables) -> None:
    """Everything that was known of it is, and both see what one writes."""
    table = tables.make("array", 4, 4, 4)
    other = tables.keep(tables.kind.from_id(table.info().id))
    assert other.spec == table.spec
    table.replace(2, 1337)
    assert other.lookup_int(2) == 1337
    taken = tables.kind.from_fd(table.fd)
    assert (taken.spec, taken.info()) == (table.spec, table.info())
    if tables.kind is Map:
        taken.fd = -1
    taken.close()
    with pytest.raises(BpfError, match="open map 4294967294: No such file") as caught:
        tables.kind.from_id(0xFFFFFFFE)
    assert caught.value.errno == errno.ENOENT


def test_a_descriptor_of_something_else(tmp_path: Path) -> None:
    """A file is no map, and stays open; no descriptor at all neither."""
    file = os.open(tmp_path / "file", os.O_CREAT)
    with pytest.raises(BpfError, match="it is not a map"):
        Map.from_fd(file)
    os.close(file)
    with pytest.raises(BpfError, match="open descriptor"):
        Map.from_fd(file)


def test_pins(pins: tuple[type[Map], Path]) -> None:
    """A pin keeps a map alive, is found by its path, and is gone when it is removed."""
    kind, directory = pins
    with kind.create(spec("array", 4, 4, 5)) as table:
        table.pin(directory / "test")
        with pytest.raises(BpfError, match=f"pin map test at {directory}/test: File exists"):
            table.pin(directory / "test")
        for index in range(5):
            table.replace(index, index)
        kept = table.spec
    with kind.from_path(directory / "test") as found:
        assert found.spec == kept
        assert [found.lookup_int(index) for index in range(5)] == [0, 1, 2, 3, 4]
        remove(kind, directory / "test")
        assert found.lookup_int(4) == 4
    with pytest.raises(BpfError, match=r"open pin .*: No such file") as caught:
        kind.from_path(directory / "test")
    assert caught.value.errno == errno.ENOENT


#: What the kernel makes without anything else at hand, and sizes it accepts.
MADE: dict[str, tuple[int, int, int]] = {
    "hash": (4, 8, 4),
    "array": (0, 8, 4),
    "prog_array": (0, 0, 4),
    "perf_event_array": (0, 0, 0),
    "percpu_hash": (4, 8, 4),
    "percpu_array": (0, 8, 4),
    "stack_trace": (4, 64, 4),
    "cgroup_array": (0, 0, 4),
    "lru_hash": (4, 8, 4),
    "lru_percpu_hash": (4, 8, 4),
    "lpm_trie": (8, 8, 4),
    "array_of_maps": (0, 0, 4),
    "hash_of_maps": (4, 0, 4),
    "devmap": (0, 4, 4),
    "sockmap": (0, 4, 4),
    "cpumap": (0, 4, 1),
    "xskmap": (0, 4, 4),
    "sockhash": (4, 4, 4),
    "cgroup_storage": (8, 8, 0),
    "reuseport_sockarray": (0, 8, 4),
    "percpu_cgroup_storage": (8, 8, 0),
    "queue": (0, 8, 4),
    "stack": (0, 8, 4),
    "sk_storage": (4, 12, 0),
    "devmap_hash": (4, 4, 4),
    "ringbuf": (0, 0, 4096),
    "inode_storage": (4, 12, 0),
    "task_storage": (4, 12, 0),
    "bloom_filter": (0, 8, 4),
    "user_ringbuf": (0, 0, 4096),
}


@pytest.mark.parametrize("kind", MADE)
def test_every_type(kind: str) -> None:
    """The kernel makes it and knows it by the name and sizes that were asked for."""
    key, value, entries = MADE[kind]
    inner = spec("array") if kind in ("array_of_maps", "hash_of_maps") else None
    with Map.create(MapSpec(kind[:15], kind, key, value, entries, inner=inner)) as table:
        info = table.info()
        assert (info.spec.name, info.spec.type) == (kind[:15], kind)
        assert (info.spec.key_size, info.spec.value_size) == (
            table.spec.key_size,
            table.spec.value_size,
        )
        assert info.id > 0
        with Map.from_id(info.id) as other:
            assert other.info() == info


def test_what_is_not_faked() -> None:
    """A fake of a type that it has no rules for is refused."""
    with pytest.raises(BpfError, match="no fake ringbuf"):
        FakeMap.create(spec("ringbuf", 0, 0, 4096))


# Batches


def arrays(table: Map, rows: int) -> tuple[Any, Any]:
    """Arrays that a batch fits in."""
    return (
        np.zeros((rows, table.spec.key_size), np.uint8),
        np.zeros((rows, table.value_octets), np.uint8),
    )


def numbered(table: Map, count: int) -> tuple[Any, Any]:
    """Keys and values 0 to count - 1; a per-CPU value has one more in each slot."""
    keys, values = arrays(table, count)
    at = 4 if table.spec.type == "lpm_trie" else 0
    keys[:, at : at + 4] = np.arange(count, dtype=">u4" if at else "<u4").view("u1").reshape(-1, 4)
    keys[:, :at] = [32, 0, 0, 0][:at]
    numbers = np.arange(count, dtype="<u8")[:, np.newaxis]
    if values.shape[1] > table.spec.value_size:
        slots(values, np.dtype("<u8"))[:] = numbers + np.arange(possible_cpus(), dtype="<u8")
    else:
        values[:] = numbers.view("u1")
    return keys, values


@pytest.mark.parametrize("kind", [*HASHES, "lpm_trie"])
@pytest.mark.parametrize("operation", ["take_batch", "lookup_batch"])
def test_batches(tables: Tables, kind: str, operation: str) -> None:
    """Written in one call, every element comes out once, in several; a take leaves nothing."""
    table = tables.make(kind, 8, 8, 20_000)
    keys, values = numbered(table, 1000)
    table.update_batch(keys, values)
    room, seen, calls, cursor = arrays(table, 300), {}, 0, BatchCursor()
    while not cursor.done:
        rows = getattr(table, operation)(*room, cursor)
        pairs = zip(room[0][:rows], room[1][:rows], strict=True)
        seen.update({key.tobytes(): value.tobytes() for key, value in pairs})
        calls += 1
    expected = zip(keys, values, strict=True)
    assert seen == {key.tobytes(): value.tobytes() for key, value in expected}
    assert calls >= 4
    left = 0 if operation == "take_batch" else 1000
    assert len(list(table.keys())) == left


@pytest.mark.parametrize("kind", ["array", "percpu_array"])
def test_arrays_in_batches(tables: Tables, kind: str) -> None:
    """All elements are read, also those never written; none can be taken."""
    table = tables.make(kind, 4, 8, 100)
    keys, values = numbered(table, 50)
    table.update_batch(keys, values)
    room = arrays(table, 64)
    cursor, found = BatchCursor(), []
    while not cursor.done:
        rows = table.lookup_batch(*room, cursor)
        found += room[1][:rows, 0].tolist()
    assert found == [*range(50), *[0] * 50]
    with pytest.raises(BpfError) as caught:
        table.take_batch(*room, BatchCursor())
    assert caught.value.errno == errno.EINVAL


def test_sums_of_a_batch(tables: Tables) -> None:
    """Values of a batch as entries by possible CPUs, and summed."""
    table = tables.make("percpu_hash", 8, 8, 100)
    table.update_batch(*numbered(table, 10))
    keys, values = arrays(table, 100)
    rows = table.lookup_batch(keys, values, BatchCursor())
    per_cpu = slots(values[:rows], np.dtype("<u8"))
    assert per_cpu.shape == (10, possible_cpus())
    numbers = keys[:rows, 0].astype(int)
    cpus = possible_cpus()
    assert summed(per_cpu).tolist() == (numbers * cpus + sum(range(cpus))).tolist()


def test_batches_with_rules(tables: Tables) -> None:
    """All new, or all there: the first that is not stops it, and the error says how many were."""
    table = tables.make("hash", 8, 8, 100)
    keys, values = numbered(table, 10)
    with pytest.raises(KeyNotFound, match="0 of 10 written"):
        table.update_batch(keys, values, BPF_EXIST)
    table.insert(keys[4].tobytes(), bytes(8))
    with pytest.raises(KeyExists, match="4 of 10 written"):
        table.update_batch(keys, values, BPF_NOEXIST)
    assert len(list(table.keys())) == 5
    table.delete_batch(keys[:5])
    assert list(table.keys()) == []
    table.update_batch(keys[:3], values)
    with pytest.raises(KeyNotFound, match=r"delete from map test.*: 3 of 10 removed"):
        table.delete_batch(keys)
    assert list(table.keys()) == []


def test_a_batch_that_does_not_fit(tables: Tables) -> None:
    """What fits is written, and the error is MapFull."""
    table = tables.make("hash", 8, 8, 6)
    keys, values = numbered(table, 10)
    with pytest.raises(MapFull, match="6 of 10 written"):
        table.update_batch(keys, values)
    assert len(list(table.keys())) == 6


def test_arrays_that_do_not_fit_the_map(tables: Tables) -> None:
    """Rows of another size, in pieces, or fewer values than keys: refused before the kernel."""
    table = tables.make("hash", 8, 8)
    keys, values = arrays(table, 4)
    for wrong_keys, wrong_values in (
        (keys[:, :4], values),
        (keys, values[:, ::2]),
        (np.zeros(4, "u4"), values),
    ):
        with pytest.raises(ValueError, match="contiguous rows of 8 octets"):
            table.lookup_batch(wrong_keys, wrong_values, BatchCursor())
    with pytest.raises(ValueError, match="values has 2 rows, keys 4"):
        table.update_batch(keys, values[:2])


def test_empty_batches(tables: Tables) -> None:
    """Nothing to write is written, and an empty map is done at once."""
    table = tables.make("hash", 8, 8)
    keys, values = arrays(table, 4)
    table.update_batch(keys[:0], values[:0])
    table.delete_batch(keys[:0])
    cursor = BatchCursor()
    assert (table.take_batch(keys, values, cursor), cursor.done) == (0, True)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_the_kernel_has_is_remembered(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One question for each type and operation; an array has no take and no delete."""
    monkeypatch.setattr(batches, "_remembered", {})
    asked = []
    call = Map._call_batch

    def count(self: Map, batch: batches.Batch) -> tuple[int, int]:
        asked.append((self.spec.type, batch.operation))
        return call(self, batch)

    monkeypatch.setattr(Map, "_call_batch", count)
    with Map.create(spec("hash")) as one, Map.create(spec("hash")) as other:
        assert one.supports(operation) == other.supports(operation) is True
    with Map.create(spec("array")) as array:
        for _ in range(2):
            assert array.supports(operation) == (operation in ("lookup", "update"))
    assert asked == [("hash", operation), ("array", operation)]


def test_no_answer_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that the kernel did not answer is asked again."""
    monkeypatch.setattr(batches, "_remembered", {})
    table = Map.create(spec("hash"))
    table.close()
    assert table.supports("take")
    assert batches._remembered == {}
    with pytest.raises(BpfError) as caught:
        table.take_batch(np.zeros((1, 4), "u1"), np.zeros((1, 8), "u1"), BatchCursor())
    assert caught.value.errno == errno.EBADF


def test_a_walk_has_an_end(tables: Tables) -> None:
    """Keys that are made as fast as they are deleted end the walk in an error, not never."""
    table = tables.make("hash", 4, 4, 4)
    fresh = itertools.count()

    def renew() -> None:
        for key in table:
            table.delete(key)
        for _ in range(3):
            table.insert(next(fresh), 0)

    renew()
    reading = iter(table)
    for _ in range(4 * 4):
        next(reading)
        renew()
    with pytest.raises(DumpIncomplete, match="walk map test"):
        next(reading)


def test_wide_keys_in_batches(tables: Tables) -> None:
    """A key of 20 octets is where a trie's batch goes on: the cursor has room for all of it."""
    table = tables.make("lpm_trie", 20, 4, 100)
    keys, values = np.zeros((50, 20), np.uint8), np.zeros((50, 4), np.uint8)
    keys[:, 0], keys[:, 19], values[:, 0] = 128, range(50), range(50)
    table.update_batch(keys, values)
    cursor, seen = BatchCursor(), []
    room = arrays(table, 7)
    while not cursor.done:
        rows = table.lookup_batch(*room, cursor)
        seen += room[0][:rows, 19].tolist()
    assert sorted(seen) == list(range(50))
    if batches._remembered.get(("lpm_trie", "lookup")) and tables.kind is Map:
        assert [len(position) for position in cursor._positions] == [20, 20]


def test_nothing_is_left_open(tmp_path: Path) -> None:
    """A hundred maps made, opened again, cloned, pinned and refused leave no descriptor."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with bpf_file_system(tmp_path / "bpf") as directory:
        for _ in range(100):
            with Map.create(spec("array")) as table, table.clone() as copy:
                copy.pin(directory / "test")
                with Map.from_id(table.info().id), Map.from_path(directory / "test"):
                    pass
                outer = MapSpec("outer", "array_of_maps", 0, 0, 1, inner=spec("hash"))
                with Map.create(outer) as outside, pytest.raises(BpfError):
                    outside.upsert(0, table)
                with Map.create(spec("sk_storage", 4, 8, 0)):
                    pass
                (directory / "test").unlink()
                with pytest.raises(BpfError):
                    Map.create(spec("hash", 4, 1 << 31))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_pinned_program(tmp_path: Path) -> None:
    """A pin of something else than a map is refused, and not left open."""
    with bpf_file_system(tmp_path / "bpf") as directory:
        with Object.load(ObjectSpec.open(OBJECT_PATH)) as loaded:
            program = next(iter(loaded.programs.values()))
            _libbpf.library().bpf_obj_pin(program.fd, os.fsencode(directory / "program"))
        with pytest.raises(BpfError, match="it is not a map"):
            Map.from_path(directory / "program")
