"""Which rows are dropped."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ExclusionConfig(BaseModel):
    """
    One entry of the ``exclude`` list. A row that several of them match counts for the first.

    Args:
        name: For the ledger and metrics; letters, digits, ``_`` and ``-``.
        when: CEL expression that is true for the rows to drop; docs/enrich/attributes.md.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    when: str
