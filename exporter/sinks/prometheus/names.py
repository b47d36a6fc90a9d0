"""
What metrics, labels and their values are called, by schema.

``otel`` has the paths of the JSON records with ``_`` for the dots, as OpenTelemetry's names are
translated for Prometheus; ``obi`` the names of OBI's and Beyla's network metrics where there is
one, else ``otel``'s; ``netobserv`` flowlogs-pipeline's fields. What enrichment adds is called as in
JSON records and OTLP, with ``_`` for what a label cannot have.

Source: https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics;
go.opentelemetry.io/obi, pkg/export/attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from exporter.batch.attributes import Attribute
from exporter.sinks.encodings.named import attribute_named
from exporter.sinks.encodings.protocols import protocol_name
from exporter.sinks.encodings.series import FLOWS, OCTETS_L2, OCTETS_L3, PACKETS, Value

Schema = Literal["otel", "obi", "netobserv"]

#: The label of the series that has what there was no room for: OpenTelemetry's.
OVERFLOW = "otel_metric_overflow"


@dataclass(frozen=True)
class Names:
    """
    The words of one schema.

    Args:
        schema: Which.
        metrics: Column of the sums -> name without ``_total``.
        labels: Attribute -> label.
        values: Attribute -> its values' words, where these are not the numbers themselves.
    """

    schema: Schema
    metrics: Mapping[int, str]
    labels: Mapping[str, str]
    values: Mapping[str, Mapping[Value, str]] = field(default_factory=dict)

    def label_value(self, attribute: str, value: Value) -> str:
        """A value as text; what a flow does not have is empty, which is absent."""
        words = self.values.get(attribute)
        if words is not None:
            return words[value]
        return "" if value == 0 and attribute in _ABSENT_AT_ZERO else str(value)

    def labels_of(self, attributes: Sequence[str], added: Iterable[Attribute]) -> tuple[str, ...]:
        """
        Labels that differ, for attributes of series.

        Args:
            attributes: Columns' names, and those of what enrichment adds.
            added: What enrichment adds.
        """
        chosen: list[str] = []
        for attribute in attributes:
            label = self.labels.get(attribute) or label_text(
                attribute_named(attribute, added).called(self.schema)
            )
            # Two names may differ in nothing but what a label cannot have.
            while label in chosen:
                label += "_"
            chosen.append(label)
        return tuple(chosen)


def label_text(name: str) -> str:
    """A name as a label: anything but letters, digits and ``_`` becomes ``_``."""
    label = re.sub("[^A-Za-z0-9_]", "_", name)
    return label if not label[:1].isdigit() else f"_{label}"


#: A protocol without ports; an untagged frame.
_ABSENT_AT_ZERO = frozenset({"src_port", "dst_port", "vlan_id", "inner_vlan_id"})

_OTEL = Names(
    schema="otel",
    metrics={
        FLOWS: "network_flow_records",
        PACKETS: "network_flow_packets",
        OCTETS_L2: "network_flow_bytes",
        OCTETS_L3: "network_flow_ip_bytes",
    },
    labels={
        "src_addr": "source_address",
        "dst_addr": "destination_address",
        "src_port": "source_port",
        "dst_port": "destination_port",
        "ip_protocol": "network_transport",
        "ip_version": "network_type",
        "interface": "network_interface_name",
        "flow_direction": "flow_direction",
        "vlan_id": "network_vlan_id",
        "inner_vlan_id": "network_inner_vlan_id",
        "dscp": "flow_dscp",
        "src_mac": "source_mac",
        "dst_mac": "destination_mac",
    },
    values={
        "ip_protocol": {number: protocol_name(number) for number in range(256)},
        "ip_version": {4: "ipv4", 6: "ipv6"},
        "flow_direction": {0: "ingress", 1: "egress"},
    },
)

NAMES: dict[Schema, Names] = {
    "otel": _OTEL,
    "obi": Names(
        schema="obi",
        metrics={
            FLOWS: "obi_network_flow_records",
            PACKETS: "obi_network_flow_packets",
            OCTETS_L2: "obi_network_flow_bytes",
        },
        labels={
            **_OTEL.labels,
            "src_addr": "src_address",
            "dst_addr": "dst_address",
            "src_port": "src_port",
            "dst_port": "dst_port",
            "ip_protocol": "transport",
            "interface": "iface",
            "flow_direction": "iface_direction",
        },
        values={
            **_OTEL.values,
            "ip_protocol": {number: protocol_name(number).upper() for number in range(256)},
        },
    ),
    "netobserv": Names(
        schema="netobserv",
        metrics={
            FLOWS: "netobserv_flow_records",
            PACKETS: "netobserv_flow_packets",
            OCTETS_L2: "netobserv_flow_bytes",
        },
        labels={
            "src_addr": "SrcAddr",
            "dst_addr": "DstAddr",
            "src_port": "SrcPort",
            "dst_port": "DstPort",
            "ip_protocol": "Proto",
            "ip_version": "Etype",
            "interface": "Interface",
            "flow_direction": "IfDirection",
            "vlan_id": "VlanID",
            "inner_vlan_id": "InnerVlanID",
            "dscp": "Dscp",
            "src_mac": "SrcMac",
            "dst_mac": "DstMac",
        },
        values={"ip_version": {4: "2048", 6: "34525"}},
    ),
}
