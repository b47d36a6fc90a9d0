"""
Names of what single records have: what ``consume`` sums by, and what ``--where`` asks for.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import replace

from exporter.batch.match import FIELDS as IN_BATCHES
from exporter.batch.protocols import protocol_name
from exporter.batch.record import FlowRecord
from exporter.enrich.known import by_any_name, recognised
from exporter.errors import ConfigError

#: Without enrichment; ``batch.match`` has the same names of whole batches.
FIELDS: dict[str, Callable[[FlowRecord], str]] = {
    "source": lambda r: r.source,
    "destination": lambda r: r.destination,
    "source_port": lambda r: str(r.source_port),
    "destination_port": lambda r: str(r.destination_port),
    "protocol": lambda r: protocol_name(r.ip_protocol),
    "interface": lambda r: r.interface,
    "agent": lambda r: r.agent_ip,
}
assert FIELDS.keys() == IN_BATCHES.keys(), "sums and conditions have the same names"


def field(name: str) -> Callable[[FlowRecord], str]:
    """A field, or something that enrichment added, by any of its names; empty if it is absent."""
    if name in FIELDS:
        return FIELDS[name]
    name = name.removeprefix(".")

    def value(record: FlowRecord) -> str:
        for what, known in record.metadata.items():
            if name in (what.otel, what.netobserv, what.name):
                return str(known)
        return ""

    return value


def checked(name: str, verb: str) -> str:
    """
    A name that there is, or a path, which may be a label of somebody's. With a dot before it, any
    name is taken: a label in flat records has no other.

    Raises:
        ConfigError: If it is none; says what was meant, or what there is.
    """
    known = [*FIELDS, *by_any_name()]
    if name in known or name.startswith("."):
        return name
    is_path = "." in name
    near = difflib.get_close_matches(name, known, 1, cutoff=0.9 if is_path else 0.7)
    if is_path and not near:
        return name
    advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(FIELDS)}, and paths"
    raise ConfigError(f"cannot {verb} {name}: {advice}")


def check_conditions(conditions: Iterable[tuple[str, str]]) -> None:
    """
    Find names that are mistyped in what ``where`` asks for.

    Raises:
        ConfigError: On the first.
    """
    for name, text in conditions:
        what, equals, _ = text.partition("=")
        if name == "where" and equals:
            checked(what.strip(), "ask for")


def named(record: FlowRecord) -> FlowRecord:
    """A record that was read back, of which any name is known by which something can be asked."""
    if not record.metadata:
        return record
    return replace(record, metadata=recognised(record.metadata))
