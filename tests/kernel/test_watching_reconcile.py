"""Maps of the kernel made into what a desired table says."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from exporter.ebpf.cache import CachedMap
from exporter.ebpf.errors import BpfError, KeyNotFound
from exporter.ebpf.events import Action, EventRing
from exporter.ebpf.maps import Map
from exporter.ebpf.reconcile import Changes, Pair, Reconciler
from exporter.ebpf.registry import Registry
from exporter.ebpf.table import Table, collect_keys
from exporter.ebpf.watched import WatchedMap
from tests.kernel.watched_maps import NO_PREALLOC, content, kernel_map, number, prefix

SIMILAR = ("192.0.2.0/32", "192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32")


@dataclass(frozen=True)
class Label:
    """A row: a network and its label."""

    network: str
    label: int


def encode(row: Label) -> Pair:
    return prefix(row.network), number(row.label)


WRAPPERS: list[Callable[[Map], Table]] = [lambda table: table, WatchedMap, CachedMap]


@pytest.mark.parametrize("wrap", WRAPPERS, ids=["plain", "watched", "cached"])
def test_prune_similar_prefixes(wrap: Callable[[Map], Table]) -> None:
    """Of four similar /32 of a trie, pruned by an empty table, none is left."""
    with kernel_map("lpm_trie", 8, 4, 16, NO_PREALLOC) as table:
        reconciler = Reconciler(wrap(table), encode)
        for text in SIMILAR:
            table.update(prefix(text), number(1))
        assert reconciler.prune([]) == 4
        assert content(table) == {}


def test_prune_leaves_what_is_desired() -> None:
    """A prefix and those within it are told apart."""
    with kernel_map("lpm_trie", 8, 4, 16, NO_PREALLOC) as table:
        for text in (*SIMILAR, "192.0.2.0/24", "192.0.2.0/30"):
            table.update(prefix(text), number(1))
        stay = [Label("192.0.2.0/24", 0), Label("192.0.2.2/32", 0)]
        assert Reconciler(table, encode).prune(stay) == 4
        assert content(table) == {encode(row)[0]: number(1) for row in stay}


def test_collect_keys_of_a_full_map() -> None:
    """Every key once, and the walk ends, also where the map is as full as it can be."""
    with kernel_map("hash", 4, 4, 300) as table:
        for key in range(300):
            table.update(number(key), number(0))
        found, complete = collect_keys(table)
        assert sorted(found) == sorted(map(number, range(300)))
        assert complete


def test_full_pass() -> None:
    """It writes what differs, removes what is not desired, and changes nothing a second time."""
    with kernel_map("lpm_trie", 8, 4, 4, NO_PREALLOC) as table:
        reconciler = Reconciler(table, encode)
        for row in (Label("10.0.0.0/8", 1), Label("10.1.0.0/16", 2), Label("192.0.2.0/24", 3)):
            reconciler.update(row)
        desired = [Label("10.0.0.0/8", 1), Label("10.1.0.0/16", 7), Label("0.0.0.0/0", 9)]
        assert reconciler.reconcile(desired) == Changes(written=2, removed=1, unchanged=1)
        assert content(table) == dict(map(encode, desired))
        assert reconciler.reconcile(desired) == Changes(written=0, removed=0, unchanged=3)


@pytest.mark.parametrize("wrap", WRAPPERS, ids=["plain", "watched", "cached"])
def test_a_covering_prefix_is_another_row(wrap: Callable[[Map], Table]) -> None:
    """A prefix within one of the same value is missing, although a lookup of it succeeds."""
    with kernel_map("lpm_trie", 8, 4, 8, NO_PREALLOC) as table:
        reconciler = Reconciler(wrap(table), encode)
        outer, inner, innermost = (
            Label(network, 1) for network in ("10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24")
        )
        reconciler.update(outer)
        assert table.lookup(encode(inner)[0]) == number(1)
        assert [reconciler.ensure(inner), reconciler.ensure(inner)] == [True, False]
        assert reconciler.reconcile([outer, inner, innermost]) == Changes(1, 0, 2)
        assert content(table) == dict(map(encode, (outer, inner, innermost)))


@pytest.mark.parametrize("kind", ["hash", "lpm_trie"])
def test_full_pass_over_a_full_map(kind: str) -> None:
    """Two rows of two are replaced although there is never room for three."""
    flags = NO_PREALLOC if kind == "lpm_trie" else 0
    with kernel_map(kind, 8, 4, 2, flags) as table:
        reconciler = Reconciler(table, encode)
        assert reconciler.reconcile([Label("10.0.0.0/8", 1), Label("10.1.0.0/16", 2)]).written == 2
        replaced = [Label("192.0.2.0/24", 3), Label("198.51.100.0/24", 4)]
        assert reconciler.reconcile(replaced) == Changes(written=2, removed=2, unchanged=0)
        assert content(table) == dict(map(encode, replaced))


def test_ensure_and_delete() -> None:
    """Ensure says whether it wrote; delete of what is not there is fine."""
    with kernel_map("hash", 8, 4, 2) as table:
        reconciler, row = Reconciler(table, encode), Label("10.0.0.0/8", 1)
        assert [reconciler.ensure(row), reconciler.ensure(row)] == [True, False]
        reconciler.delete(row)
        reconciler.delete(row)
        with pytest.raises(KeyNotFound):
            table.lookup(encode(row)[0])


@pytest.mark.parametrize("wrap", WRAPPERS, ids=["plain", "watched", "cached"])
def test_a_closed_map(wrap: Callable[[Map], Table]) -> None:
    """Nothing can be done to a map that is closed, and each operation says so."""
    with kernel_map("hash", 8, 4, 2) as table, ExitStack() as stack:
        target = wrap(table)
        if isinstance(target, CachedMap):
            stack.enter_context(target)
        reconciler, row = Reconciler(target, encode), Label("10.0.0.0/8", 1)
        table.close()
        operations: list[Callable[[], object]] = [
            lambda: reconciler.delete(row),
            lambda: reconciler.ensure(row),
            lambda: reconciler.prune([]),
            lambda: reconciler.reconcile([row]),
        ]
        for operation in operations:
            with pytest.raises(BpfError, match="EBADF"):
                operation()


def test_errors_of_an_array_are_joined() -> None:
    """An array cannot delete: pruning tells of each element."""
    with kernel_map("array", 4, 4, 3) as table:
        reconciler = Reconciler[Pair](table, lambda row: row)
        with pytest.raises(ExceptionGroup) as caught:
            reconciler.prune([(number(1), b"")])
        assert [err.errno for err in caught.value.exceptions if isinstance(err, BpfError)] == [
            errno.EINVAL,
            errno.EINVAL,
        ]


def test_through_cache_and_registry() -> None:
    """What is reconciled is in the cache, in the events, and in the model of the open map."""
    events, registry = EventRing(10), Registry()
    with (
        kernel_map("hash", 8, 4, 4) as table,
        CachedMap(table, events=events) as cached,
        registry.opened(cached),
    ):
        table.update(prefix("192.0.2.0/24"), number(3))
        Reconciler(cached, encode).reconcile([Label("10.0.0.0/8", 1)])
        assert [(event.action, event.key) for event in events.dump()] == [
            (Action.UPDATE, prefix("10.0.0.0/8")),
            (Action.DELETE, prefix("192.0.2.0/24")),
        ]
        (model,) = registry.models()
        assert model.document()["cache"] == [
            {
                "key": "080000000a000000",
                "value": "01000000",
                "desired_action": "sync",
                "last_error": "",
            }
        ]
        assert registry.get("test") is cached
