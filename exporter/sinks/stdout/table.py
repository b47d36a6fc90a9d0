"""
A table of the busiest flows of the last drain, redrawn in place.

A flow of which an end has a name takes two lines: names, and below them the addresses.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from exporter.batch.attributes import SIDES
from exporter.batch.batch import FlowBatch
from exporter.batch.record import WITH_PORTS, FlowRecord, records
from exporter.sinks.encodings.jsonl import protocol_name
from exporter.sinks.stdout.best_name import best_name
from exporter.telemetry import printable

_FLAGS = "FSRPAUEC"
_ARROWS = ("←", "→")
_UNITS = ("", "k", "M", "G", "T")


def count_text(value: float) -> str:
    """Three significant digits and a decimal prefix: 1234567 is 1.23M."""
    # Rounded first: 999,950 is 1.00M, not 1000k.
    value, power = float(f"{value:.3g}"), 0
    while value >= 1000 and power < len(_UNITS) - 1:
        value /= 1000
        power += 1
    digits = max(3 - len(str(int(value))), 0) if power else 0
    return f"{value:.{digits}f}{_UNITS[power]}"


def flags_text(control_bits: int) -> str:
    """FIN, SYN, RST, PSH, ACK, URG, ECE, CWR as letters."""
    return "".join(letter for bit, letter in enumerate(_FLAGS) if control_bits >> bit & 1)


def end_text(address: str, port: int, protocol: int) -> str:
    """``192.0.2.1:443``, ``[2001:db8::1]:443``, or the address alone."""
    if protocol not in WITH_PORTS:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def busiest(batch: FlowBatch, rows: int) -> FlowBatch:
    """The rows with the most octets, most first."""
    return batch.take(np.argsort(-batch.octet_count_l2.astype(np.int64))[:rows])


def render(batch: FlowBatch, rows: int) -> Any:
    """
    The table of one drain.

    Args:
        batch: Of one drain, not empty.
        rows: Lines of flows at most.

    Returns:
        A ``rich`` table.
    """
    from rich.table import Table
    from rich.text import Text

    seconds = max((batch.window.end_ns - batch.window.start_ns) / 1e9, 1e-3)
    totals = batch.totals
    table = Table(
        title=(
            f"{totals.flows} flows   {count_text(totals.packets / seconds)} packets/s   "
            f"{count_text(8 * totals.octets / seconds)}bit/s   last {seconds:.1f} s"
        ),
        title_justify="left",
        box=None,
        expand=True,
        pad_edge=False,
    )
    for heading, options in (
        ("SOURCE", {"ratio": 3, "no_wrap": True, "overflow": "ellipsis"}),
        ("DESTINATION", {"ratio": 3, "no_wrap": True, "overflow": "ellipsis"}),
        ("PROTO", {"no_wrap": True}),
        ("PKTS", {"justify": "right", "no_wrap": True}),
        ("BIT/S", {"justify": "right", "no_wrap": True}),
        ("FLAGS", {"no_wrap": True}),
        ("SEEN AT", {"ratio": 2, "no_wrap": True, "overflow": "ellipsis"}),
    ):
        table.add_column(heading, **options)
    for record in records(busiest(batch, rows)):
        names = _names(record)
        rows -= 1 + any(names)
        if rows < 0:
            break
        cells = _cells(record, seconds)
        # As text: rich would read an address in brackets, or a name with them, as markup.
        if any(names):
            named = (name or cell for name, cell in zip(names, cells, strict=False))
            table.add_row(*map(Text, (*named, *cells[2:])))
            cells = tuple(cell if name else "" for name, cell in zip(names, cells, strict=False))
        table.add_row(*(Text(cell, "italic" if any(names) else "") for cell in cells))
    return table


def _names(record: FlowRecord) -> tuple[str, ...]:
    """Of both ends; empty where only the address is known. Ports stand with the address."""
    return tuple(printable(best_name(record.metadata, side)) for side in SIDES)


def _cells(record: FlowRecord, seconds: float) -> tuple[str, ...]:
    protocol = record.ip_protocol
    return (
        end_text(record.source, record.source_port, protocol),
        end_text(record.destination, record.destination_port, protocol),
        protocol_name(protocol),
        count_text(record.packets),
        count_text(8 * record.octets_l2 / seconds),
        flags_text(record.tcp_control_bits),
        " ".join(f"{printable(point.name)}{_ARROWS[point.direction]}" for point in record.points),
    )
