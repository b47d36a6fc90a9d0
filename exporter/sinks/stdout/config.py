"""What is printed, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from exporter.fanout.config import QueueConfig, RetryConfig


class StdoutConfig(BaseModel):
    """
    A sink of type ``stdout``.

    Args:
        format: ``auto`` is a table on a terminal and JSON lines in a pipe.
        schema_name: Keys of the JSON records; written ``schema``.
        queue, retry: See there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["stdout"] = "stdout"
    name: str = ""
    format: Literal["auto", "table", "json"] = "auto"
    schema_name: Literal["otel", "netobserv"] = Field("otel", alias="schema")
    queue: QueueConfig = QueueConfig()
    retry: RetryConfig = RetryConfig()
