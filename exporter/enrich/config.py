"""What is added to flow records: one section for each enricher, absent for none of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from exporter.enrich.geoip.config import GeoIpConfig
from exporter.enrich.networks.config import NetworksConfig
from exporter.enrich.services.config import ServicesConfig


class EnrichConfig(BaseModel):
    """
    The ``enrich`` section.

    Args:
        geoip, networks, services: See there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    geoip: GeoIpConfig | None = None
    networks: NetworksConfig | None = None
    services: ServicesConfig | None = None
