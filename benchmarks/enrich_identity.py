"""What flow identity and user attributes cost: makers for the enrichment benchmark."""

from __future__ import annotations

from collections.abc import Callable

from exporter.enrich.base import AddressSource, Enricher
from exporter.enrich.identity.community import CommunityId
from exporter.enrich.identity.flow_id import FlowId
from exporter.enrich.identity.initiator import Initiator
from exporter.enrich.labels import DerivedConfig, Labels

_DERIVED = (
    DerivedConfig(
        name="tier",
        value='cidr(destination.address, ["10.0.0.0/8", "2001:db8::/32"]) ? "inside" : "outside"',
    ),
    DerivedConfig(name="size", value='flow.bytes < 10000 ? "small" : "large"'),
    DerivedConfig(name="tag", value='labels.team + "-" + network.transport'),
)


def enrichers() -> list[tuple[str, Callable[[int], AddressSource | Enricher]]]:
    """Name and maker of each; none depends on how many distinct addresses there are."""
    return [
        ("community_id", lambda _addresses: CommunityId()),
        ("flow_id", lambda _addresses: FlowId()),
        ("initiator", lambda _addresses: Initiator(1 << 18, 600_000_000_000)),
        ("labels", lambda _addresses: Labels({"team": "a", "stage": "b"}, (), ())),
        ("labels, three derived", lambda _addresses: Labels({"team": "a"}, _DERIVED, ())),
    ]
