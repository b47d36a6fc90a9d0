"""What flow identity and user attributes cost: makers for the enrichment benchmark."""

from __future__ import annotations

from collections.abc import Callable

from exporter.enrich.base import AddressSource, Enricher
from exporter.enrich.identity.community import CommunityId
from exporter.enrich.identity.flow_id import FlowId
from exporter.enrich.identity.initiator import Initiator


def sources() -> list[tuple[str, Callable[[int], AddressSource | Enricher]]]:
    """Name and maker of each; none depends on how many distinct addresses there are."""
    return [
        ("community_id", lambda _addresses: CommunityId()),
        ("flow_id", lambda _addresses: FlowId()),
        ("initiator", lambda _addresses: Initiator(1 << 18, 600_000_000_000)),
    ]
