"""How much waits for a slow destination, and for how long it is tried."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from exporter.quantities import Seconds


class QueueConfig(BaseModel):
    """
    The ``queue`` section of a sink.

    Args:
        rows: Flow records that may wait, those being sent included. A row is about 130 octets.
        when_full: What is dropped, and counted, when more come.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(500_000, ge=1)
    when_full: Literal["drop_oldest", "drop_newest"] = "drop_oldest"


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
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    queue: QueueConfig = QueueConfig()
    retry: RetryConfig = RetryConfig()
