"""Configuration of GeoIP databases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from exporter.quantities import words


class GeoIpConfig(BaseModel):
    """
    The ``enrich.geoip`` section.

    Args:
        databases: Files in MaxMind's format (``.mmdb``): country, city and ASN of MaxMind, any of
            IPinfo. Of an attribute that two know, the first has it. Read again when they change.
        cache: Records of each that are kept decoded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    databases: Annotated[tuple[Path, ...], BeforeValidator(words), Field(min_length=1)]
    cache: int = Field(65_536, ge=1024, le=16_777_216)
