"""Names of the interfaces at which flows were seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from exporter.batch.attributes import Attribute
from exporter.batch.batch import FlowBatch, Interface, Point
from exporter.enrich.base import Local


class InterfaceNames(Local):
    """
    Looks each observation point up once per batch.

    Args:
        names: Gives (namespace number, ifindex) -> interface, as of now.
    """

    name = "interfaces"
    requires: tuple[str, ...] = ("point_lists",)
    provides: tuple[str, ...] = ("interfaces",)
    attributes: tuple[Attribute, ...] = ()

    def __init__(self, names: Callable[[], Mapping[tuple[int, int], Interface]]) -> None:
        self._names = names

    def apply(self, batch: FlowBatch) -> FlowBatch:
        """Add the names. A point without one keeps its index as its name."""
        names = self._names()
        found: dict[Point, Interface] = {}
        for points in batch.point_lists:
            for point in points:
                interface = names.get((point.netns, point.ifindex))
                if interface is not None:
                    found[point] = interface
        return replace(batch, interfaces=found)
