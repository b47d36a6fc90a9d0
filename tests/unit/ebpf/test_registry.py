"""Open maps by name and by path."""

from __future__ import annotations

import errno
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.ebpf.cache import CachedMap
from exporter.ebpf.errors import BpfError
from exporter.ebpf.pressure import Pressure
from exporter.ebpf.registry import MapModel, Registry
from exporter.ebpf.retry import RetryPolicy
from exporter.ebpf.watched import WatchedMap
from tests.unit.ebpf.tables import SPEC, MemoryTable

PIN = Path("/sys/fs/bpf/test/numbers")


def test_get() -> None:
    """A map is found by its name and by its path, until it is removed."""
    registry, table = Registry(), MemoryTable()
    registry.add(table, PIN)
    assert registry.get("numbers") is table
    assert registry.get(PIN) is table
    assert registry.get(str(PIN)) is table
    assert registry.get("others") is None
    assert registry.get("/sys/fs/bpf/numbers") is None
    registry.remove(table)
    registry.remove(table)
    assert registry.get("numbers") is None
    assert len(registry) == 0


def test_opened() -> None:
    """A map is known within the block, also if it ends by an error."""
    registry, table = Registry(), MemoryTable()
    with registry.opened(table) as known:
        assert registry.get("numbers") is known is table
    assert registry.get("numbers") is None
    with pytest.raises(ZeroDivisionError), registry.opened(table):
        print(1 / 0)
    assert registry.get("numbers") is None


def test_one_name_at_two_paths() -> None:
    """Maps of one name are told apart by path; the name alone is an error."""
    registry, one, other = Registry(), MemoryTable(), MemoryTable()
    registry.add(one, PIN)
    registry.add(other, PIN.with_name("others"))
    assert registry.get(PIN.with_name("others")) is other
    with pytest.raises(BpfError, match="2 open maps have this name: say which by path"):
        registry.get("numbers")


def test_what_cannot_be_added() -> None:
    """The same map, another at the same path, and a path that is not absolute are refused."""
    registry, table = Registry(), MemoryTable()
    registry.add(table, PIN)
    for wrong, path in ((table, None), (MemoryTable(), PIN)):
        with pytest.raises(ValueError, match="registered already"):
            registry.add(wrong, path)
    with pytest.raises(ValueError, match="not absolute"):
        registry.add(MemoryTable(), Path("numbers"))
    assert len(registry) == 1


def test_registries_are_apart() -> None:
    """What one knows, another does not."""
    registry = Registry()
    registry.add(MemoryTable())
    assert Registry().get("numbers") is None


def test_models() -> None:
    """A model has the path, the pressure, and each cached entry with its state and last error."""
    registry, table = Registry(), MemoryTable(1)
    plain = MemoryTable(spec=replace(SPEC, name="plain"))
    pressure = Pressure(table.spec, threshold=0.5)
    with CachedMap(table, pressure=pressure, retry=RetryPolicy(first=60)) as cached:
        registry.add(cached, PIN)
        registry.add(plain)
        registry.add(WatchedMap(MemoryTable()))
        assert registry.models()[0] == MapModel(cached.spec, PIN, (), None)
        cached.update(b"a", b"1")
        with pytest.raises(BpfError):
            cached.update(b"b", b"2")
        first, second, third = registry.models()
        assert second == MapModel(plain.spec, None, None, None)
        assert third.entries is None
        assert first.entries == tuple(cached.entries())
    document = first.document()
    assert json.loads(json.dumps(document)) == document
    assert document == {
        "name": "numbers",
        "path": str(PIN),
        "type": "hash",
        "key_size": 1,
        "value_size": 1,
        "max_entries": 1,
        "flags": 0,
        "pressure": 2.0,
        "cache": [
            {"key": "61", "value": "31", "desired_action": "sync", "last_error": ""},
            {
                "key": "62",
                "value": "32",
                "desired_action": "to-be-inserted",
                "last_error": str(BpfError("update", errno.E2BIG)),
            },
        ],
    }
    assert second.document()["cache"] is None


def test_threads() -> None:
    """Maps come and go in many threads while others look: none is lost, none stays."""
    registry = Registry()
    failures: list[threading.ExceptHookArgs] = []
    hook, threading.excepthook = threading.excepthook, failures.append

    def work(number: int) -> None:
        for turn in range(100):
            name = f"map {number} {turn}"
            with registry.opened(MemoryTable(spec=replace(SPEC, name=name))) as table:
                assert registry.get(name) is table
                assert table.spec in [model.spec for model in registry.models()]

    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        threading.excepthook = hook
    assert failures == []
    assert len(registry) == 0
