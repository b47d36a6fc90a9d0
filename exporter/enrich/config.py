"""What is added to flow records: one section for each enricher, absent for none of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from exporter.enrich.identity.config import IdentityConfig


class EnrichConfig(BaseModel):
    """
    The ``enrich`` section.

    Args:
        identity: See there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: IdentityConfig = IdentityConfig()
