"""
Series that make an alert fire, and series of an agent that is well.

Values are promtool's: ``a+bxN`` is a, and b more in each of N further minutes; ``_`` is no scrape.
"""

from __future__ import annotations

from dataclasses import dataclass

AGENT = 'job="flows", instance="node-1:9401"'
#: Minutes that are tried.
LONG = 60


def agents(metric: str, *labels: str) -> str:
    """A series of the one agent that there is."""
    return f"{metric}{{{', '.join((AGENT, *labels))}}}"


def own(metric: str, *labels: str) -> str:
    return agents(f"flow_exporter_{metric}", *labels)


_SINK = 'sink="kafka"'
_KUBERNETES = 'enricher="kubernetes"'
_OUTCOME = 'outcome="{}"'
_OVERFLOW = 'otel_metric_overflow="true"'
_LAG = 'kafka_consumergroup_lag{consumergroup="readers", topic="flows", partition="0"}'

#: What is scraped while all is well.
WELL: dict[str, str] = {
    agents("up"): f"1x{LONG}",
    own("build_info", 'version="1"'): f"1x{LONG}",
    own("drains_total", 'reason="interval"'): f"0+12x{LONG}",
    own("drain_seconds_total"): f"0+1x{LONG}",
    own("ledger_closes"): f"1x{LONG}",
    own("outcome_packets_total", _OUTCOME.format("aggregated")): f"0+1000x{LONG}",
    own("outcome_packets_total", _OUTCOME.format("lost_map_full")): f"7x{LONG}",
    own("map_fill_ratio"): f"0.8x{LONG}",
    own("attach_failures_total"): f"2x{LONG}",
    own("sink_flows_total", _SINK, 'state="delivered"'): f"0+100x{LONG}",
    own("sink_flows_total", _SINK, 'state="dropped"'): f"3x{LONG}",
    own("sink_circuit", _SINK, 'state="closed"'): f"1x{LONG}",
    own("sink_circuit", _SINK, 'state="open"'): f"0x{LONG}",
    own("sink_pending_flows", _SINK): f"800x{LONG}",
    own("sink_queue_limit_flows", _SINK): f"1000x{LONG}",
    own("sink_spool_octets", _SINK): f"800x{LONG}",
    own("sink_spool_limit_octets", _SINK): f"1000x{LONG}",
    own("sink_spool_errors_total", _SINK): f"1x{LONG}",
    own("enrich_healthy", _KUBERNETES): f"1x{LONG}",
    own("enrich_age_seconds", _KUBERNETES): f"300x{LONG}",
    agents("network_flow_bytes_total", 'flow_direction="ingress"'): f"0+950x{LONG}",
    agents("network_flow_bytes_total", _OVERFLOW): f"0+50x{LONG}",
    # Far behind, and catching up.
    _LAG: f"900000-1000x{LONG}",
}
#: Somebody else's target.
OTHER = 'up{job="other", instance="elsewhere:1"}'


@dataclass(frozen=True)
class Case:
    """
    An alert that fires.

    Args:
        alert: Its name.
        series: In the place of those of an agent that is well; empty for none.
        labels: Of the alert.
        first: The minute at which it fires.
        last: The last at which it does not; -1 if it fires at once.
    """

    alert: str
    series: dict[str, str]
    labels: str
    first: int
    last: int


_AT_SINK = f"{AGENT}, {_SINK}"
CASES = (
    Case(
        "FlowExporterDown",
        {
            **{series: values.replace(f"x{LONG}", "x9") for series, values in WELL.items()},
            agents("up"): f"1x9 0x{LONG}",
            OTHER: f"0x{LONG}",
        },
        AGENT,
        15,
        14,
    ),
    Case("FlowExporterNoAgents", dict.fromkeys(WELL, ""), "", 10, 9),
    Case(
        "FlowExporterStalled",
        {own("drains_total", 'reason="interval"'): f"0+12x10 120x{LONG}"},
        AGENT,
        26,
        24,
    ),
    Case("FlowExporterLedgerOpen", {own("ledger_closes"): f"1x9 0x{LONG}"}, AGENT, 12, 11),
    Case(
        "FlowExporterPacketsLost",
        {
            own("outcome_packets_total", _OUTCOME.format("lost_map_full")): "7x19 8x50",
        },
        AGENT,
        20,
        19,
    ),
    Case("FlowExporterMapFilling", {own("map_fill_ratio"): "0.8x19 0.95 0.8x40"}, AGENT, 20, 19),
    Case("FlowExporterDrainSlow", {own("drain_seconds_total"): f"0+54x{LONG}"}, AGENT, 15, 14),
    Case(
        "FlowExporterInterfaceNotObserved",
        {own("attach_failures_total"): "2x19 3x50"},
        AGENT,
        20,
        19,
    ),
    Case(
        "FlowExporterSinkDropping",
        {own("sink_flows_total", _SINK, 'state="dropped"'): "3x19 4x50"},
        _AT_SINK,
        20,
        19,
    ),
    Case(
        "FlowExporterSinkCircuitOpen",
        {
            own("sink_circuit", _SINK, 'state="closed"'): f"1x9 0x{LONG}",
            own("sink_circuit", _SINK, 'state="open"'): f"0x9 1x{LONG}",
        },
        _AT_SINK,
        15,
        14,
    ),
    Case("FlowExporterQueueFilling", {own("sink_pending_flows", _SINK): "0x9 801x50"}, _AT_SINK,
         15, 14),
    Case("FlowExporterSpoolFilling", {own("sink_spool_octets", _SINK): "0x9 801x50"}, _AT_SINK,
         15, 14),
    Case("FlowExporterSpoolErrors", {own("sink_spool_errors_total", _SINK): "1x19 2x50"}, _AT_SINK,
         20, 19),
    Case("FlowExporterKafkaLag", {_LAG: f"9900+50x{LONG}"},
         'consumergroup="readers", topic="flows"', 18, 17),
    Case("FlowExporterEnrichmentNotWell", {own("enrich_healthy", _KUBERNETES): "1x9 0x50"},
         f"{AGENT}, {_KUBERNETES}", 15, 14),
    Case("FlowExporterKubernetesNewsOld", {own("enrich_age_seconds", _KUBERNETES): "0x9 301x50"},
         AGENT, 11, 10),
    Case("FlowExporterSeriesOverflow",
         {agents("network_flow_bytes_total", _OVERFLOW): f"0+150x{LONG}"}, AGENT, 16, 15),
)  # fmt: skip
