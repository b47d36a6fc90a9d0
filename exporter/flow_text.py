"""Flows as text for people: a line for each, or a row of a table as wide as the terminal."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from exporter.batch.attributes import SIDES, Side
from exporter.batch.protocols import protocol_name
from exporter.batch.record import TCP, FlowRecord
from exporter.decode import decode_json
from exporter.sinks.stdout.best_name import best_name
from exporter.sinks.stdout.table import count_text, end_text, flags_text
from exporter.telemetry import printable

_HEADINGS = ("TIME", "SOURCE", "DESTINATION", "PROTO", "FLAGS", "PKTS", "BYTES", "SEEN AT")
#: Columns of a node's name.
_NODE = 12
#: Columns of a protocol's short name, with a space; only TCP, which has one, has flags behind it.
_PROTOCOL = 7


@dataclass(frozen=True)
class How:
    """
    How flows are shown.

    Args:
        table: In columns.
        colour: Ends in a terminal's colours, if it is no table; nothing is faint, which cannot be
            read on every background.
        names: Of ends and protocols, where they are known.
        nodes: Who observed stands first.
    """

    table: bool = False
    colour: bool = False
    names: bool = True
    nodes: bool = False


def texts(how: How, lines: Iterable[bytes]) -> Iterator[str]:
    """Of JSON lines, as they come."""
    if how.table:
        yield _row(how, "NODE", _HEADINGS)
    for line in lines:
        record = decode_json(line)
        if how.table:
            yield _row(how, _node(record), _cells(how, record))
        else:
            yield _compact(how, record)


def _compact(how: How, record: FlowRecord) -> str:
    source, destination = (
        _paint(how, code, _end(how, record, side))
        for code, side in zip(("36", "35"), SIDES, strict=True)
    )
    packets, octets, protocol, flags, seen = _rest(how, record)
    node = _node(record) if how.nodes else ""
    words = (node, _clock(record), source, "->", destination, protocol)
    tail = f"{packets} packets {octets}B"
    return " ".join(word for word in (*words, tail, flags, seen) if word)


def _cells(how: How, record: FlowRecord) -> tuple[str, ...]:
    packets, octets, protocol, flags, seen = _rest(how, record)
    ends = (_end(how, record, side, name_first=True) for side in SIDES)
    return (_clock(record)[:8], *ends, protocol, flags, packets, octets, seen)


def _row(how: How, node: str, cells: Sequence[str]) -> str:
    first = f"{_cut(node, _NODE)} " if how.nodes else ""
    room = shutil.get_terminal_size().columns - 8 - 12 - 5 - 5 - 6 - len(first)
    wide = max(room * 2 // 5, 12)
    widths = (8, wide, wide, 12, 5, 5, max(room - 2 * wide, 7))
    clock, source, destination, protocol, flags, packets, octets, seen = cells
    # A long name takes the room of the flags that it has not.
    kind = f"{protocol:{_PROTOCOL}}{flags}"
    cells = (clock, source, destination, kind, packets.rjust(5), octets.rjust(5), seen)
    text = [_cut(cell, width) for cell, width in zip(cells, widths, strict=True)]
    return first + " ".join(text).rstrip()


def _cut(cell: str, width: int) -> str:
    return cell[: width - 1] + "…" if len(cell) > width else cell.ljust(width)


def _paint(how: How, code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if how.colour and text else text


def _node(record: FlowRecord) -> str:
    return printable(record.agent_name or record.agent_ip)


def _clock(record: FlowRecord) -> str:
    seconds, nanoseconds = divmod(record.time_flow_end_ns, 1_000_000_000)
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{nanoseconds // 1_000_000:03d}"


def _end(how: How, record: FlowRecord, side: Side, *, name_first: bool = False) -> str:
    port = getattr(record, f"{side}_port")
    address = end_text(getattr(record, side), port, record.ip_protocol)
    name = best_name(record.metadata, side) if how.names else ""
    if not name:
        return address
    name = printable(name)
    has_port = address != getattr(record, side)
    return f"{name}:{port}" * has_port or name if name_first else f"{address} ({name})"


def _rest(how: How, record: FlowRecord) -> tuple[str, str, str, str, str]:
    number = record.ip_protocol
    protocol = protocol_name(number) if how.names else str(number)
    flags = flags_text(record.tcp_control_bits) if number == TCP else ""
    seen = " ".join(f"{printable(p.name)}{'←→'[p.direction]}" for p in record.points)
    return count_text(record.packets), count_text(record.octets_l2), protocol, flags, seen
