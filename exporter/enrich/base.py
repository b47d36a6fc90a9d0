"""What an enricher is: adds to a batch, never drops or reorders rows."""

from __future__ import annotations

from typing import Protocol

from exporter.batch.batch import FlowBatch


class Enricher(Protocol):
    """
    Adds what it knows to a batch.

    ``requires`` and ``provides`` name attributes of FlowBatch, so that the pipeline can refuse an
    order that cannot work.
    """

    requires: tuple[str, ...]
    provides: tuple[str, ...]

    def apply(self, batch: FlowBatch) -> FlowBatch:
        """The batch with something added; the same rows in the same order."""
