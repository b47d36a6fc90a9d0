"""Pieces of queries that all boards write alike."""

from __future__ import annotations

#: Whom the variables choose; ``.*`` also means targets that have no such label.
AGENTS = 'job=~"$job", instance=~"$instance", node=~"$node"'
#: What was summed for want of room has this label and no other.
OVERFLOW = "otel_metric_overflow"

OWN = "flow_exporter_"
FLOWS = "network_flow_"
#: The second sink's, by address: other names, as it shares an address with the first.
TALKERS = "obi_network_flow_"


def of(metric: str, *matchers: str) -> str:
    """The series of the chosen agents; ``matchers`` as ``sink=~"$sink"``."""
    return f"{metric}{{{', '.join((AGENTS, *matchers))}}}"


def per_second(metric: str, *matchers: str) -> str:
    """Of a counter."""
    return f"rate({of(metric, *matchers)}[$__rate_interval])"


def bits(metric: str, *matchers: str) -> str:
    """Bits per second of a counter of octets."""
    return f"8 * {per_second(metric, *matchers)}"


def by(labels: str, what: str) -> str:
    """Sums by labels, given with commas; by none of all."""
    return f"sum by ({labels}) ({what})" if labels else f"sum({what})"


def top(count: int, labels: str, what: str) -> str:
    """The largest sums."""
    return f"topk({count}, {by(labels, what)})"


def known(label: str) -> str:
    """A matcher: flows of which it is known."""
    return f'{label}!=""'
