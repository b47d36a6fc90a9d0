"""What is added to flow records: one section for each enricher, absent for none of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from exporter.enrich.dns.config import NamesConfig


class EnrichConfig(BaseModel):
    """
    The ``enrich`` section.

    Args:
        names: Names of addresses, from DNS.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: NamesConfig | None = None
