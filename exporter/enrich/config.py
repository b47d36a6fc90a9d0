"""What is added to flow records: one section for each enricher, absent for none of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class EnrichConfig(BaseModel):
    """
    The ``enrich`` section.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
