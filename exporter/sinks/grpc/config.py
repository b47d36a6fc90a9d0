"""A collector that speaks ``pbflow.Collector/Send``, and how to reach it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from exporter.credentials import TlsConfig
from exporter.fanout.config import DeliveryConfig
from exporter.quantities import Octets, Seconds, split_host_port

#: Source: gRPC over HTTP/2, Header-Name.
_HEADER = re.compile(r"[0-9a-z_.-]+")


class GrpcConfig(DeliveryConfig):
    """
    A sink of type ``grpc``.

    Args:
        target: ``host:port`` of the collector.
        tls: Absent for plain text.
        token_file: File with a token, sent as ``authorization: Bearer``.
        headers: Name of a header (gRPC metadata) -> file with its value.
        reconnect: Seconds until the next message goes over a new connection, so that what spreads
            connections over collectors can do so again; 0 keeps one until either side ends it.
        reconnect_jitter: Seconds that this is drawn from around it, so that agents do not all
            reconnect at once.
        max_flows: Records in one message at most.
        max_octets: Octets of one message at most. Go servers refuse more than 4 MiB unless told
            otherwise, and flowlogs-pipeline cannot be told.
    """

    type: Literal["grpc"] = "grpc"
    target: str
    tls: TlsConfig | None = None
    token_file: Path | None = None
    headers: dict[str, Path] = Field(default_factory=dict)
    reconnect: Seconds = Field(0.0, ge=0, le=86_400)
    reconnect_jitter: Seconds = Field(0.0, ge=0)
    max_flows: int = Field(10_000, ge=1)
    max_octets: Octets = Field(3_500_000, ge=1024, le=1 << 30)

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, headers: dict[str, Path]) -> dict[str, Path]:
        for name in headers:
            if not _HEADER.fullmatch(name) or name.endswith("-bin") or name.startswith("grpc-"):
                raise ValueError(f"{name!r} is not the name of a header with text, in lower case")
        return headers

    @model_validator(mode="after")
    def _one_authorization(self) -> GrpcConfig:
        if self.token_file is not None and "authorization" in self.headers:
            raise ValueError("token_file and headers.authorization are the same header")
        return self

    @model_validator(mode="after")
    def _jitter_is_less(self) -> GrpcConfig:
        if self.reconnect_jitter and self.reconnect_jitter >= self.reconnect:
            raise ValueError("reconnect_jitter must be less than reconnect")
        return self

    @field_validator("target")
    @classmethod
    def _is_address(cls, text: str) -> str:
        split_host_port(text)
        return text
