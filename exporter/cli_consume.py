"""The flags of ``flow-exporter consume``; what it does is in ``exporter.consume``."""

from __future__ import annotations

import argparse
from pathlib import Path

from exporter.cli_observe import add_conditions

#: What flows can be summed by.
SUM_BY = (
    "source",
    "destination",
    "source_port",
    "destination_port",
    "protocol",
    "interface",
    "agent",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them; ``exporter.consume.run`` takes what they give."""
    add = parser.add_argument
    add("--brokers", required=True, metavar="LIST", help="HOST:PORT of some brokers, with commas")
    add("--topic", required=True, help="what to read")
    add("--from-beginning", action="store_true", help="all of it; default: what comes from now on")
    add("--until-end", action="store_true", help="stop at what is there now")
    add("--idle", metavar="TIME", help="stop when nothing has come for so long")
    add("--count", "--first", type=int, metavar="N", help="stop after N flows that are chosen")
    add("--since", metavar="TIME", help="flows that ended since: 30s ago, or 2026-01-31T12:00:00Z")
    add("--until", metavar="TIME", help="flows that ended before")
    add(
        "--sum",
        metavar="LIST",
        help=f"print sums instead, by {', '.join(SUM_BY)}, or anything that enrichment added; "
        "most octets first",
    )
    add("--json", action="store_true", help="JSON, also on a terminal")
    add(
        "--schema",
        choices=("netobserv", "otel"),
        default="netobserv",
        help="keys; default: netobserv",
    )
    add_connection(parser)


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Flags that say how to reach the brokers, beside which."""
    add = parser.add_argument
    for name in ("ca", "certificate", "key"):
        add(f"--tls-{name}", type=Path, metavar="FILE", help=f"PEM file of the {name}")
    add("--tls", action="store_true", help="TLS with the system's authorities")
    add("--sasl-mechanism", default="SCRAM-SHA-512", help="default: SCRAM-SHA-512")
    add("--sasl-username", metavar="NAME", help="authenticate as NAME")
    add("--sasl-password-file", type=Path, metavar="FILE", help="the file that holds the password")
    add_conditions(parser)


def run(parsed: argparse.Namespace) -> int:
    """The command. Returns its exit code."""
    # Imported here: other commands need neither NumPy nor a Kafka client.
    from exporter.consume import run as consume

    return consume(parsed)
