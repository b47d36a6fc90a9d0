"""What is added to flow records: one section for each enricher, absent for none of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from exporter.enrich.kubernetes.config import KubernetesConfig


class EnrichConfig(BaseModel):
    """
    The ``enrich`` section.

    Args:
        kubernetes: Pods, services and nodes, with their owners.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kubernetes: KubernetesConfig | None = None
