"""Which files, in which format, and when one ends and the next begins."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from exporter.fanout.config import DeliveryConfig
from exporter.quantities import Octets, Seconds

_FORMATS: dict[str, Literal["jsonl", "parquet"]] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet",
}  # fmt: skip


class RotateConfig(BaseModel):
    """
    The ``rotate`` section of a file sink: when a file is finished. 0 is never.

    Args:
        octets: Before it would grow beyond this. Of Parquet, what is collected for it: about 200
            octets for each flow, of which compression leaves a fourth.
        every: So many seconds after its first record.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    octets: Octets = Field(256 << 20, ge=0)
    every: Seconds = Field(3600.0, ge=0)


class KeepConfig(BaseModel):
    """
    The ``keep`` section of a file sink: which finished files stay. 0 is all; the oldest go first.

    Args:
        files: So many.
        octets: So many, all together.
        age: Seconds since they were finished.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: int = Field(0, ge=0)
    octets: Octets = Field(0, ge=0)
    age: Seconds = Field(0.0, ge=0)


class FileConfig(DeliveryConfig):
    """
    A sink of type ``file``.

    Args:
        path: ``DIRECTORY/NAME.jsonl`` or ``DIRECTORY/NAME.parquet``; the directory is made.
            Finished files are ``NAME-<time>.jsonl`` and ``NAME-<time>.parquet`` beside it.
        format: ``auto`` goes by the path.
        schema_name: Keys of JSON records; written ``schema``.
        addresses: In Parquet, as text, or as 16 octets with IPv4 as ::ffff/96 (MACs as 6).
        compression: Of finished files. ``auto`` is none for JSON lines and zstd for Parquet.
        fsync: When what is written is forced to the disk, so that it outlives a power failure:
            ``rotate`` when a file is finished, ``message`` also before a message counts as
            delivered.
        rotate: When a file ends.
        keep: Which files stay.
    """

    type: Literal["file"] = "file"
    path: Path
    format: Literal["auto", "jsonl", "parquet"] = "auto"
    schema_name: Literal["otel", "netobserv"] = Field("otel", alias="schema")
    addresses: Literal["text", "binary"] = "text"
    compression: Literal["auto", "none", "gzip", "snappy", "zstd"] = "auto"
    fsync: Literal["never", "rotate", "message"] = "rotate"
    rotate: RotateConfig = RotateConfig()
    keep: KeepConfig = KeepConfig()

    @field_validator("path")
    @classmethod
    def _is_file(cls, path: Path) -> Path:
        if not path.is_absolute() or not path.stem:
            raise ValueError("the path of a file is absolute: /directory/name.jsonl")
        return path

    @model_validator(mode="after")
    def _fits(self) -> FileConfig:
        if self.format == "auto" and self.path.suffix not in _FORMATS:
            raise ValueError("the path ends in .jsonl or .parquet, or format says which it is")
        chosen: tuple[str, ...] = ("auto", "none", "gzip")
        if self.written_as == "parquet":
            chosen = (*chosen, "snappy", "zstd")
        if self.compression not in chosen:
            raise ValueError(f"compression of JSON lines is one of {', '.join(chosen)}")
        return self

    @property
    def written_as(self) -> Literal["jsonl", "parquet"]:
        """The format."""
        return _FORMATS[self.path.suffix] if self.format == "auto" else self.format
