"""
How full a map is: a gauge that speaks up above a threshold.

Knows nothing of who exposes it: telemetry asks for a :meth:`Pressure.reading`.
"""

from __future__ import annotations

from exporter.ebpf.maps import MapSpec

#: They evict rather than fill up: a full one is how they always are.
_EVICTING = frozenset({"lru_hash", "lru_percpu_hash"})


class Pressure:
    """
    Entries of a map relative to its capacity.

    For a map that user space fills, :class:`exporter.ebpf.watched.WatchedMap` and
    :class:`exporter.ebpf.cache.CachedMap` keep it current; for one that the kernel fills, whoever
    counts the entries does. Safe to use from any thread.

    Args:
        spec: The map. It is judged by this once and for all, whether it is open or not.
        threshold: Readings are exposed only above this ratio.
        name: What the map is called in metrics; its own name if empty. Maps of one kind may share.
    """

    def __init__(self, spec: MapSpec, threshold: float = 0.0, name: str = "") -> None:
        self.name = name or spec.name
        self.threshold = threshold
        self.capacity = spec.max_entries
        self.evicting = spec.type in _EVICTING
        self._size = 0

    @property
    def ratio(self) -> float:
        """
        Entries by capacity. Above 1 if more are wanted than fit: some wait in the cache.
        """
        return self._size / self.capacity if self.capacity else 0.0

    def feed(self, size: int) -> None:
        """
        Say how many entries there are.

        Args:
            size: Entries; of a ring buffer, octets.
        """
        self._size = size

    def reading(self) -> float | None:
        """The ratio if it is above the threshold, else ``None``. Never of a map that evicts."""
        ratio = self.ratio
        return ratio if ratio > self.threshold and not self.evicting else None
