"""``flow-exporter lag``: how far Kafka's consumer groups are behind, once or for Prometheus."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from typing import TYPE_CHECKING

from exporter import cli_consume
from exporter.errors import ConfigError, ExporterError

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
    show(places, as_text=sys.stdout.isatty() and not parsed.json)
    return DONE


def scraped(groups: Groups) -> Answer:
    """What Prometheus gets, asked of the brokers now; while they are away 503, and why."""
    from exporter.lag import metrics
    from exporter.status import text
    from exporter.telemetry import EXPOSITION_TYPE

    try:
        return 200, EXPOSITION_TYPE, metrics(groups.read())
    except ExporterError as err:
        return text(503, f"{err}\n")


def _serve(groups: Groups, address: str) -> int:
    from exporter.quantities import split_host_port
    from exporter.status import StatusServer
    from exporter.telemetry import setup_log

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


def show(places: list[Place], *, as_text: bool) -> None:
    """Print a line for each, as a table or as JSON."""
    if not as_text:
        for one in places:
            print(json.dumps({
                "group": one.group, "topic": one.topic, "partition": one.partition,
                "read": one.read, "end": one.end, "lag": one.lag,
            }))  # fmt: skip
        return
    from exporter.telemetry import printable

    rows = [("GROUP", "TOPIC", "PARTITION", "READ", "END", "LAG")]
    for one in places:
        read = "-" if one.read is None else f"{one.read:,}"
        numbers = (str(one.partition), read, f"{one.end:,}", f"{one.lag:,}")
        rows.append((printable(one.group), one.topic, *numbers))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            word.ljust(width) if number < 2 else word.rjust(width)
            for number, (word, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells))
