"""Whole maps, read while another process changes them as fast as it can."""

from __future__ import annotations

import errno
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from exporter.ebpf import batches
from exporter.ebpf.batches import Batch
from exporter.ebpf.dump import DumpStats, _order, dump, walk
from exporter.ebpf.errors import BpfError, DumpIncomplete
from exporter.ebpf.fakes import FakeMap
from exporter.ebpf.maps import Map
from exporter.ebpf.mapspec import HASHED, MapSpec
from exporter.ebpf.values import Value
from tests.kernel.tables import spec

#: Odd keys stay; even ones come and go.
STAYING = range(1, 1000, 2)
DUMPS = 40
_CHURN = """
import sys
from exporter.ebpf.errors import KeyNotFound
from exporter.ebpf.maps import Map

with Map.from_id(int(sys.argv[1])) as table:
    width = table.spec.key_size
    length = (32).to_bytes(4, "little") if table.spec.type == "lpm_trie" else b""
    keys = [length + even.to_bytes(4, "big") for even in range(0, 1000, 2)]
    value = bytes(table.value_octets)
    print("ready", flush=True)
    while True:
        for key in keys:
            table.update(key, value)
        for key in keys:
            table.delete(key)
"""


def key_of(table: Map, number: int) -> bytes:
    length = (32).to_bytes(4, "little") if table.spec.type == "lpm_trie" else b""
    return length + number.to_bytes(4, "big")


