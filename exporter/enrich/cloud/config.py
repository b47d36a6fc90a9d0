"""Configuration of where the agent's host is."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from exporter.quantities import Seconds, split_host_port

_LONGEST = 256


class Place(BaseModel):
    """Where a host is; empty is unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: str = Field("", max_length=_LONGEST)
    account: str = Field("", max_length=_LONGEST)
    region: str = Field("", max_length=_LONGEST)
    zone: str = Field("", max_length=_LONGEST)
    instance: str = Field("", max_length=_LONGEST)
    machine: str = Field("", max_length=_LONGEST)

    @field_validator("*")
    @classmethod
    def _can_be_written(cls, text: object) -> object:
        if isinstance(text, str) and text and not text.isprintable():
            raise ValueError("has a character that does not print")
        return text

    def over(self, other: Place) -> Place:
        """What is known here, else there."""
        here = self.model_dump(include=set(Place.model_fields))
        there = other.model_dump(include=set(Place.model_fields))
        return Place(**{key: here[key] or there[key] for key in here})


class CloudConfig(Place):
    """
    The ``agent.cloud`` section: where the agent's host is, on every flow record as ``cloud``.

    Args:
        provider: ``aws``, ``gcp``, ``azure`` or another name.
        account: Account, project or subscription.
        region, zone: Region, and availability zone within it.
        instance: The host's id there.
        machine: Its type.
        file: A YAML or JSON file with these keys, for what is not given here. Read again when it
            changes.
        metadata: Ask the instance metadata service for what neither says: ``aws`` (IMDSv2),
            ``gcp``, ``azure``, or ``auto``, which tries them in this order.
        metadata_address: Where that is: a link-local or loopback address and a port.
        metadata_timeout: Seconds for each of its answers.
    """

    file: Path | None = None
    metadata: Literal["none", "auto", "aws", "gcp", "azure"] = "none"
    metadata_address: str = "169.254.169.254:80"
    metadata_timeout: Seconds = Field(2.0, ge=0.1, le=60)

    @field_validator("metadata_address")
    @classmethod
    def _is_near(cls, text: str) -> str:
        host, _ = split_host_port(text)
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(f"{host!r} is not an address") from None
        # It would be told what a metadata service is told, and believed.
        if not (address.is_link_local or address.is_loopback):
            raise ValueError(f"{host} is neither link-local nor loopback")
        return text

    def wanted(self) -> bool:
        """Whether anything is given or to be found out."""
        return self != CloudConfig()
