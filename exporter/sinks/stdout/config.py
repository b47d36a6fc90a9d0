"""What is printed, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from exporter.fanout.config import DeliveryConfig


class StdoutConfig(DeliveryConfig):
    """
    A sink of type ``stdout``.

    Args:
        format: ``auto`` is a table on a terminal and JSON lines in a pipe; ``keyvalue`` is a line
            of ``key=value`` pairs for each record.
        schema_name: Keys of the records; written ``schema``.
    """

    type: Literal["stdout"] = "stdout"
    format: Literal["auto", "table", "json", "keyvalue"] = "auto"
    schema_name: Literal["otel", "netobserv"] = Field("otel", alias="schema")
