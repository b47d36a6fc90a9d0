"""Who talks to whom, and how much: flow metrics of a ``prometheus`` sink."""

from __future__ import annotations

from dashboards.panel import Board, Kind, Panel, Query, Row
from dashboards.promql import FLOWS, OWN, TALKERS, bits, by, known, of, per_second, top

_OCTETS = f"{FLOWS}bytes_total"
_PACKETS = f"{FLOWS}packets_total"
_RECORDS = f"{FLOWS}records_total"
_ENDS = "source_k8s_{0}, destination_k8s_{0}"
_WORKLOADS = (
    "source_k8s_namespace_name, source_k8s_owner_name, "
    "destination_k8s_namespace_name, destination_k8s_owner_name"
)
#: A flow between two nodes is seen, and counted, on both.
_TWICE = "A flow between two nodes that both have an agent is counted by both."


def _number(title: str, meaning: str, expression: str, unit: str) -> Panel:
    return Panel(title, meaning, (Query(expression),), Kind.NUMBER, unit, width=4, height=4)


TOTALS = Row(
    "Totals",
    (
        _number("Throughput", f"Of all flows, L2. {_TWICE}", by("", bits(_OCTETS)), "bps"),
        _number("Packets", f"Of all flows. {_TWICE}", by("", per_second(_PACKETS)), "pps"),
        _number("Flow records", "Given to the sinks.", by("", per_second(_RECORDS)), "rowsps"),
        _number(
            "Octets so far",
            "Since each agent started; exact, L2.",
            by("", of(_OCTETS)),
            "decbytes",
        ),
        _number(
            "Packets so far", "Since each agent started; exact.", by("", of(_PACKETS)), "short"
        ),
        _number("Agents", "That answered the last scrape.", by("", of(f"{OWN}build_info")), "none"),
        Panel(
            "Throughput by transport",
            f"Bits per second by IP protocol. {_TWICE}",
            (Query(by("network_transport", bits(_OCTETS)), "{{network_transport}}"),),
            Kind.STACK,
            "bps",
        ),
        Panel(
            "Throughput by direction",
            "At the interface where a flow was seen: ingress came from the wire, or from the pod.",
            (Query(by("flow_direction", bits(_OCTETS)), "{{flow_direction}}"),),
            Kind.LINES,
            "bps",
        ),
    ),
)
TOP = Row(
    "Top talkers",
    (
        Panel(
            "Pairs of workloads",
            "The twenty that exchange most. Needs Kubernetes enrichment.",
            (
                Query(
                    top(20, _WORKLOADS, bits(_OCTETS, known("source_k8s_owner_name"))),
                    "bits/s",
                ),
            ),
            Kind.TABLE,
            "bps",
            height=10,
            columns={
                "source_k8s_namespace_name": "from",
                "source_k8s_owner_name": "workload",
                "destination_k8s_namespace_name": "to",
                "destination_k8s_owner_name": "its workload",
            },
        ),
        Panel(
            "Pairs of addresses",
            "The twenty that exchange most, with or without Kubernetes. Needs the sink `talkers` "
            "of the presets; what has no room there is in one series without addresses.",
            (
                Query(
                    top(
                        20,
                        "src_address, dst_address",
                        bits(f"{TALKERS}bytes_total", known("src_address")),
                    ),
                    "bits/s",
                ),
            ),
            Kind.TABLE,
            "bps",
            height=10,
            columns={"src_address": "from", "dst_address": "to"},
        ),
    ),
)
NAMESPACES = Row(
    "Namespaces",
    (
        Panel(
            "Sent by namespace",
            "Of the source. Flows from elsewhere have none.",
            (
                Query(
                    top(
                        10,
                        "source_k8s_namespace_name",
                        bits(_OCTETS, known("source_k8s_namespace_name")),
                    ),
                    "{{source_k8s_namespace_name}}",
                ),
            ),
            unit="bps",
        ),
        Panel(
            "From namespace to namespace",
            "The pairs that exchange most.",
            (
                Query(
                    top(
                        15,
                        _ENDS.format("namespace_name"),
                        bits(
                            _OCTETS,
                            known("source_k8s_namespace_name"),
                            known("destination_k8s_namespace_name"),
                        ),
                    ),
                    "{{source_k8s_namespace_name}} → {{destination_k8s_namespace_name}}",
                ),
            ),
            Kind.BARS,
            "bps",
        ),
    ),
)
WORKLOADS = Row(
    "Workloads",
    tuple(
        Panel(
            title,
            "The topmost owner of the pod: a Deployment, a CronJob, ...; a service or a node by "
            "its own name.",
            (
                Query(
                    top(
                        10,
                        f"{end}_k8s_namespace_name, {end}_k8s_owner_name",
                        bits(_OCTETS, known(f"{end}_k8s_owner_name")),
                    ),
                    f"{{{{{end}_k8s_namespace_name}}}}/{{{{{end}_k8s_owner_name}}}}",
                ),
            ),
            unit="bps",
        )
        for title, end in (("Sent by workload", "source"), ("Received by workload", "destination"))
    ),
)
PLACES = Row(
    "Nodes and zones",
    (
        Panel(
            "Throughput by agent",
            "Each is one node. With a target label `node`, as the chart sets it, by its name.",
            (Query(top(15, "node, instance", bits(_OCTETS)), "{{node}} {{instance}}"),),
            unit="bps",
            width=8,
        ),
        Panel(
            "From zone to zone",
            "Where the nodes of both ends are, by topology.kubernetes.io/zone.",
            (
                Query(
                    top(
                        15,
                        _ENDS.format("zone"),
                        bits(_OCTETS, known("source_k8s_zone"), known("destination_k8s_zone")),
                    ),
                    "{{source_k8s_zone}} → {{destination_k8s_zone}}",
                ),
            ),
            Kind.BARS,
            "bps",
            width=8,
        ),
        Panel(
            "Sent by zone",
            "Of the source.",
            (
                Query(
                    by("source_k8s_zone", bits(_OCTETS, known("source_k8s_zone"))),
                    "{{source_k8s_zone}}",
                ),
            ),
            Kind.STACK,
            "bps",
            width=8,
        ),
    ),
)
NETWORKS = Row(
    "Networks",
    (
        Panel(
            "Sent by network",
            "By the names that enrich.networks gives to addresses.",
            (
                Query(
                    top(10, "source_network_name", bits(_OCTETS, known("source_network_name"))),
                    "{{source_network_name}}",
                ),
            ),
            unit="bps",
        ),
        Panel(
            "From network to network",
            "The pairs that exchange most. What has no name is in none of them.",
            (
                Query(
                    top(15, "source_network_name, destination_network_name", bits(_OCTETS)),
                    "{{source_network_name}} → {{destination_network_name}}",
                ),
            ),
            Kind.BARS,
            "bps",
        ),
    ),
)

BOARD = Board(
    "flow-exporter-overview",
    "Overview",
    "Who talks to whom, and how much. Needs a sink of type prometheus with the labels of "
    "presets-dashboards.yaml.",
    (TOTALS, TOP, NAMESPACES, WORKLOADS, PLACES, NETWORKS),
)
