"""
What all enrichers there are can add, whether they are asked for or not: for the reference, for what
people mistype, and for what comes back from a topic.

An attribute shows up here by being in this room: under a name of its own in a module, in a tuple or
mapping there, or among a class's ``attributes``. What only a configuration decides, such as a
user's own labels, an enricher has in its ``attributes`` once it is made: see
``table.attributes_of``.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from exporter import enrich
from exporter.batch.attributes import SIDES, Attribute, EndAttribute, Value

Described = EndAttribute | Attribute


@functools.cache
def known() -> dict[str, tuple[Described, ...]]:
    """By the module or package of this room that has them; each once, in its order there."""
    found: dict[Described, str] = {}
    for info in pkgutil.walk_packages(enrich.__path__, f"{enrich.__name__}."):
        room = info.name.removeprefix(f"{enrich.__name__}.").partition(".")[0]
        module = importlib.import_module(info.name)
        for thing in vars(module).values():
            for one in _within(thing):
                found.setdefault(one, room)
    by_room: dict[str, tuple[Described, ...]] = {}
    for one, room in found.items():
        by_room[room] = (*by_room.get(room, ()), one)
    return by_room


@functools.cache
def known_attributes() -> tuple[Attribute, ...]:
    """Each at the ends that it is for."""
    return tuple(one for some in known().values() for one in at_ends(some))


@functools.cache
def by_name() -> dict[str, Attribute]:
    """By ``Attribute.name``."""
    return {one.name: one for one in known_attributes()}


@functools.cache
def by_any_name() -> dict[str, Attribute]:
    """By ``Attribute.name``, by path and by key of the flat record."""
    found: dict[str, Attribute] = {}
    for one in known_attributes():
        for name in (one.otel, one.netobserv, one.name):
            if name:
                found.setdefault(name, one)
    return found


def recognised(metadata: Mapping[Attribute, Value]) -> dict[Attribute, Value]:
    """
    Attributes that were read back, with all the names that they have here. What is not known keeps
    the one that it came with in every schema.
    """
    known_ = by_any_name()
    return {
        known_.get(what.otel) or replace(what, netobserv=what.netobserv or what.otel): value
        for what, value in metadata.items()
    }


def at_ends(attributes: tuple[Described, ...]) -> Iterator[Attribute]:
    """Those of ends at either end."""
    for one in attributes:
        if isinstance(one, Attribute):
            yield one
        else:
            yield from (one.of(side) for side in SIDES)


def _within(thing: Any) -> Iterator[Described]:
    if isinstance(thing, Described):
        yield thing
    elif isinstance(thing, type):
        yield from _within(vars(thing).get("attributes"))
    elif isinstance(thing, tuple):
        for one in thing:
            yield from _within(one)
    elif isinstance(thing, Mapping):
        yield from _within(tuple(thing.values()))
