"""What is added to flow records: one section for each enricher, absent for none of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from exporter.enrich.process import ProcessConfig


class EnrichConfig(BaseModel):
    """
    The ``enrich`` section.

    Args:
        processes: Process and container of the end of a flow that is local.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    processes: ProcessConfig | None = None
