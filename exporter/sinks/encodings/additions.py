"""What enrichment added, as parts of templates: each entity is written once, rows look it up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import orjson

from exporter.batch.attributes import SHARED, Attribute, Entities, Value, known
from exporter.batch.batch import FlowBatch
from exporter.sinks.encodings import cells
from exporter.sinks.encodings.cells import Cells
from exporter.sinks.encodings.template import Holes, Masks, Part

#: What is known of one entity, or of one row.
Known = Mapping[Attribute, Value]


def nested(known_: Known) -> dict[str, Any]:
    """Values at their paths."""
    tree: dict[str, Any] = {}
    for attribute, value in known_.items():
        *above, last = attribute.otel.split(".")
        place = tree
        for name in above:
            place = place.setdefault(name, {})
        place[last] = value
    return tree


def flat(known_: Known) -> dict[str, Any]:
    """Values by their NetObserv keys; those without one are left out."""
    return {what.netobserv: value for what, value in known_.items() if what.netobserv}


class Additions:
    """
    The holes of a batch's additions, and where they stand.

    Args:
        batch: Whose rows will be asked for, some at a time.
        places: Objects of the record; additions that are in none of them stand in ``""``.
        write: The members of an entity in one of the places, with a separator before each; empty
            if it has none there.
        member: An added column's member around its value, as a template with ``{}`` for it.
    """

    def __init__(
        self,
        batch: FlowBatch,
        places: tuple[str, ...],
        write: Callable[[Known, str], bytes],
        member: Callable[[Attribute, str], str],
    ) -> None:
        self.parts: dict[str, list[Part]] = {place: [] for place in (*places, "")}
        self.holes: dict[str, Callable[[FlowBatch], Cells]] = {}
        self.masks: dict[str, Callable[[FlowBatch], Any]] = {}
        for number, some in enumerate(batch.entities):
            for place in self.parts:
                self._entities(number, some, place, write)
        for number, attribute in enumerate(batch.added):
            self._added(number, attribute, member)

    def within(self, parts: Iterable[Part | tuple[str]]) -> Iterator[Part]:
        """A format's parts with the additions at their places, which are written ``(place,)``."""
        for part in parts:
            if isinstance(part, tuple) and len(part) == 1:
                yield from self.parts[part[0]]
            else:
                yield part

    def all_holes(self, holes: Holes) -> Holes:
        """With those of a format."""
        return {**holes, **self.holes}

    def all_masks(self, masks: Masks) -> Masks:
        """With those of a format."""
        return {**masks, **self.masks}

    def _entities(
        self, number: int, some: Entities, place: str, write: Callable[[Known, str], bytes]
    ) -> None:
        if not any(_place(attribute, self.parts) == place for attribute in some.values):
            return
        texts = cells.table([write(one, place) for one in some.each()])
        name = f"entities{number}_{place}"
        self.holes[name] = lambda rows: cells.look_up(texts, rows.entities[number].rows)
        self.parts[place].append(f"<{name}>")

    def _added(self, number: int, attribute: Attribute, member: Callable[..., str]) -> None:
        place = _place(attribute, self.parts)
        text = member(attribute, place)
        if not text:
            return
        name = f"added{number}"
        self.holes[name] = lambda rows: _cells(rows.added[attribute])
        self.masks[name] = lambda rows: known(rows.added[attribute])
        self.parts[place].append((name, text.replace("{}", f"<{name}>")))


def _place(attribute: Attribute, places: Mapping[str, Any]) -> str:
    head = attribute.otel.partition(".")[0]
    return head if head in places else ""


def _cells(column: Any) -> Cells:
    if column.dtype.kind == "S":
        return np.ascontiguousarray(column).view(np.uint8).reshape(len(column), -1)
    return cells.decimals(column)


def json_nested(batch: FlowBatch) -> Additions:
    """Members of the nested JSON record, in its shared objects and after all."""

    def write(known_: Known, place: str) -> bytes:
        tree = nested(known_)
        chosen = tree.get(place, {}) if place else _without_shared(tree)
        return b"," + orjson.dumps(chosen)[1:-1] if chosen else b""

    def member(attribute: Attribute, place: str) -> str:
        names = attribute.otel.split(".")[1 if place else 0 :]
        value = "{}" if attribute.number else '"{}"'
        opening = ":{".join(f'"{name}"' for name in names)
        return f",{opening}:{value}{'}' * (len(names) - 1)}"

    return Additions(batch, SHARED, write, member)


def json_flat(batch: FlowBatch) -> Additions:
    """Members of the flat JSON record, after all."""

    def write(known_: Known, _place: str) -> bytes:
        chosen = flat(known_)
        return b"," + orjson.dumps(chosen)[1:-1] if chosen else b""

    def member(attribute: Attribute, _place: str) -> str:
        value = "{}" if attribute.number else '"{}"'
        return f',"{attribute.netobserv}":{value}' if attribute.netobserv else ""

    return Additions(batch, (), write, member)


def _without_shared(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name not in SHARED}
