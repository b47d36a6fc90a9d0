"""
What enrichment adds to a batch.

Most of it is about few things - pods, networks, names - that many rows refer to: :class:`Entities`
has each thing once and a number per row. What differs in nearly every row is a column of its own.
An attribute carries its names in every schema, so that an encoder needs no table of enrichers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

#: What an entity has for an attribute. ``None`` and ``""`` are unknown, and written nowhere.
Value = str | int | None

Side = Literal["source", "destination"]
#: Objects of a record that every enricher may add to.
SHARED = ("source", "destination", "network", "flow")
SIDES: tuple[Side, Side] = ("source", "destination")


@dataclass(frozen=True)
class Attribute:
    """
    Something that enrichment adds to rows.

    Args:
        otel: Path in the nested JSON record and name in OTLP, as ``source.k8s.pod.name``. Below
            ``source``, ``destination``, ``network`` and ``flow`` an enricher owns objects, as
            ``source.k8s``; any other first name belongs to one alone. All attributes of one object
            are of the same :class:`Entities`, or it is a single added column.
        meaning: One sentence.
        netobserv: Key of the flat record, as ``SrcK8S_Name``; empty for none.
        obi: Name among OBI's metric attributes, as ``k8s.src.name``; empty for none.
        ipfix: Information element, 0 for none.
        number: Values are integers; else text.
    """

    otel: str
    meaning: str
    netobserv: str = ""
    obi: str = ""
    ipfix: int = 0
    number: bool = False

    @property
    def owned(self) -> str:
        """The object that this attribute's enricher has for itself: ``source.k8s``."""
        names = self.otel.split(".")
        return ".".join(names[: 2 if names[0] in SHARED else 1])

    @property
    def name(self) -> str:
        """How configurations and Parquet call it: ``source.k8s.pod.name`` is src_k8s_pod_name."""
        head, _, rest = self.otel.partition(".")
        short = {"source": "src", "destination": "dst"}.get(head, head)
        return f"{short}.{rest}".strip(".").replace(".", "_")

    def called(self, schema: str) -> str:
        """Its name in a schema; ``otel``'s where the schema has none."""
        own = {"netobserv": self.netobserv, "obi": self.obi}.get(schema, "")
        return own or self.otel


@dataclass(frozen=True)
class EndAttribute:
    """
    Something that enrichment adds to either end of a flow.

    Args:
        path: After ``source.`` or ``destination.``, as ``k8s.pod.name``.
        meaning: One sentence about the end.
        netobserv: After ``Src`` or ``Dst``, as ``K8S_Name``; empty for none.
        obi: With ``{}`` where ``src`` or ``dst`` stands, as ``k8s.{}.name``; empty for none.
        number: Values are integers; else text.
        ipfix: Information elements of the source and of the destination, 0 for none.
    """

    path: str
    meaning: str
    netobserv: str = ""
    obi: str = ""
    number: bool = False
    ipfix: tuple[int, int] = (0, 0)

    def of(self, side: Side) -> Attribute:
        """The attribute of one end."""
        short = {"source": "src", "destination": "dst"}[side]
        return Attribute(
            otel=f"{side}.{self.path}",
            meaning=self.meaning,
            netobserv=f"{short.capitalize()}{self.netobserv}" if self.netobserv else "",
            obi=self.obi.format(short),
            ipfix=self.ipfix[SIDES.index(side)],
            number=self.number,
        )


@dataclass(frozen=True)
class Entities:
    """
    Things that rows refer to.

    Args:
        rows: uint32, shape (n,): which one each row has; 0 is the one of which nothing is known.
        values: By attribute, one value for each entity, equally many; those of entity 0 are
            unknown.
    """

    rows: NDArray[np.uint32]
    values: Mapping[Attribute, tuple[Value, ...]]

    def __len__(self) -> int:
        """How many entities there are, the unknown one among them."""
        return max(map(len, self.values.values()), default=1)

    def take(self, rows: NDArray[Any] | slice) -> Entities:
        """The same things for some of the rows."""
        return Entities(self.rows[rows], self.values)

    def used(self) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """
        The entities that rows have, each once: of many that there are, few may be.

        Returns:
            Their numbers, ascending.
            Which of these each entity is, shape (entities,); 0 for those that no row has.
        """
        there = np.zeros(len(self), np.bool_)
        there[self.rows] = True
        used = np.flatnonzero(there)
        place = np.zeros(len(self), np.uint32)
        place[used] = np.arange(len(used), dtype=np.uint32)
        return used, place

    def each(self) -> Iterator[dict[Attribute, Value]]:
        """Every entity with what is known of it, in order."""
        for values in zip(*self.values.values(), strict=True):
            known = zip(self.values, values, strict=True)
            yield {attribute: value for attribute, value in known if value not in (None, "")}


#: Of one attribute, for every row, shape (n,): unsigned integers, or ``S`` text of any width, in
#: ASCII that no format has to quote or escape. Empty text is unknown; an integer is always known.
Column = NDArray[Any]


def known(column: Column) -> NDArray[np.bool_]:
    """Which rows have a value, bool, shape (n,)."""
    if column.dtype.kind == "S":
        return np.asarray(column != b"")
    return np.ones(len(column), np.bool_)
