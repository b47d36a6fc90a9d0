"""What people would call an end of a flow."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.batch.attributes import Attribute, Side, Value

#: Below ``source`` or ``destination``: what an end may be called, the best first, and what stands
#: before it with a slash.
_NAMES: tuple[tuple[str, str], ...] = (
    ("k8s.name", "k8s.namespace.name"),
    ("k8s.service.name", "k8s.namespace.name"),
    ("k8s.pod.name", "k8s.namespace.name"),
    ("k8s.node.name", ""),
    ("domain", ""),
    ("dns.name", ""),
    ("container.name", ""),
)


def best_name(metadata: Mapping[Attribute, Value], side: Side) -> str:
    """
    The name of a service, a pod or a host; else one that DNS has; empty if only the address is
    known.

    Args:
        metadata: What enrichment added to the flow.
        side: Which end.
    """
    known = {what.otel: str(value) for what, value in metadata.items()}
    for path, above in _NAMES:
        name = known.get(f"{side}.{path}", "")
        if name:
            before = known.get(f"{side}.{above}", "") if above else ""
            return f"{before}/{name}" if before else name
    return ""
