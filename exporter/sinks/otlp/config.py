"""An OpenTelemetry collector, how to reach it, and what it is told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from exporter.credentials import TlsConfig
from exporter.fanout.config import DeliveryConfig
from exporter.quantities import Octets, Seconds, split_host_port, words
from exporter.sinks.encodings.series import check_attributes
from exporter.sinks.otlp.fields import Schema

#: A header's name (RFC 9110 section 5.1), and what its value may not have.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
#: What ``dump-config`` and reports of faults have for a header's value.
HIDDEN = "(hidden)"


class FlowMetricsConfig(BaseModel):
    """
    The ``metrics`` section: sums of flows.

    Args:
        attributes: What series are told by; see ``exporter.sinks.encodings.series``.
        temporality: ``cumulative`` since a series began, or ``delta`` since the drain before. Not
            given, the environment's preference counts.
        limit: Series at most, one of them for what has no room.
        idle: Seconds after which a series that nothing was added to is forgotten.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attributes: Annotated[tuple[str, ...], BeforeValidator(words)] = (
        "ip_version",
        "ip_protocol",
        "interface",
        "flow_direction",
    )
    temporality: Literal["cumulative", "delta"] = "cumulative"
    limit: int = Field(2000, ge=2, le=1_000_000)
    idle: Seconds = Field(300.0, gt=0, le=7 * 86_400)

    @field_validator("attributes")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return check_attributes(names)


class OtlpConfig(DeliveryConfig):
    """
    A sink of type ``otlp``. One sink has one signal.

    Args:
        endpoint: ``host:port``. If it is empty, ``OTEL_EXPORTER_OTLP_*`` say where to and how, and
            what is not said here.
        protocol: ``grpc`` or ``http`` (protobuf). Absent, ``grpc``; of the environment's endpoint,
            the environment's, else ``http``.
        path: Of HTTP; ``/v1/logs``, ``/v1/traces`` or ``/v1/metrics`` if it is empty.
        tls: Absent for plain text.
        signal: ``logs``: a record for each flow; ``spans``: a span for each; ``metrics``: sums by
            chosen attributes.
        schema_name: What attributes are called; written ``schema``.
        metrics: The sums.
        compression: ``gzip`` or ``none``. Absent, the environment's, else ``none``.
        headers: Sent with each request. Their values are not shown by ``dump-config``; still, the
            configuration has them: for secrets there are files.
        header_files: Headers whose values are secrets: the files that hold them.
        bearer: File with a token for ``authorization: Bearer``.
        basic: File with ``user:password`` for ``authorization: Basic``.
        max_flows: Flows in one message at most.
        max_octets: Octets of one message at most, before compression. Go servers refuse more than
            4 MiB over gRPC unless told otherwise.
    """

    type: Literal["otlp"] = "otlp"
    endpoint: str = ""
    protocol: Literal["grpc", "http"] | None = None
    path: str = ""
    tls: TlsConfig | None = None
    signal: Literal["logs", "spans", "metrics"] = "logs"
    schema_name: Schema = Field("otel", alias="schema")
    metrics: FlowMetricsConfig = FlowMetricsConfig()
    compression: Literal["none", "gzip"] | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    header_files: dict[str, Path] = Field(default_factory=dict)
    bearer: Path | None = None
    basic: Path | None = None
    max_flows: int = Field(10_000, ge=1)
    max_octets: Octets = Field(3_500_000, ge=4096, le=1 << 30)

    @field_validator("endpoint")
    @classmethod
    def _is_address(cls, text: str) -> str:
        if text and not split_host_port(text)[0]:
            raise ValueError(f"{text!r} has no host")
        return text

    @field_validator("path")
    @classmethod
    def _is_path(cls, text: str) -> str:
        if text and (not text.startswith("/") or not text.isascii() or not text.isprintable()):
            raise ValueError(f"{text!r} is not a path such as /v1/logs")
        if " " in text:
            raise ValueError("a path has no spaces")
        return text

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            check_header(name, value)
        return headers

    @model_validator(mode="after")
    def _one_authorization(self) -> OtlpConfig:
        names = [name.lower() for name in (*self.headers, *self.header_files)]
        for name in self.header_files:
            check_header(name, "")
        names += ["authorization"] * ((self.bearer is not None) + (self.basic is not None))
        if len(set(names)) < len(names):
            raise ValueError("a header is given twice (bearer and basic are authorization)")
        return self


def check_header(name: str, value: str) -> None:
    """
    Refuse what could end a header.

    Raises:
        ValueError: If it is no header. Never shows the value.
    """
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a header")
    if _CONTROL.search(value) or not value.isascii():
        raise ValueError(f"header {name}: its value has characters that no header may have")
    if value == HIDDEN:
        raise ValueError(
            f"header {name}: dump-config has hidden its value: write it, or name a file that "
            "holds it in header_files"
        )
