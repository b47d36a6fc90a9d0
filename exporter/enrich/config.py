"""What is added to flow records: one section for each enricher, absent for none of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from exporter.enrich.identity.config import IdentityConfig
from exporter.enrich.labels import DerivedConfig


class EnrichConfig(BaseModel):
    """
    The ``enrich`` section.

    Args:
        identity: See there.
        labels: Names and texts that every record has, as ``labels.NAME``; the flat record has the
            name as its key.
        derive: See there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: IdentityConfig = IdentityConfig()
    labels: dict[str, str] = Field(default_factory=dict, max_length=64)
    derive: tuple[DerivedConfig, ...] = Field((), max_length=64)
