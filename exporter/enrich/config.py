"""What is added to flow records: one section for each enricher, absent for none of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from exporter.enrich.dns.config import NamesConfig
from exporter.enrich.geoip.config import GeoIpConfig
from exporter.enrich.identity.config import IdentityConfig
from exporter.enrich.kubernetes.config import KubernetesConfig
from exporter.enrich.labels import DerivedConfig
from exporter.enrich.networks.config import NetworksConfig
from exporter.enrich.process import ProcessConfig
from exporter.enrich.services.config import ServicesConfig


class EnrichConfig(BaseModel):
    """
    The ``enrich`` section.

    Args:
        geoip, identity, networks, services: See there.
        kubernetes: Pods, services and nodes, with their owners.
        names: Names of addresses, from DNS.
        processes: Process and container of the end of a flow that is local.
        labels: Names and texts that every record has, as ``labels.NAME``; the flat record has the
            name as its key.
        derive: See there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    geoip: GeoIpConfig | None = None
    networks: NetworksConfig | None = None
    services: ServicesConfig | None = None
    identity: IdentityConfig = IdentityConfig()
    labels: dict[str, str] = Field(default_factory=dict, max_length=64)
    derive: tuple[DerivedConfig, ...] = Field((), max_length=64)
    names: NamesConfig | None = None
    processes: ProcessConfig | None = None
    kubernetes: KubernetesConfig | None = None
