"""The flags of ``flow-exporter observe``, and how it prints; ``exporter.observe`` has the rest."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporter.batch.attributes import Side
    from exporter.batch.record import FlowRecord
    from exporter.observe import Wanted

DONE, FAILED = 0, 1
#: Name and value of a condition.
Pair = tuple[str, str]
#: Flows that are shown if nothing says how many.
_LAST = 20
#: Lines of a file that are looked at together.
_LINES = 8192

_NOTES = """\
Conditions of one kind are alternatives, those of different kinds must all hold.
--not turns the next one round. A name may end in *.
"""

#: As ``exporter.batch.match.KINDS`` has them: name, value, meaning; whether it is of an end.
CONDITIONS = (
    ("ip", "CIDR", "in this network or has this address", True),
    ("port", "N", "this port", True),
    ("namespace", "NAME", "in this Kubernetes namespace", True),
    ("pod", "[NAMESPACE/]NAME", "this pod", True),
    ("service", "[NAMESPACE/]NAME", "this service", True),
    ("workload", "[NAMESPACE/]NAME", "of this workload", True),
    ("node-name", "NAME", "on this node", True),
    ("fqdn", "NAME", "known by this DNS name", True),
    ("protocol", "NAME", "of this protocol", False),
    ("ip-version", "4|6", "of this IP version", False),
    ("interface", "NAME", "seen at this interface", False),
    ("tcp-flags", "LIST", "TCP with all of these flags", False),
)


class _Condition(argparse.Action):
    """Keeps conditions in order, and those after ``--not`` apart."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        _option: str | None = None,
    ) -> None:
        turned = getattr(namespace, "turned", False)
        name = "excluded" if turned else "conditions"
        pair = (self.dest.replace("_", "-"), str(values))
        setattr(namespace, name, [*(getattr(namespace, name, None) or []), pair])
        namespace.turned = False


