"""
Drops rows by expressions. After enrichment, whose attributes they may use, and before any sink.

Contract: rows are removed, never changed or reordered; what was removed is counted by name, in
flows, packets and octets, and with what is passed on it is what came in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from exporter.batch.attributes import Attribute
from exporter.batch.batch import FlowBatch, Totals
from exporter.enrich.expression.fields import fields
from exporter.errors import ConfigError
from exporter.exclude.config import ExclusionConfig

if TYPE_CHECKING:
    from exporter.enrich.expression.program import Program


class Excluder:
    """
    Applies exclusions to batch after batch.

    Args:
        exclusions: In order.
        attributes: What enrichment adds.

    Raises:
        ConfigError: If an expression is wrong; in one line.
    """

    def __init__(
        self, exclusions: tuple[ExclusionConfig, ...], attributes: Iterable[Attribute]
    ) -> None:
        self._programs: dict[str, Program] = {}
        if not exclusions:
            return
        # Here, and not for agents without expressions: their messages need protobuf.
        from exporter.enrich.expression.program import Program

        known = fields(attributes)
        for exclusion in exclusions:
            name = exclusion.name
            if name in self._programs:
                raise ConfigError(f"exclude: two are called {name}")
            try:
                program = Program(exclusion.when, known)
            except ConfigError as err:
                raise ConfigError(f"exclude[{name}].when: {err}") from err
            if program.kind != "flag":
                raise ConfigError(
                    f"exclude[{name}].when: must be true or false, not {program.kind}"
                )
            self._programs[name] = program

    def apply(self, batch: FlowBatch) -> tuple[FlowBatch, dict[str, Totals]]:
        """The rows that stay, and what each exclusion dropped."""
        if not self._programs:
            return batch, {}
        stays = np.ones(len(batch), np.bool_)
        dropped: dict[str, Totals] = {}
        for name, program in self._programs.items():
            rows = program.flags(batch) & stays
            dropped[name] = _totals(batch, rows)
            stays &= ~rows
        return (batch if stays.all() else batch.take(stays)), dropped


def _totals(batch: FlowBatch, rows: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Totals:
    return Totals(
        int(np.count_nonzero(rows)),
        int(batch.packet_count[rows].sum()),
        int(batch.octet_count_l2[rows].sum()),
    )
