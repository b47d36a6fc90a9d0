"""
What all enrichers there are can add, whether they are asked for or not: for the reference, for what
people mistype, and for what comes back from a topic.

An enricher shows up here by being in this room: a class with ``attributes``, and ``look_up`` or
``apply``. What only a configuration decides, such as a user's own labels, an enricher has in its
``attributes`` once it is made: see ``table.attributes_of``.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator

from exporter import enrich
from exporter.batch.attributes import SIDES, Attribute, EndAttribute


@functools.cache
def known() -> tuple[tuple[str, tuple[EndAttribute | Attribute, ...]], ...]:
    """Enrichers that add attributes, by the names of their classes' modules, in order."""
    found = []
    for module in _modules(enrich.__path__, f"{enrich.__name__}."):
        for thing in vars(importlib.import_module(module)).values():
            if not isinstance(thing, type) or thing.__module__ != module:
                continue
            attributes = vars(thing).get("attributes")
            can = hasattr(thing, "look_up") or hasattr(thing, "apply")
            if can and isinstance(attributes, tuple) and attributes:
                found.append((str(getattr(thing, "name", thing.__name__)), attributes))
    return tuple(found)


@functools.cache
def known_attributes() -> tuple[Attribute, ...]:
    """Each at the ends that it is for, once."""
    return tuple(dict.fromkeys(one for _, some in known() for one in at_ends(some)))


@functools.cache
def by_name() -> dict[str, Attribute]:
    """By ``Attribute.name``."""
    return {one.name: one for one in known_attributes()}


def at_ends(attributes: tuple[EndAttribute | Attribute, ...]) -> Iterator[Attribute]:
    """Those of ends at either end."""
    for one in attributes:
        if isinstance(one, Attribute):
            yield one
        else:
            yield from (one.of(side) for side in SIDES)


def _modules(paths: list[str], prefix: str) -> Iterator[str]:
    for info in pkgutil.walk_packages(paths, prefix):
        yield info.name
