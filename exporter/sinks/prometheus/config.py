"""By which labels flows are summed, and where the sums are scraped."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from exporter.credentials import ServerTlsConfig
from exporter.fanout.config import DeliveryConfig
from exporter.quantities import Seconds, split_host_port, words
from exporter.sinks.encodings.series import check_attributes


class PrometheusConfig(DeliveryConfig):
    """
    A sink of type ``prometheus``.

    Args:
        address: ``host:port`` of its own ``/metrics``; without it the agent's,
            ``metrics.address``, has the flows' metrics beside the agent's own.
        tls: That address over TLS; absent is plain text. ``metrics.tls`` is the agent's.
        labels: What flows are summed by; the columns' names, whatever the schema calls them.
            Addresses and ports make a series of nearly every flow.
        schema_name: Names of metrics and labels; written ``schema``.
        limit: Series at most. What there is no room for is summed in one series, which has the
            label ``otel_metric_overflow``.
        idle: A series that nothing was added to for so long is forgotten, after a scrape that
            still had it.
    """

    type: Literal["prometheus"] = "prometheus"
    address: str = ""
    tls: ServerTlsConfig | None = None
    labels: Annotated[tuple[str, ...], BeforeValidator(words)] = (
        "interface", "flow_direction", "ip_version", "ip_protocol",
    )  # fmt: skip
    schema_name: Literal["otel", "obi", "netobserv"] = Field("otel", alias="schema")
    limit: int = Field(2000, ge=2, le=1_000_000)
    idle: Seconds = Field(300.0, gt=0)

    @field_validator("address")
    @classmethod
    def _is_address(cls, text: str) -> str:
        if text:
            split_host_port(text)
        return text

    @model_validator(mode="after")
    def _tls_has_an_address(self) -> PrometheusConfig:
        if self.tls is not None and not self.address:
            raise ValueError("tls is that of address: give it one, or see metrics.tls")
        return self

    @field_validator("labels")
    @classmethod
    def _are_attributes(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return check_attributes(names)
