"""What users say of records: labels that all have, and such as are derived from what a row says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from exporter.batch.attributes import Attribute, Entities, Value
from exporter.batch.batch import FlowBatch
from exporter.batch.schema import COLUMNS
from exporter.enrich.base import Local
from exporter.enrich.expression.fields import fields
from exporter.enrich.expression.values import Text, pairs
from exporter.errors import ConfigError

if TYPE_CHECKING:
    from exporter.enrich.expression.program import Program

_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
#: Keys of the flat record, which no label may be called.
_TAKEN = frozenset(column.netobserv for column in COLUMNS) | {
    *("Etype", "TimeReceived", "AgentIP", "Udns", "IcmpType", "IcmpCode", "TimeFlowStartMs"),
    *("TimeFlowEndMs", "IfDirections"),
}


class DerivedConfig(BaseModel):
    """
    One entry of the ``enrich.derive`` list: adds ``labels.NAME``.

    Args:
        name: Letters, digits and ``_``; the flat record has it as its key.
        value: CEL expression for text, a number or true and false; docs/enrich/attributes.md. Rows
            for which it is the empty text have no such label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=_NAME)
    value: str


@dataclass(frozen=True)
class _Label:
    """Of every row: which of its values it has."""

    attribute: Attribute
    codes: NDArray[np.int64]
    values: tuple[Value, ...]


class Labels(Local):
    """
    Adds labels to every row.

    Args:
        labels: By name, the same for all rows.
        derived: In order; each may use the labels, not other derived ones.
        attributes: What was added before.

    Raises:
        ConfigError: If a name or an expression is wrong; in one line.
    """

    name = "labels"
    requires: tuple[str, ...] = ("key", "points", "point_lists")
    provides: tuple[str, ...] = ("entities",)

    def __init__(
        self,
        labels: Mapping[str, str],
        derived: tuple[DerivedConfig, ...],
        attributes: Iterable[Attribute],
    ) -> None:
        before = tuple(attributes)
        names = [*labels, *(one.name for one in derived)]
        _check_names(names, {what.netobserv for what in before} | _TAKEN)
        self._fixed = {_attribute(name): value for name, value in labels.items()}
        known = fields((*before, *self._fixed))
        self._programs = {
            _attribute(one.name, number=program.kind == "number"): program
            for one, program in ((one, _program(one, known)) for one in derived)
        }
        self.attributes: tuple[Attribute, ...] = (*self._fixed, *self._programs)

    def apply(self, batch: FlowBatch) -> FlowBatch:
        """The batch with one set of entities more: every combination of labels that occurs."""
        fixed = Entities(
            np.ones(len(batch), np.uint32),
            {what: (None, value) for what, value in self._fixed.items()},
        )
        if not self._programs:
            return replace(batch, entities=(*batch.entities, fixed))
        # Expressions may use the fixed ones, too.
        seen = replace(batch, entities=(*batch.entities, fixed))
        together: tuple[_Label, ...] = tuple(
            _Label(what, np.zeros((), np.int64), (value,)) for what, value in self._fixed.items()
        )
        for what, program in self._programs.items():
            together = _together(together, _label(what, program, seen))
        rows = np.broadcast_to(together[0].codes + 1, len(batch)).astype(np.uint32)
        values = {one.attribute: (None, *one.values) for one in together}
        ordered = {what: values[what] for what in self.attributes}
        return replace(batch, entities=(*batch.entities, Entities(rows, ordered)))


def _attribute(name: str, *, number: bool = False) -> Attribute:
    return Attribute(f"labels.{name}", "What the user says.", name, number=number)


def _check_names(names: list[str], taken: Iterable[str]) -> None:
    for name in names:
        if not re.match(_NAME, name):
            raise ConfigError(f"enrich.labels: {name!r} is no name: letters, digits and _")
        if name in taken:
            raise ConfigError(f"enrich: a label cannot be called {name}, as a key of the record is")
        if names.count(name) > 1:
            raise ConfigError(f"enrich: two labels are called {name}")


def _program(config: DerivedConfig, known: Any) -> Program:
    # Here, and not for agents without expressions: their messages need protobuf.
    from exporter.enrich.expression.program import Program

    where = f"enrich.derive[{config.name}].value"
    try:
        program = Program(config.value, known)
    except ConfigError as err:
        raise ConfigError(f"{where}: {err}") from err
    if program.kind not in ("text", "number", "flag"):
        raise ConfigError(f"{where}: must be a text, a number, or true or false")
    return program


def _label(what: Attribute, program: Program, batch: FlowBatch) -> _Label:
    found = program.evaluate(batch)
    if isinstance(found, Text):
        return _Label(what, found.codes, found.texts)
    values = np.asarray(found)
    if values.dtype == np.bool_:
        return _Label(what, values.astype(np.int64), ("false", "true"))
    distinct, codes = np.unique(values, return_inverse=True)
    return _Label(what, codes.reshape(values.shape), tuple(distinct.tolist()))


def _together(some: tuple[_Label, ...], more: _Label) -> tuple[_Label, ...]:
    """Labels that have their codes in common: each combination that occurs has one."""
    if not some:
        return (more,)
    one = some[0]
    codes, firsts, seconds = pairs(one.codes, more.codes, len(one.values), len(more.values))
    return (
        *(replace(x, codes=codes, values=tuple(x.values[at] for at in firsts)) for x in some),
        replace(more, codes=codes, values=tuple(more.values[at] for at in seconds)),
    )
