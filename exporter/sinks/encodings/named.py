"""What enrichment adds, by the names that configurations have for it."""

from __future__ import annotations

from collections.abc import Iterable

from exporter.batch.attributes import Attribute


def attribute_named(name: str, added: Iterable[Attribute]) -> Attribute:
    """
    An attribute by its ``Attribute.name``.

    Args:
        name: As ``src_k8s_pod_name``.
        added: What the enrichers add that are asked for.

    Returns:
        One of these, or of an enricher that is not asked for; else one that is made up of its name,
        which no batch has.
    """
    for one in added:
        if one.name == name:
            return one
    # Imported here: it imports every enricher, and a configuration that was checked has none such.
    from exporter.enrich.known import by_name

    head, _, rest = name.partition("_")
    path = f"{ {'src': 'source', 'dst': 'destination'}.get(head, head) }.{rest}"
    return by_name().get(name) or Attribute(path.strip("."), "")
