"""Configuration of the names of services."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator

from exporter.enrich.services.names import parse_place

_LONGEST = 64


class ServicesConfig(BaseModel):
    """
    The ``enrich.services`` section. Present, if only as ``{}``, it adds the names.

    Args:
        file: Names in the form of ``/etc/services``, instead of those that come with the agent.
            Read again when it changes.
        names: More, and others: ``tcp/9092: kafka``; or ``9092: kafka`` for every protocol.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Path | None = None
    names: dict[str, str] = {}

    @field_validator("names", mode="before")
    @classmethod
    def _are_places(cls, names: object) -> object:
        if not isinstance(names, dict):
            return names
        for place, name in names.items():
            parse_place(str(place))
            # A lone surrogate, which YAML can spell, is not printable either.
            if not (isinstance(name, str) and 0 < len(name) <= _LONGEST and name.isprintable()):
                raise ValueError(f"the name of {place} has 1 to {_LONGEST} printable characters")
        return {str(place): name for place, name in names.items()}
