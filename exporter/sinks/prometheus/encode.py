"""Sums of flows as Prometheus metric families."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from exporter.batch.attributes import Attribute
from exporter.sinks.encodings.series import FLOWS, OCTETS_L2, OCTETS_L3, PACKETS, Reading
from exporter.sinks.prometheus.names import OVERFLOW, Names

_MEANINGS = {
    FLOWS: "Flow records: a flow that lasts has one for each drain.",
    PACKETS: "Packets of flows.",
    OCTETS_L2: "Octets of flows, as long as the frames were.",
    OCTETS_L3: "Octets of flows, as long as the IP packets were.",
}


def families(
    reading: Reading, attributes: Sequence[str], names: Names, added: Sequence[Attribute] = ()
) -> Iterator[Any]:
    """
    A counter for each kind of sum, with a sample for each series.

    Args:
        reading: The series.
        attributes: What they are told by.
        names: What all of it is called.
        added: What enrichment adds.

    Yields:
        ``prometheus_client`` metric families. Values are exact up to 2^53, as Prometheus's are.
    """
    # Imported here: 14 MB that only a metrics address needs.
    from prometheus_client.core import CounterMetricFamily

    called = names.labels_of(attributes, added)
    labels = [
        {
            label: names.label_value(attribute, value)
            for label, attribute, value in zip(called, attributes, values, strict=True)
        }
        for values in (reading.values[:-1] if reading.overflow else reading.values)
    ]
    if reading.overflow:
        labels.append({OVERFLOW: "true"})
    for column, name in names.metrics.items():
        family = CounterMetricFamily(name, _MEANINGS[column])
        for text, value in zip(labels, reading.sums[:, column].tolist(), strict=True):
            family.add_sample(f"{name}_total", text, value)
        yield family
