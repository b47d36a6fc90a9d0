"""
Which maps are open, by name and by path, and what can be told of them.

An object of whoever opens the maps, not of the process: two of them know nothing of each other.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from exporter.ebpf.cache import CachedMap, Entry
from exporter.ebpf.errors import BpfError
from exporter.ebpf.maps import MapSpec
from exporter.ebpf.table import Table
from exporter.ebpf.watched import WatchedMap

AnyTable = TypeVar("AnyTable", bound=Table)


@dataclass(frozen=True)
class MapModel:
    """
    An open map at one moment.

    Args:
        spec: What it is.
        path: Where it is pinned; ``None`` if it is not.
        entries: What it should have, with what is still to be done; ``None`` if it is not cached.
        pressure: Its ratio if that is above the threshold, else ``None``.
    """

    spec: MapSpec
    path: Path | None
    entries: tuple[Entry, ...] | None
    pressure: float | None

    def document(self) -> dict[str, Any]:
        """As JSON can have it: octets in hexadecimal, errors as text."""
        return {
            "name": self.spec.name,
            "path": None if self.path is None else str(self.path),
            "type": self.spec.type,
            "key_size": self.spec.key_size,
            "value_size": self.spec.value_size,
            "max_entries": self.spec.max_entries,
            "flags": self.spec.flags,
            "pressure": self.pressure,
            "cache": None
            if self.entries is None
            else [
                {
                    "key": entry.key.hex(),
                    "value": entry.value.hex(),
                    "desired_action": entry.desired.value,
                    "last_error": "" if entry.error is None else str(entry.error),
                }
                for entry in self.entries
            ],
        }


class Registry:
    """Open maps. Safe to use from any thread; holds none open by itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._maps: list[tuple[Table, Path | None]] = []

    def __len__(self) -> int:
        with self._lock:
            return len(self._maps)

    def add(self, table: Table, path: Path | None = None) -> None:
        """
        Know a map from now on.

        Args:
            table: An open map, or what watches it.
            path: Where it is pinned, absolute.

        Raises:
            ValueError: If it is known already, if there is another at that path, or the path is not
                absolute.
        """
        if path is not None and not path.is_absolute():
            raise ValueError(f"{path} is not absolute")
        with self._lock:
            for known, taken in self._maps:
                if known is table or (path is not None and path == taken):
                    raise ValueError(f"map {known.spec.name} is registered already")
            self._maps.append((table, path))

    def remove(self, table: Table) -> None:
        """Forget a map. One that is not known is fine."""
        with self._lock:
            self._maps = [(known, path) for known, path in self._maps if known is not table]

    @contextlib.contextmanager
    def opened(self, table: AnyTable, path: Path | None = None) -> Iterator[AnyTable]:
        """Know a map within the block. Raises ValueError as :meth:`add`."""
        self.add(table, path)
        try:
            yield table
        finally:
            self.remove(table)

    def get(self, name: str | Path) -> Table | None:
        """
        An open map.

        Args:
            name: Its name, or the absolute path of its pin.

        Returns:
            ``None`` if there is none.

        Raises:
            BpfError: If several have the name.
        """
        with self._lock:
            maps = list(self._maps)
        if Path(name).is_absolute():
            return next((table for table, path in maps if path == Path(name)), None)
        found = [table for table, _ in maps if table.spec.name == str(name)]
        if len(found) > 1:
            raise BpfError(
                f"find map {name}", 0, f"{len(found)} open maps have this name: say which by path"
            )
        return found[0] if found else None

    def models(self) -> list[MapModel]:
        """What can be told of each open map, in the order in which they came."""
        with self._lock:
            maps = list(self._maps)
        # Outside the lock: a map's own lock may be held by a writer that waits for the kernel.
        return [model(table, path) for table, path in maps]


def model(table: Table, path: Path | None = None) -> MapModel:
    """What can be told of one map."""
    pressure = table.pressure if isinstance(table, WatchedMap) else None
    return MapModel(
        spec=table.spec,
        path=path,
        entries=tuple(table.entries()) if isinstance(table, CachedMap) else None,
        pressure=None if pressure is None else pressure.reading(),
    )
