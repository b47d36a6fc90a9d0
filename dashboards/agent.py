"""How agents do: does every packet have its place, and is there room for more."""

from __future__ import annotations

from dashboards.panel import Board, Kind, Panel, Query, Row, Verdict
from dashboards.promql import FLOWS, OVERFLOW, OWN, by, of, per_second

_SEEN = of(f"{OWN}seen_packets_total")
_OUTCOMES = of(f"{OWN}outcome_packets_total")
_RECORDED = of(f"{OWN}outcome_packets_total", 'outcome=~"aggregated|ring"')
_DRAINED = of(f"{OWN}stage_packets_total", 'stage="drained"')
_EARLIER = of(f"{OWN}earlier_agents_packets_total")
_LOST = 'outcome=~"lost.*"'
_ALL = per_second(f"{FLOWS}bytes_total")
_UNLABELLED = per_second(f"{FLOWS}bytes_total", f'{OVERFLOW}="true"')


def _accounts(title: str, meaning: str, label: str, metric: str) -> Panel:
    """A table of an account: packets and octets by what became of them, exactly."""
    return Panel(
        title,
        meaning,
        tuple(
            Query(by(label, of(f"{OWN}{metric}_{unit}_total")), unit)
            for unit in ("packets", "octets")
        ),
        Kind.TABLE,
        width=8,
        columns={label: label},
    )


def _number(title: str, meaning: str, expression: str, unit: str = "short") -> Panel:
    return Panel(title, meaning, (Query(expression),), Kind.NUMBER, unit, width=4, height=4)


