"""How packets seen at several observation points become one flow."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from exporter.quantities import Seconds


class DedupeConfig(BaseModel):
    """
    The ``dedupe`` section.

    Args:
        mode: ``merge`` gives one record, counted once, that lists all points; ``mark`` gives every
            point's record and marks the duplicates; ``drop`` gives only the counted point's record;
            ``none`` gives every point's record.
        expiry: Seconds that a quiet flow keeps its point.
        max_flows: Flows that are remembered; beyond, the longest quiet are forgotten first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["merge", "mark", "drop", "none"] = "merge"
    expiry: Seconds = Field(10.0, gt=0, le=3600)
    max_flows: int = Field(1 << 20, ge=1)
