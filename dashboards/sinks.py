"""How deliveries go, and how far behind those are who read from Kafka."""

from __future__ import annotations

from dashboards.panel import Board, Choice, Kind, Panel, Query, Row, Verdict
from dashboards.promql import OWN, by, of, per_second

_SINK = 'sink=~"$sink"'
_OPEN = 'state=~"open|half-open"'
_DELIVERED = 'state="delivered"'
_GROUP = 'consumergroup=~"$group", topic=~"$topic"'


def _of(metric: str, *matchers: str) -> str:
    return of(f"{OWN}{metric}", _SINK, *matchers)


def _per_second(metric: str, *matchers: str) -> str:
    return per_second(f"{OWN}{metric}", _SINK, *matchers)


def _share(metric: str, limit: str) -> str:
    """The fullest agent's."""
    return f"max by (sink) ({_of(metric)} / {_of(limit)})"


STATE = Row(
    "State",
    (
        Panel(
            "Circuit",
            "The worst of the agents: open waits before it tries again.",
            (Query(f"max by (sink) ({_of('sink_circuit', _OPEN)})", "{{sink}}"),),
            Kind.NUMBER,
            "none",
            width=8,
            height=6,
            verdict=Verdict(1, words={0: "closed", 1: "open"}),
        ),
        Panel(
            "Dropped so far",
            "Flow records that were given up, since each agent started.",
            (Query(by("sink", _of("sink_flows_total", 'state="dropped"')), "{{sink}}"),),
            Kind.NUMBER,
            width=8,
            height=6,
            verdict=Verdict(1),
        ),
        Panel(
            "Account: queued + recovered = delivered + dropped + pending + spooled",
            "Flow records so far. What is neither delivered nor dropped waits.",
            (Query(by("sink, state", _of("sink_flows_total")), "records"),),
            Kind.TABLE,
            width=8,
            height=6,
            columns={"sink": "sink", "state": "state"},
        ),
    ),
)
FLOW = Row(
    "Deliveries",
    (
        Panel(
            "Queued",
            "Flow records given to each sink.",
            (Query(by("sink", _per_second("sink_flows_total", 'state="queued"')), "{{sink}}"),),
            unit="rowsps",
            width=8,
        ),
        Panel(
            "Delivered",
            "Flow records that the destination has. Less than queued: something waits, or is "
            "dropped.",
            (Query(by("sink", _per_second("sink_flows_total", 'state="delivered"')), "{{sink}}"),),
            unit="rowsps",
            width=8,
        ),
        Panel(
            "Octets delivered",
            "Traffic that the delivered records tell of.",
            (Query(f"8 * {by('sink', _per_second('sink_octets_total', _DELIVERED))}", "{{sink}}"),),
            unit="bps",
            width=8,
        ),
        Panel(
            "Dropped by reason",
            "queue_full: the destination is too slow; spool_full and spool_expired: it was away "
            "for too long; others are what it answered.",
            (
                Query(
                    by("sink, reason", _per_second("sink_dropped_flows_total")),
                    "{{sink}}: {{reason}}",
                ),
            ),
            Kind.STACK,
            "rowsps",
        ),
        Panel(
            "Retries",
            "Deliveries that were tried again.",
            (Query(by("sink", _per_second("sink_retries_total")), "{{sink}}"),),
            unit="ops",
        ),
    ),
)
WAITING = Row(
    "Waiting",
    (
        Panel(
            "In memory",
            "Flow records that wait, all agents together.",
            (Query(by("sink", _of("sink_pending_flows")), "{{sink}}"),),
            width=8,
        ),
        Panel(
            "Queue in use",
            "Of its limit, the fullest agent's. At 1, flows go to the spool or are dropped.",
            (Query(_share("sink_pending_flows", "sink_queue_limit_flows"), "{{sink}}"),),
            unit="percentunit",
            width=8,
        ),
        Panel(
            "On disk only",
            "Flow records that wait in the spools.",
            (Query(by("sink", _of("sink_spooled_flows")), "{{sink}}"),),
            width=8,
        ),
        Panel(
            "Spool in use",
            "Of its limit, the fullest agent's. At 1, the oldest flows are dropped.",
            (Query(_share("sink_spool_octets", "sink_spool_limit_octets"), "{{sink}}"),),
            unit="percentunit",
            width=8,
        ),
        Panel(
            "Spool on disk",
            "Octets of its files, all agents together.",
            (Query(by("sink", _of("sink_spool_octets")), "{{sink}}"),),
            unit="decbytes",
            width=8,
        ),
        Panel(
            "Spool errors",
            "Times that something could not be written: is the disk full?",
            (Query(by("sink", _of("sink_spool_errors_total")), "{{sink}}"),),
            width=8,
        ),
    ),
)
#: Of `flow-exporter lag`; kafka_exporter calls them the same. Their targets are no agents.
KAFKA = Row(
    "Kafka consumers",
    (
        Panel(
            "Lag",
            "Messages that a consumer group has not committed yet.",
            (
                Query(
                    by("consumergroup, topic", f"kafka_consumergroup_lag{{{_GROUP}}}"),
                    "{{consumergroup}} of {{topic}}",
                ),
            ),
            width=8,
        ),
        Panel(
            "Lag by partition",
            "The largest. One that stands out has no reader, or a slow one.",
            (
                Query(
                    "topk(15, sum by (consumergroup, topic, partition) "
                    f"(kafka_consumergroup_lag{{{_GROUP}}}))",
                    "{{consumergroup}}: {{topic}}/{{partition}}",
                ),
            ),
            Kind.BARS,
            width=8,
        ),
        Panel(
            "Written and read",
            "Messages per second that came to the topic, and that each group committed.",
            (
                Query(
                    by(
                        "topic",
                        'rate(kafka_topic_partition_current_offset{topic=~"$topic"}'
                        "[$__rate_interval])",
                    ),
                    "{{topic}} written",
                ),
                Query(
                    by(
                        "consumergroup, topic",
                        f"rate(kafka_consumergroup_current_offset{{{_GROUP}}}[$__rate_interval])",
                    ),
                    "{{consumergroup}} of {{topic}}",
                ),
            ),
            unit="ops",
            width=8,
        ),
    ),
)

BOARD = Board(
    "flow-exporter-sinks",
    "Sinks",
    "What was delivered, what waits and what was dropped; and the lag of Kafka's consumers.",
    (STATE, FLOW, WAITING, KAFKA),
    (
        Choice("sink", "Sink", 'label_values(flow_exporter_sink_healthy{job=~"$job"}, sink)'),
        Choice("topic", "Topic", "label_values(kafka_consumergroup_lag, topic)"),
        Choice(
            "group",
            "Consumer group",
            'label_values(kafka_consumergroup_lag{topic=~"$topic"}, consumergroup)',
        ),
    ),
)