LEDGER = Row(
    "The ledger: every packet has its place",
    (
        Panel(
            "Does it close",
            "The worst of the agents. If it does not close, a packet is missing somewhere: "
            "`flow-exporter ledger` says where.",
            (Query(f"min({of(f'{OWN}ledger_closes')})"),),
            Kind.NUMBER,
            "none",
            width=4,
            height=4,
            verdict=Verdict(1, bad_below=True, words={1: "closes", 0: "does not close"}),
        ),
        Panel(
            "Lost",
            "Packets that no record has, as the flow map was full or busy. None should be.",
            (Query(by("", of(f"{OWN}outcome_packets_total", _LOST))),),
            Kind.NUMBER,
            width=4,
            height=4,
            verdict=Verdict(1),
        ),
        _number("Seen", "Packets at all hooks, since counting began.", by("", _SEEN)),
        _number(
            "Seen without a place",
            "Zero but for packets that are just being counted while the agent is asked.",
            f"{by('', _SEEN)} - {by('', _OUTCOMES)}",
        ),
        _number(
            "Not drained yet",
            "Packets in the kernel's maps: aggregated and by ring, without what was drained, now "
            "or by earlier agents.",
            f"{by('', _RECORDED)} - {by('', _DRAINED)} - {by('', _EARLIER)}",
        ),
        _number("Interfaces", "That are observed.", by("", of(f"{OWN}interfaces"))),
        _accounts(
            "Kernel: seen = all of these",
            "aggregated and ring become records; filtered and sampled_out were not wanted; "
            "not_ip and malformed are no IP; lost is lost.",
            "outcome",
            "outcome",
        ),
        _accounts(
            "Stages: drained = deduplicated + excluded + published",
            "What was taken from the kernel, and what was passed on to the sinks.",
            "stage",
            "stage",
        ),
        _accounts(
            "Earlier agents, with capture.pin",
            "What they had taken from the kernel: settled with the sinks, or lost with them.",
            "fate",
            "earlier_agents",
        ),
        Panel(
            "Packets by outcome",
            "Lost ones mean that the flow map is too small, or drains are too slow.",
            (Query(by("outcome", per_second(f"{OWN}outcome_packets_total")), "{{outcome}}"),),
            Kind.STACK,
            "pps",
        ),
        Panel(
            "Excluded",
            "Packets that an exclusion of the configuration dropped, by its name.",
            (Query(by("exclusion", per_second(f"{OWN}excluded_packets_total")), "{{exclusion}}"),),
            unit="pps",
        ),
    ),
)
KERNEL = Row(
    "Kernel and drains",
    (
        Panel(
            "Flow map and ring in use",
            "Of their size, as of the latest drain. Near 1, packets are lost: make "
            "capture.flows larger, or drain more often.",
            (
                Query(
                    f"max by (instance) ({of(f'{OWN}map_fill_ratio')})",
                    "{{instance}}",
                ),
            ),
            unit="percentunit",
            width=8,
        ),
        Panel(
            "Time spent in drains",
            "Share of the time. Near 1, an agent cannot keep up.",
            (
                Query(
                    by("instance", per_second(f"{OWN}drain_seconds_total")),
                    "{{instance}}",
                ),
            ),
            unit="percentunit",
            width=8,
        ),
        Panel(
            "Drains by cause",
            "A rising rate of those for want of room says that the flow map is small.",
            (Query(by("reason", per_second(f"{OWN}drains_total")), "{{reason}}"),),
            unit="ops",
            width=8,
        ),
        Panel(
            "Flows",
            "New entries of the flow maps, and records that were drained and published.",
            (
                Query(by("", per_second(f"{OWN}flows_created_total")), "created"),
                Query(by("stage", per_second(f"{OWN}stage_flows_total")), "{{stage}}"),
            ),
            unit="ops",
            width=8,
        ),
        Panel(
            "Deduplication",
            "Flows that it remembers, and those that it forgot for want of room.",
            (
                Query(by("", of(f"{OWN}dedupe_flows")), "remembered"),
                Query(by("", of(f"{OWN}dedupe_evictions_total")), "forgotten so far"),
            ),
            width=8,
        ),
        Panel(
            "Not as it should be",
            "Interfaces that could not be observed; fragments whose beginning was not seen.",
            (
                Query(by("", of(f"{OWN}attach_failures_total")), "interfaces not observed"),
                Query(by("", of(f"{OWN}fragments_unmatched_total")), "fragments unmatched"),
            ),
            width=8,
        ),
    ),
)
ENRICHMENT = Row(
    "Enrichment",
    (
        Panel(
            "Healthy",
            "0: answers are not what they should be; the log and /readyz say why.",
            (Query(f"min by (enricher) ({of(f'{OWN}enrich_healthy')})", "{{enricher}}"),),
            Kind.NUMBER,
            "none",
            width=6,
            height=6,
            verdict=Verdict(1, bad_below=True, words={1: "well", 0: "not well"}),
        ),
        Panel(
            "Age of the news",
            "Since all was known that the API server could tell; the oldest of the agents.",
            (Query(f"max by (enricher) ({of(f'{OWN}enrich_age_seconds')})", "{{enricher}}"),),
            unit="s",
            width=6,
            height=6,
        ),
        Panel(
            "Held in memory",
            "What the enrichers of all agents remember.",
            (Query(by("enricher", of(f"{OWN}enrich_entries")), "{{enricher}}"),),
            width=6,
            height=6,
        ),
        Panel(
            "Time of drains",
            "Spent in an enricher, all agents together.",
            (Query(by("enricher", per_second(f"{OWN}enrich_seconds_total")), "{{enricher}}"),),
            unit="percentunit",
            width=6,
            height=6,
        ),
        Panel(
            "Questions",
            "Answered from memory, and those that it could not answer so.",
            (
                Query(by("enricher", per_second(f"{OWN}enrich_hits_total")), "{{enricher}}: known"),
                Query(
                    by("enricher", per_second(f"{OWN}enrich_misses_total")),
                    "{{enricher}}: unknown",
                ),
            ),
            unit="ops",
        ),
        Panel(
            "Events",
            "What else enrichers count, since the agents started; the page of each says what it "
            "is.",
            (
                Query(
                    by("enricher, event", of(f"{OWN}enrich_events_total")),
                    "{{enricher}}: {{event}}",
                ),
            ),
        ),
    ),
)
SERIES = Row(
    "Flow metrics",
    (
        Panel(
            "Series",
            "Of each agent's largest sink of type prometheus. At its limit, what is new is "
            "summed in one series without labels.",
            (Query(f"max by (sink) ({of(f'{OWN}sink_series')})", "{{sink}}"),),
            width=8,
        ),
        Panel(
            "Without labels",
            "Share of octets for which there was no room: raise limit, or choose fewer labels.",
            (
                Query(
                    f"({by('', _UNLABELLED)} or vector(0)) / {by('', _ALL)}",
                    "share",
                ),
            ),
            unit="percentunit",
            width=8,
        ),
        Panel(
            "Versions",
            "Of the agents that answered the last scrape.",
            (Query(f"count by (version) ({of(f'{OWN}build_info')})", "{{version}}"),),
            Kind.BARS,
            "none",
            width=8,
        ),
    ),
)

BOARD = Board(
    "flow-exporter-agent",
    "Agents",
    "Does every packet have its place, is there room, and do the sources of enrichment answer.",
    (LEDGER, KERNEL, ENRICHMENT, SERIES),
)
