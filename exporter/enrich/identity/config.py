"""Which identities flows are given."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from exporter.quantities import Seconds


class IdentityConfig(BaseModel):
    """
    The ``enrich.identity`` section.

    Args:
        community_id: Add ``network.community_id``, the Community ID v1: the same for both
            directions, and what Zeek, Suricata and others call the flow.
        community_seed: Number that goes into it; whoever is to find the same has the same.
        community_base64: As its standard has it; else the hash in hexadecimal.
        flow_id: Add ``flow.id``, 64 bits of the flow key: the same in every record of the flow, in
            every agent, and after a restart.
        initiator: Add ``flow.initiator``, ``flow.initiator_rule`` and ``flow.biflow_direction``.
        connections: TCP connections whose beginning is remembered; beyond, those that were quiet
            longest are forgotten. 17 octets of memory each.
        expiry: Seconds that a quiet connection is remembered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    community_id: bool = False
    community_seed: int = Field(0, ge=0, le=0xFFFF)
    community_base64: bool = True
    flow_id: bool = False
    initiator: bool = False
    connections: int = Field(1 << 18, ge=1024, le=1 << 26)
    expiry: Seconds = Field(600.0, gt=0, le=86_400)
