"""How much waits for a slow destination, and for how long it is tried."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from exporter.quantities import Octets, Seconds


class SpoolConfig(BaseModel):
    """
    The ``spool`` section: for all sinks, or of one of them.

    Args:
        directory: Where batches are written before they are delivered; each sink has a
            subdirectory of its name. Absent for none.
        octets: Of the files of one sink; the oldest batches are dropped when it is full.
        age: Seconds that the host is up until a batch is too old to be delivered; 0 for no limit.
        fsync: ``never`` leaves it to the kernel when data reaches the disk: the agent may be
            killed, the host may not lose power. ``batch`` syncs after each batch, a time no more
            often than that, beside the capture.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: Path | None = None
    octets: Octets = Field(1 << 30, ge=1 << 20)
    age: Seconds = Field(86_400.0, ge=0)
    fsync: Literal["never", "batch"] | Annotated[Seconds, Field(gt=0, le=3600)] = "never"

    @field_validator("directory", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value


class QueueConfig(BaseModel):
    """
    The ``queue`` section of a sink.

    Args:
        rows: Flow records that may wait in memory, those being sent included.
        octets: Memory that they may take; a record takes about 120 octets.
        when_full: What happens when more come: ``spool`` leaves them on disk, the others drop and
            count them and write nothing to disk. ``spool`` if there is a directory for it, else
            ``drop_oldest``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(500_000, ge=1)
    octets: Octets = Field(128 << 20, ge=1024)
    when_full: Literal["spool", "drop_oldest", "drop_newest"] | None = None


class RetryConfig(BaseModel):
    """
    The ``retry`` section of a sink.

    Args:
        first: Seconds before the first retry; doubled for each further one.
        longest: Seconds that a wait never exceeds. The wait is drawn between half of it and all.
        timeout: Seconds for one delivery.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: Seconds = Field(0.1, gt=0, le=60)
    longest: Seconds = Field(5.0, gt=0, le=600)
    timeout: Seconds = Field(10.0, gt=0, le=600)


class DeliveryConfig(BaseModel):
    """
    What every sink's section has; each kind adds its own ``type`` and keys.

    Args:
        name: For logs and counters; the type, with a number if there are several.
        queue: What waits.
        retry: Patience.
        spool: What waits on disk; the common ``spool`` section if absent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    queue: QueueConfig = QueueConfig()
    retry: RetryConfig = RetryConfig()
    spool: SpoolConfig | None = None
