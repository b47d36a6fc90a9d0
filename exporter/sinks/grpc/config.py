"""A collector that speaks ``pbflow.Collector/Send``, and how to reach it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from exporter.fanout.config import DeliveryConfig
from exporter.quantities import Octets, split_host_port
from exporter.sinks.credentials import TlsConfig


class GrpcConfig(DeliveryConfig):
    """
    A sink of type ``grpc``.

    Args:
        target: ``host:port`` of the collector.
        tls: Absent for plain text.
        max_flows: Records in one message at most.
        max_octets: Octets of one message at most. Go servers refuse more than 4 MiB unless told
            otherwise, and flowlogs-pipeline cannot be told.
    """

    type: Literal["grpc"] = "grpc"
    target: str
    tls: TlsConfig | None = None
    max_flows: int = Field(10_000, ge=1)
    max_octets: Octets = Field(3_500_000, ge=1024, le=1 << 30)

    @field_validator("target")
    @classmethod
    def _is_address(cls, text: str) -> str:
        split_host_port(text)
        return text
