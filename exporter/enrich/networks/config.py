"""Configuration of the names of networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, field_validator

from exporter.batch.attributes import EndAttribute
from exporter.enrich.networks.names import CIDR, COLUMNS, check_key, label, row_of
from exporter.enrich.networks.notations import rows_of, said_by
from exporter.enrich.networks.prefixes import Row
from exporter.quantities import words


def _entries(content: Any) -> Any:
    """Any notation of a list of networks as what ``dump-config`` shows. Raises ValueError."""
    entries = []
    for cidr, columns in said_by(words(content)):
        network = str(row_of(cidr, columns, ()).network)
        known = {key: str(value) for key, value in columns.items() if value not in (None, "")}
        entries.append({"cidr": network, **known})
    return tuple(entries)


class NetworksConfig(BaseModel):
    """
    The ``enrich.networks`` section.

    Args:
        cidrs: Names and networks: ``name: [10.0.0.0/8]``; or a list of ``10.0.0.0/8``,
            ``10.0.0.0/8=name``, ``{cidr, name}`` or ``{name, cidrs}``, with more columns or not.
        files: Tables: CSV (``cidr,name,key=value``, or with a header), JSON, JSON lines or YAML,
            and the lists that AWS, Google Cloud and Azure publish. Read again when they change.
        labels: Columns beside the known ones that are added, as ``source.network.labels.NAME``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cidrs: Annotated[tuple[dict[str, str], ...], BeforeValidator(_entries)] = ()
    files: Annotated[tuple[Path, ...], BeforeValidator(words)] = ()
    labels: Annotated[tuple[str, ...], BeforeValidator(words)] = ()

    @field_validator("labels")
    @classmethod
    def _are_keys(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for key in keys:
            check_key(key)
            if key in COLUMNS or key in ("cidr", "cidrs"):
                raise ValueError(f"{key} is always added")
        return tuple(dict.fromkeys(keys))

    def attributes(self) -> tuple[EndAttribute, ...]:
        """What is added at each end."""
        return (*COLUMNS.values(), CIDR, *map(label, self.labels))

    def rows(self) -> tuple[Row, ...]:
        """What ``cidrs`` say."""
        return tuple(rows_of(self.cidrs, self.attributes()))