@contextmanager
def changed(kind: str) -> Iterator[Map]:
    """A map whose even keys another process inserts and deletes."""
    size = 8 if kind == "lpm_trie" else 4
    with Map.create(spec(kind, size, 8, 1000)) as table:
        for number in STAYING:
            table.insert(key_of(table, number), number)
        churn = subprocess.Popen(
            [sys.executable, "-c", _CHURN, str(table.info().id)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert churn.stdout is not None
            assert churn.stdout.readline() == "ready\n"
            yield table
        finally:
            assert churn.poll() is None, "the other process ended by itself"
            churn.kill()
            churn.communicate()


def staying(table: Map) -> set[bytes]:
    return {key_of(table, number) for number in STAYING}


@pytest.mark.parametrize("kind", ["hash", "percpu_hash", "lpm_trie"])
@pytest.mark.parametrize("read", [dump, walk])
def test_what_stays_is_seen(read: Callable[..., Iterator[tuple[bytes, bytes]]], kind: str) -> None:
    """In every dump every key that stays, with its value, while others come and go."""
    came_and_went = 0
    with changed(kind) as table:
        for _ in range(DUMPS):
            stats = DumpStats(100 * table.spec.max_entries)
            pairs = list(read(table, stats))
            found = dict(pairs)
            assert staying(table) - set(found) == set()
            for number in STAYING:
                assert int.from_bytes(found[key_of(table, number)][:8], "little") == number
            came_and_went += len(found) - len(STAYING)
            assert stats.completed
            assert stats.lookups == len(pairs) + stats.failed_lookups
            assert stats.failed_lookups == stats.key_fallbacks + stats.interruptions
            if read is dump and kind in HASHED:
                assert len(pairs) == len(found), "a bucket is read at once: no key comes twice"
    assert came_and_went > 0, "nothing changed meanwhile"


@pytest.mark.parametrize("read", [dump, walk])
@pytest.mark.parametrize("make", [Map.create, FakeMap.create])
def test_look_ups_are_bounded(
    read: Callable[..., Iterator[tuple[bytes, bytes]]], make: Callable[[MapSpec], Map]
) -> None:
    """Four look-ups per entry that the map is said to have, then an error; never without end."""
    with make(spec("hash")) as table:
        for number in range(6):
            table.insert(number, number)
        stats = DumpStats(1)
        seen: list[tuple[bytes, bytes]] = []
        with pytest.raises(DumpIncomplete, match="not at its end after 4 look-ups"):
            seen.extend(read(table, stats))
        assert (len(seen), stats.lookups, stats.completed) == (4, 4, False)
        assert stats.finished_ns >= stats.started_ns > 0
        assert len(list(read(table, DumpStats(2)))) == 6


@pytest.mark.parametrize("read", [dump, walk])
@pytest.mark.parametrize("make", [Map.create, FakeMap.create])
def test_a_quiet_map(
    read: Callable[..., Iterator[tuple[bytes, bytes]]], make: Callable[[MapSpec], Map]
) -> None:
    """Every element once, in values of their own; statistics begin anew with each dump."""
    with make(spec("hash", 4, 8, 100)) as table:
        stats = DumpStats(100)
        assert stats.duration_ns == 0
        assert list(read(table, stats)) == []
        assert (stats.completed, stats.lookups) == (True, 0)
        for number in range(50):
            table.insert(number, 2 * number)
        for _ in range(2):
            kept = list(read(table, stats))
            assert sorted(int.from_bytes(value, "little") for _, value in kept) == [
                2 * number for number in range(50)
            ]
            assert (stats.lookups, stats.failed_lookups, stats.interruptions) == (50, 0, 0)
        assert 0 < stats.duration_ns < 10**10


@pytest.mark.parametrize("read", [dump, walk])
def test_the_first_error_is_not_lost(
    read: Callable[..., Iterator[tuple[bytes, bytes]]],
) -> None:
    """A map that cannot be read at all is an error, not an empty map."""
    table = Map.create(spec("hash"))
    table.close()
    stats = DumpStats(16)
    with pytest.raises(BpfError) as caught:
        list(read(table, stats))
    assert caught.value.errno == errno.EBADF
    assert not stats.completed


def test_back_to_the_key_before() -> None:
    """The key the walk stands on is deleted: on from the one before, or anew if that is gone."""
    with FakeMap(spec("hash")) as table:
        for number in range(4):
            table.insert(number, number)
        stats, seen = DumpStats(16), []
        for key, _ in walk(table, stats):
            seen.append(key[0])
            if seen == [0]:
                table.delete(1)
            elif seen == [0, 0, 2]:
                table.delete(2)
                table.delete(3)
        assert seen == [0, 0, 2, 0]
        assert (stats.failed_lookups, stats.key_fallbacks, stats.interruptions) == (3, 2, 1)
        assert (stats.lookups, stats.completed) == (7, True)


def test_a_trie_that_misleads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may pass over a subtree once: the nearer of two answers is taken, in order."""
    prefixes = ["0.0.0.0/8", "0.128.0.0/9", "1.0.0.0/8", "1.2.3.4/32", "0.0.0.0/0"]
    with Map.create(spec("lpm_trie", 8, 8)) as table:
        for prefix in prefixes:
            table.insert(prefix, 0)
        right = [key for key, _ in walk(table)]
        assert right == sorted(right, key=_order)
        assert len(right) == len(prefixes)
        honest, calls = table.next_key, itertools.count()

        def misled(key: Value | None = None) -> bytes | None:
            answer = honest(key)
            if key is not None and answer is not None and next(calls) % 2:
                return honest(answer)
            return answer

        monkeypatch.setattr(table, "next_key", misled)
        assert [key for key, _ in walk(table)] == right


def test_buckets_larger_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arrays grow until a bucket fits."""
    rows = []
    call = Map._call_batch

    def few(self: Map, batch: Batch) -> tuple[int, int]:
        if len(batch.keys):
            rows.append(len(batch.keys))
        return call(self, batch) if len(batch.keys) not in (1, 2) else (errno.ENOSPC, 0)

    monkeypatch.setattr("exporter.ebpf.dump._ROWS", 1)
    with Map.create(spec("hash", entries=100)) as table:
        for number in range(100):
            table.insert(number, number)
        monkeypatch.setattr(Map, "_call_batch", few)
        assert len(dict(dump(table))) == 100
    assert rows[:3] == [1, 2, 4]


def test_a_kernel_without_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dump is a walk then, chosen by what is remembered."""
    monkeypatch.setattr(batches, "_remembered", {("hash", "lookup"): False})
    with Map.create(spec("hash")) as table:
        table.insert(1, 1)
        monkeypatch.setattr(Map, "_call_batch", None)
        assert list(dump(table)) == [(b"\1\0\0\0", bytes([1, *bytes(7)]))]


def test_statistics_of_a_dump_that_is_left() -> None:
    """A caller that stops reading ends the dump's time, and it is not complete."""
    with Map.create(spec("hash")) as table:
        for number in range(3):
            table.insert(number, number)
        stats = DumpStats(16)
        reading = dump(table, stats)
        list(itertools.islice(reading, 1))
        assert stats.finished_ns == 0
        reading.close()  # type: ignore[attr-defined]
        assert 0 < stats.finished_ns <= time.monotonic_ns()
        assert not stats.completed