class _Not(argparse.Action):
    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        _values: Any,
        _option: str | None = None,
    ) -> None:
        namespace.turned = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them; :func:`run` takes what they give."""
    parser.epilog = f"{parser.epilog}\n{_NOTES}"
    add = parser.add_argument
    add("-f", "--follow", action="store_true", help="go on with what comes")
    add("--last", type=int, metavar="N", help=f"of the recent flows; default: {_LAST}, 0 with -f")
    add("--first", type=int, metavar="N", default=0, help="stop after N flows")
    add("--since", metavar="TIME", help="flows that ended since: 30s ago, or 2026-01-31T12:00:00Z")
    add("--until", metavar="TIME", help="flows that ended before")
    add("-o", "--output", choices=("compact", "json", "table"),
        help="default: compact on a terminal, else JSON lines")  # fmt: skip
    add("--schema", choices=("otel", "netobserv"), default="otel", help="keys of JSON records")
    add("--input-file", metavar="FILE", help="JSON lines in place of an agent; - is standard input")
    add("--pid", type=int, help="of the agent, if several are running")
    add_conditions(parser)


def add_conditions(parser: argparse.ArgumentParser) -> None:
    """Add those of flows; :func:`conditions_of` takes what they give."""
    conditions = parser.add_argument_group("conditions")
    conditions.add_argument("--not", action=_Not, nargs=0, help="turn the next condition round")
    for name, value, meaning, of_end in CONDITIONS:
        ends = (("", "either end is "), ("from-", "the source is "), ("to-", "the destination is "))
        for prefix, which in ends if of_end else (("", ""),):
            conditions.add_argument(
                f"--{prefix}{name}", action=_Condition, metavar=value, help=f"{which}{meaning}"
            )


def conditions_of(parsed: argparse.Namespace) -> tuple[list[Pair], list[Pair]]:
    """
    Those that flows are asked for by, and those that they are left out by.

    Raises:
        ConfigError: If ``--not`` is the last of them.
    """
    from exporter.errors import ConfigError

    if getattr(parsed, "turned", False):
        raise ConfigError("--not comes before the condition that it turns round")
    return getattr(parsed, "conditions", None) or [], getattr(parsed, "excluded", None) or []


def run(parsed: argparse.Namespace) -> int:
    """The command. Returns its exit code."""
    wanted = _wanted(parsed)
    show = _printer(parsed)
    if parsed.input_file is not None:
        return show(_from_file(parsed.input_file, wanted))
    return show(_from_agent(parsed.pid, wanted))


def _wanted(parsed: argparse.Namespace) -> Wanted:
    # Imported here: other commands need neither NumPy nor a decoder.
    from exporter.observe import Wanted, moment_ns

    conditions, excluded = conditions_of(parsed)
    last = parsed.last
    if last is None and parsed.input_file is None and not parsed.since:
        last = 0 if parsed.follow else _LAST
    return Wanted(
        tuple(conditions),
        tuple(excluded),
        since_ns=moment_ns(parsed.since) if parsed.since else 0,
        until_ns=moment_ns(parsed.until) if parsed.until else 0,
        last=last,
        first=parsed.first,
        follow=parsed.follow,
        schema=parsed.schema,
    )


def _from_agent(pid: int | None, wanted: Wanted) -> Iterator[bytes]:
    from exporter.status import find_agent, listen

    with listen(find_agent(pid), f"/observe?{wanted.query()}") as lines:
        for line in lines:
            if line.startswith(b'{"notice"'):
                missed = json.loads(line)["notice"]["missed"]
                print(f"flow-exporter: too slow: {missed} flows not shown", file=sys.stderr)
            elif line != b"\n":
                yield line


def _from_file(name: str, wanted: Wanted) -> Iterator[bytes]:
    """Lines of a file that are asked for, as they stand there."""
    from exporter.batch.assemble import assemble
    from exporter.decode import decode_json
    from exporter.errors import DecodeError
    from exporter.observe import Chosen

    chosen = Chosen(wanted)
    number = 0
    kept: list[bytes] = []
    with _opened(name) as file:
        while not chosen.done and (lines := list(islice(file, _LINES))):
            records = []
            for line in lines:
                number += 1
                try:
                    records.append(decode_json(line))
                except DecodeError as err:
                    raise DecodeError(f"{name}, line {number}: {err}") from None
            rows = chosen.rows(assemble(records))
            kept = [*kept, *(lines[row] for row in rows)]
            if wanted.last is None:
                yield from kept
                kept = []
            kept = kept[-wanted.last :] if wanted.last else []
    yield from kept


def _opened(name: str) -> Any:
    from exporter.errors import CaptureFileError

    if name == "-":
        return sys.stdin.buffer
    try:
        return Path(name).open("rb")
    except OSError as err:
        raise CaptureFileError(f"{name}: {err.strerror}") from err


def _printer(parsed: argparse.Namespace) -> Callable[[Iterable[bytes]], int]:
    output = parsed.output or ("compact" if sys.stdout.isatty() else "json")
    if output == "json":
        return _print_json
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return _Lines(table=output == "table", colour=colour).print


def _print_json(lines: Iterable[bytes]) -> int:
    for line in lines:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    return DONE


class _Lines:
    """A line of text for each flow."""

    def __init__(self, *, table: bool, colour: bool) -> None:
        self._table = table
        self._colour = colour

    def print(self, lines: Iterable[bytes]) -> int:
        """Print them as they come."""
        from exporter.decode import decode_json

        if self._table:
            print(self._row(("TIME", "SOURCE", "DESTINATION", "PROTO", "PKTS", "BYTES", "FLAGS",
                             "SEEN AT")))  # fmt: skip
        for line in lines:
            record = decode_json(line)
            print(self._as_row(record) if self._table else self._compact(record), flush=True)
        return DONE

    def _compact(self, record: FlowRecord) -> str:
        from exporter.batch.attributes import SIDES

        source, destination = (
            self._paint(code, _end(record, side))
            for code, side in zip(("36", "35"), SIDES, strict=True)
        )
        packets, octets, protocol, flags, seen = _rest(record)
        words = (self._paint("2", _clock(record)), source, "->", destination, protocol)
        tail = f"{packets} packets {octets}B"
        return " ".join(word for word in (*words, tail, flags, self._paint("2", seen)) if word)

    def _as_row(self, record: FlowRecord) -> str:
        from exporter.batch.attributes import SIDES

        packets, octets, protocol, flags, seen = _rest(record)
        ends = (_end(record, side, name_first=True) for side in SIDES)
        return self._row((_clock(record)[:8], *ends, protocol, packets, octets, flags, seen))

    def _row(self, cells: Sequence[str]) -> str:
        room = _columns() - 8 - 6 - 5 - 5 - 5 - 7
        wide = max(room * 2 // 5, 15)
        widths = (8, wide, wide, 6, 5, 5, 5, max(room - 2 * wide, 7))
        text = [
            cell[: width - 1] + "…" if len(cell) > width else cell.ljust(width)
            for cell, width in zip(cells, widths, strict=True)
        ]
        for number in (4, 5):
            text[number] = cells[number].rjust(widths[number])
        return " ".join(text).rstrip()

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and text else text


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _clock(record: FlowRecord) -> str:
    seconds, nanoseconds = divmod(record.time_flow_end_ns, 1_000_000_000)
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{nanoseconds // 1_000_000:03d}"


def _end(record: FlowRecord, side: Side, *, name_first: bool = False) -> str:
    from exporter.sinks.stdout.best_name import best_name
    from exporter.sinks.stdout.table import end_text
    from exporter.telemetry import printable

    port = getattr(record, f"{side}_port")
    address = end_text(getattr(record, side), port, record.ip_protocol)
    name = best_name(record.metadata, side)
    if not name:
        return address
    name = printable(name)
    has_port = address != getattr(record, side)
    return f"{name}:{port}" * has_port or name if name_first else f"{address} ({name})"


def _rest(record: FlowRecord) -> tuple[str, str, str, str, str]:
    from exporter.batch.protocols import protocol_name
    from exporter.batch.record import TCP
    from exporter.sinks.stdout.table import count_text, flags_text
    from exporter.telemetry import printable

    flags = flags_text(record.tcp_control_bits) if record.ip_protocol == TCP else ""
    seen = " ".join(f"{printable(p.name)}{'←→'[p.direction]}" for p in record.points)
    counts = count_text(record.packets), count_text(record.octets_l2)
    return *counts, protocol_name(record.ip_protocol), flags, seen
