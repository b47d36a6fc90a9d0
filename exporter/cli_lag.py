"""``flow-exporter lag``: how far Kafka's consumer groups are behind, once or for Prometheus."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from typing import TYPE_CHECKING

from exporter import cli_consume
from exporter.errors import ConfigError, ExporterError
from exporter.quantities import split_host_port
from exporter.telemetry import EXPOSITION_TYPE, setup_log

if TYPE_CHECKING:
    from exporter.lag import Groups, Place
    from exporter.status import Answer

DONE = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them; :func:`run` takes what they give."""
    add = parser.add_argument
    add("--brokers", required=True, metavar="LIST", help="HOST:PORT of some brokers, with commas")
    add("--topic", required=True, help="what the groups read")
    add("--group", action="append", metavar="NAME", help="may be repeated; default: every group")
    add(
        "--metrics-address",
        metavar="HOST:PORT",
        help="serve it at /metrics instead of printing it, until told to stop",
    )
    add("--json", action="store_true", help="JSON, also on a terminal")
    cli_consume.add_connection(parser)


def run(parsed: argparse.Namespace) -> int:
    """The command. Returns its exit code."""
    # Imported here: other commands need no Kafka client.
    from exporter.consume import connection_settings
    from exporter.lag import Groups

    groups = Groups(connection_settings(parsed), parsed.topic, parsed.group or ())
    try:
        if parsed.metrics_address is not None:
            return _serve(groups, parsed.metrics_address)
        places = groups.read().places
    finally:
        groups.close()
    if parsed.group and (unknown := sorted(set(parsed.group) - {one.group for one in places})):
        raise ExporterError(f"group {unknown[0]} has not read {parsed.topic}")
    _print(places, as_text=sys.stdout.isatty() and not parsed.json)
    return DONE


def scraped(groups: Groups) -> Answer:
    """What Prometheus gets, asked of the brokers now; while they are away 503, and why."""
    from exporter.lag import metrics
    from exporter.status import text

    try:
        return 200, EXPOSITION_TYPE, metrics(groups.read())
    except ExporterError as err:
        return text(503, f"{err}\n")


def _serve(groups: Groups, address: str) -> int:
    from exporter.status import StatusServer

    setup_log("info")
    try:
        host, port = split_host_port(address)
    except ValueError as err:
        raise ConfigError(f"--metrics-address: {err}") from None
    # Before there are other threads, which would be told instead.
    numbers = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    server = StatusServer({"/metrics": lambda: scraped(groups)})
    server.listen(host, port)
    try:
        signal.sigwait(numbers)
    finally:
        server.close()
    return DONE


def _print(places: list[Place], *, as_text: bool) -> None:
    if as_text:
        print(f"{'GROUP':<32} {'TOPIC':<32} {'PARTITION':>9} {'READ':>14} {'END':>14} {'LAG':>14}")
    for one in places:
        if as_text:
            read = "-" if one.read is None else f"{one.read:,}"
            print(f"{one.group:<32} {one.topic:<32} {one.partition:>9} {read:>14} "
                  f"{one.end:>14,} {one.lag:>14,}")  # fmt: skip
        else:
            print(json.dumps({
                "group": one.group, "topic": one.topic, "partition": one.partition,
                "read": one.read, "end": one.end, "lag": one.lag,
            }))  # fmt: skip
