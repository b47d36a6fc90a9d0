"""A collector that speaks ``pbflow.Collector/Send``, and how to reach it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from exporter.fanout.config import QueueConfig, RetryConfig
from exporter.quantities import Octets, split_host_port


class TlsConfig(BaseModel):
    """
    TLS towards a destination. Absent is plain text.

    Args:
        ca: PEM file of the authorities to trust; the system's if absent.
        certificate: PEM file of the client's chain, for mutual TLS.
        key: PEM file of its key.
        server_name: The name that the server's certificate must have, if not the target's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""

    @model_validator(mode="after")
    def _pair(self) -> TlsConfig:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self


class GrpcConfig(BaseModel):
    """
    A sink of type ``grpc``.

    Args:
        target: ``host:port`` of the collector.
        tls: Absent for plain text.
        max_flows: Records in one message at most.
        max_octets: Octets of one message at most. Go servers refuse more than 4 MiB unless told
            otherwise, and flowlogs-pipeline cannot be told.
        queue, retry: See there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["grpc"] = "grpc"
    name: str = ""
    target: str
    tls: TlsConfig | None = None
    max_flows: int = Field(10_000, ge=1)
    max_octets: Octets = Field(3_500_000, ge=1024, le=1 << 30)
    queue: QueueConfig = QueueConfig()
    retry: RetryConfig = RetryConfig()

    @field_validator("target")
    @classmethod
    def _is_address(cls, text: str) -> str:
        split_host_port(text)
        return text
