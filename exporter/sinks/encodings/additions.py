"""
What enrichment added, as parts of templates: each entity that rows have is written once, and rows
look it up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from exporter.batch.attributes import SHARED, Attribute, Entities, Value, known
from exporter.batch.batch import FlowBatch
from exporter.sinks.encodings import cells
from exporter.sinks.encodings.cells import Cells
from exporter.sinks.encodings.template import Holes, Masks, Part

#: What is known of one entity, or of one row.
Known = Mapping[Attribute, Value]
#: By attribute, the values of some entities, one each.
Values = Mapping[Attribute, Sequence[Value]]
#: What is written of entities, one text each; empty where nothing is known.
Write = Callable[[Values], list[bytes]]


def nested(known_: Known) -> dict[str, Any]:
    """
    Values at their paths.

    A label may be called as the beginning of another, ``app`` and ``app.name``: what has no object
    of its own then keeps the rest of its path as its key, and what stands where an object is has a
    dot behind it.
    """
    tree: dict[str, Any] = {}
    for attribute, value in known_.items():
        names = attribute.otel.split(".")
        place = tree
        while len(names) > 1 and isinstance(place.setdefault(names[0], {}), dict):
            place = place[names.pop(0)]
        last = ".".join(names)
        place[f"{last}." if last in place else last] = value
    return tree


def flat(known_: Known) -> dict[str, Any]:
    """Values by their NetObserv keys; those without one are left out."""
    return {what.netobserv: value for what, value in known_.items() if what.netobserv}


class _Written(threading.local):
    """
    What was written of entities last, for each format: a batch is encoded some rows at a time, and
    what an enricher knows is often the same in the next batch. Each sink has a thread of its own.
    """

    def __init__(self) -> None:
        self._last: dict[Any, tuple[tuple[Sequence[Value], ...], list[bytes | None]]] = {}

    def texts(self, key: Any, some: Values, used: NDArray[np.int64], write: Write) -> list[bytes]:
        """
        Of the entities that are used.

        Args:
            key: Of the format and its part.
            some: Of all entities.
            used: Numbers of those that are asked for.
            write: For those that were not written yet.
        """
        columns = tuple(some.values())
        # Values are never changed: the same objects are the same values.
        before, texts = self._last.get(key, ((), []))
        if len(before) != len(columns) or any(map(_differ, before, columns)):
            texts = [None] * len(columns[0])
            self._last[key] = columns, texts
        numbers: list[int] = used.tolist()
        missing = [number for number in numbers if texts[number] is None]
        if missing:
            chosen = {what: [column[n] for n in missing] for what, column in some.items()}
            for number, text in zip(missing, write(chosen), strict=True):
                texts[number] = text
        return [texts[number] or b"" for number in numbers]


def _differ(one: object, other: object) -> bool:
    return one is not other


_written = _Written()


def entity_texts(
    some: Entities, of: Iterable[Attribute], key: str, write: Write
) -> tuple[list[bytes], NDArray[np.uint32]]:
    """
    What a format writes of the entities that rows have.

    Args:
        some: Of all rows that will be asked for.
        of: Some of its attributes, one at least.
        key: Of the format and its part; the same for the same ``write``.
        write: Given values of the chosen attributes.

    Returns:
        Texts, one at least, and which of them each entity has, shape (entities,).
    """
    values = {what: some.values[what] for what in of}
    used, place = some.used()
    texts = _written.texts((key, *values), values, used, write)
    return texts or [b""], place


class Additions:
    """
    The holes of a batch's additions, and where they stand.

    Args:
        batch: Whose rows will be asked for, some at a time.
        form: What the format writes.
    """

    def __init__(self, batch: FlowBatch, form: Form) -> None:
        self.parts: dict[str, list[Part]] = {place: [] for place in (*form.places, "")}
        self.holes: dict[str, Callable[[FlowBatch], Cells]] = {}
        self.masks: dict[str, Callable[[FlowBatch], Any]] = {}
        for number, some in enumerate(batch.entities):
            for place in self.parts:
                self._entities(number, some, place, form)
        for number, attribute in enumerate(batch.added):
            self._added(number, attribute, form)

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

    def _entities(self, number: int, some: Entities, place: str, form: Form) -> None:
        here = [what for what in some.values if _place(what, self.parts) == place]
        if not here:
            return
        texts, where = entity_texts(
            some, here, f"{form.name} {place}", lambda values: form.write(values, place)
        )
        table = cells.table(texts)
        name = f"entities{number}_{place}"
        self.holes[name] = lambda rows: cells.look_up(table, where[rows.entities[number].rows])
        self.parts[place].append(f"<{name}>")

    def _added(self, number: int, attribute: Attribute, form: Form) -> None:
        place = _place(attribute, self.parts)
        text = form.member(attribute, place)
        if not text:
            return
        name = f"added{number}"
        self.holes[name] = lambda rows: _cells(rows.added[attribute], form)
        self.masks[name] = lambda rows: known(rows.added[attribute])
        self.parts[place].append((name, text.replace("{}", f"<{name}>")))


class Form:
    """
    How a format writes what was added.

    Args:
        name: Of the format, unique.
        places: Objects of the record; additions that are in none of them stand in ``""``.
        write: The members of entities in one of the places, with a separator before each.
        member: An added column's member around its value, as a template with ``{}`` for it; empty
            if the format has none.
        text: Cells of added text as the format writes it.
    """

    def __init__(
        self,
        name: str,
        places: tuple[str, ...],
        write: Callable[[Values, str], list[bytes]],
        member: Callable[[Attribute, str], str],
        text: Callable[[Cells], Cells] = lambda column: column,
    ) -> None:
        self.name = name
        self.places = places
        self.write = write
        self.member = member
        self.text = text


def _place(attribute: Attribute, places: Mapping[str, Any]) -> str:
    head = attribute.otel.partition(".")[0]
    return head if head in places else ""


def _cells(column: Any, form: Form) -> Cells:
    if column.dtype.kind == "S":
        return form.text(
            np.ascontiguousarray(column).view(np.uint8).reshape(-1, column.dtype.itemsize)
        )
    return cells.decimals(column)


def joined(
    values: Values, member: Callable[[Attribute, Sequence[Value]], list[bytes]]
) -> list[bytes]:
    """
    Members that stand side by side, joined for each entity.

    Args:
        values: Of entities.
        member: Those of one attribute, one text each; empty where it is unknown.
    """
    columns = [member(attribute, column) for attribute, column in values.items()]
    return list(map(b"".join, zip(*columns, strict=True)))


def _json(values: Sequence[Value]) -> list[bytes]:
    """Each as JSON. One call for all: none has a line feed, for JSON escapes it."""
    return orjson.dumps(values, option=orjson.OPT_INDENT_2)[4:-2].split(b",\n  ")


def _are_known(values: Sequence[Value]) -> list[bool]:
    return [value is not None and value != "" for value in values]


def _nested_members(values: Values, place: str) -> list[bytes]:
    """As :func:`nested`, for all at once: those that have the same attributes are alike."""
    patterns: dict[tuple[bool, ...], tuple[bytes, list[int]]] = {}
    attributes = tuple(values)
    columns = [_json(column) for column in values.values()]
    having = [_are_known(column) for column in values.values()]
    texts = []
    for row, has in zip(zip(*columns, strict=True), zip(*having, strict=True), strict=True):
        pattern = patterns.get(has)
        if pattern is None:
            pattern = patterns[has] = _pattern(attributes, has, place)
        text, order = pattern
        texts.append(text % tuple([row[number] for number in order]))
    return texts


def _pattern(
    attributes: tuple[Attribute, ...], has: tuple[bool, ...], place: str
) -> tuple[bytes, list[int]]:
    """Members of the attributes that are there, with holes, and whose value goes into each."""
    numbers = {what: number for number, what in enumerate(attributes)}
    tree = nested({what: numbers[what] for what in compress(attributes, has)})
    chosen = tree.get(place, {}) if place else _without_shared(tree)
    order: list[int] = []
    text = _members(chosen, order)
    return (b"," + text if text else b""), order


def _members(tree: dict[str, Any], order: list[int]) -> bytes:
    members = []
    for name, value in tree.items():
        key = orjson.dumps(name).replace(b"%", b"%%")
        if isinstance(value, dict):
            members.append(key + b":{" + _members(value, order) + b"}")
        else:
            order.append(value)
            members.append(key + b":%b")
    return b",".join(members)


def _nested_member(attribute: Attribute, place: str) -> str:
    names = attribute.otel.split(".")[1 if place else 0 :]
    value = "{}" if attribute.number else '"{}"'
    opening = ":{".join(orjson.dumps(name).decode() for name in names)
    return f",{opening}:{value}{'}' * (len(names) - 1)}"


def _flat_members(values: Values, _place: str) -> list[bytes]:
    def member(attribute: Attribute, column: Sequence[Value]) -> list[bytes]:
        if not attribute.netobserv:
            return [b""] * len(column)
        key = b"," + orjson.dumps(attribute.netobserv) + b":"
        texts = zip(_json(column), _are_known(column), strict=True)
        return [key + text if has else b"" for text, has in texts]

    return joined(values, member)


def _flat_member(attribute: Attribute, _place: str) -> str:
    value = "{}" if attribute.number else '"{}"'
    return f',"{attribute.netobserv}":{value}' if attribute.netobserv else ""


#: Members of the nested JSON record, in its shared objects and after all.
JSON_NESTED = Form("json", SHARED, _nested_members, _nested_member)
#: Members of the flat JSON record, after all.
JSON_FLAT = Form("flat json", (), _flat_members, _flat_member)


def _without_shared(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name not in SHARED}
