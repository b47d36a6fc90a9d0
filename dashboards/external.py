"""What goes out of the networks that one knows, and what comes in: by country and AS."""

from __future__ import annotations

from dashboards.panel import Board, Kind, Panel, Query, Row
from dashboards.promql import FLOWS, bits, by, known, of, top

_OCTETS = f"{FLOWS}bytes_total"
_PACKETS = f"{FLOWS}packets_total"
_COUNTRY = "{}_geo_country_iso_code"
_AS = "{0}_as_number, {0}_as_organization_name"
_WAYS = (("to", "destination", "source"), ("from", "source", "destination"))


def _totals(way: str, end: str) -> tuple[Panel, ...]:
    """An address with a country is one of the Internet's."""
    is_outside = known(_COUNTRY.format(end))
    return tuple(
        Panel(
            f"{title} {way} outside",
            f"Flows {way} an address that the GeoIP databases have a country for. {more}",
            (Query(expression),),
            Kind.NUMBER,
            unit,
            width=4,
            height=4,
        )
        for title, more, expression, unit in (
            ("Throughput", "L2.", by("", bits(_OCTETS, is_outside)), "bps"),
            ("Octets", "Since each agent started.", by("", of(_OCTETS, is_outside)), "decbytes"),
            ("Packets", "Since each agent started.", by("", of(_PACKETS, is_outside)), "short"),
        )
    )


def _country(way: str, end: str) -> tuple[Panel, ...]:
    label = _COUNTRY.format(end)
    query = Query(top(15, label, bits(_OCTETS, known(label))), f"{{{{{label}}}}}")
    return (
        Panel(
            f"{way.capitalize()} which country",
            "ISO 3166-1, as the GeoIP databases say of the address.",
            (query,),
            Kind.BARS,
            "bps",
            width=8,
        ),
        Panel(
            f"{way.capitalize()} which country, over time",
            "The fifteen with most.",
            (query,),
            Kind.STACK,
            "bps",
            width=16,
        ),
    )


def _system(way: str, end: str, other: str) -> tuple[Panel, ...]:
    labels, is_known = _AS.format(end), known(f"{end}_as_number")
    number, name = labels.split(", ")
    workload = f"{other}_k8s_namespace_name, {other}_k8s_owner_name"
    return (
        Panel(
            f"{way.capitalize()} which autonomous system",
            "The fifteen with most.",
            (
                Query(
                    top(15, labels, bits(_OCTETS, is_known)),
                    f"AS{{{{{number}}}}} {{{{{name}}}}}",
                ),
            ),
            unit="bps",
        ),
        Panel(
            f"Workloads with traffic {way} autonomous systems",
            "Who of ours it is. Empty names are ends that Kubernetes does not know.",
            (Query(top(20, f"{workload}, {labels}", bits(_OCTETS, is_known)), "bits/s"),),
            Kind.TABLE,
            "bps",
            columns={
                **dict(zip(workload.split(", "), ("namespace", "workload"), strict=True)),
                number: "AS",
                name: "whose",
            },
        ),
    )


BOARD = Board(
    "flow-exporter-external",
    "External traffic",
    "What leaves and what comes in, by country and autonomous system. Needs GeoIP databases, and "
    "a sink of type prometheus with the labels of presets-dashboards.yaml.",
    (
        Row("Totals", tuple(one for way, end, _ in _WAYS for one in _totals(way, end))),
        Row("Countries", tuple(one for way, end, _ in _WAYS for one in _country(way, end))),
        Row(
            "Autonomous systems",
            tuple(one for way, end, other in _WAYS for one in _system(way, end, other)),
        ),
    ),
)
