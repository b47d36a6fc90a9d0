"""The flags of ``flow-exporter observe``, and how it prints; ``exporter.observe`` has the rest."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporter.flow_text import How
    from exporter.observe import Wanted
    from exporter.observe_remote import Server

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
    ("label", "KEY[=VALUE]", "with this Kubernetes label", True),
    ("protocol", "NAME", "of this protocol", False),
    ("ip-version", "4|6", "of this IP version", False),
    ("interface", "NAME", "seen at this interface", False),
    ("traffic-direction", "ingress|egress", "counted in this direction", False),
    ("tcp-flags", "LIST", "TCP with all of these flags", False),
    ("where", "NAME=VALUE", "of which this is said; without VALUE: nothing", False),
)
#: Other names, as ``hubble observe`` has them.
_SHORT = {"namespace": "-n", "label": "-l"}


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
        text = str(values) if self.const is None else self.const
        pair = (self.dest.replace("_", "-"), text)
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
    add("--all", action="store_true", help="of the recent flows all that the agent has kept")
    add("--first", type=int, metavar="N", default=0, help="stop after N flows")
    add("--since", metavar="TIME", help="flows that ended since: 30s ago, or 2026-01-31T12:00:00Z")
    add("--until", metavar="TIME", help="flows that ended before")
    add("-o", "--output", choices=("compact", "json", "table"),
        help="default: compact on a terminal, else JSON lines")  # fmt: skip
    add(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="of compact; default: on a terminal, unless NO_COLOR is set",
    )
    add("--numeric", action="store_true", help="text without names: addresses and numbers")
    add("--print-node-name", action="store_true", help="text with the agent's host first")
    add("--schema", choices=("otel", "netobserv"), default="otel", help="keys of JSON records")
    add("--input-file", metavar="FILE", help="JSON lines in place of an agent; - is standard input")
    add_server(parser)
    add_conditions(parser)


def add_server(parser: argparse.ArgumentParser) -> None:
    """Which agent; :func:`servers_of` takes what they give."""
    add = parser.add_argument_group("agent").add_argument
    add("--pid", type=int, help="of the agent, if several are running here")
    add(
        "--server",
        action="append",
        metavar="[tls://]HOST:PORT",
        help="an agent elsewhere that serves its flows (run --observe-address); may be repeated",
    )
    add("--tls", action="store_true", help="TLS, also without tls:// before the address")
    add(
        "--tls-ca-cert-files",
        action="append",
        metavar="LIST",
        help="PEM files of the authorities to trust; default: the system's",
    )
    add("--tls-client-cert-file", type=Path, metavar="FILE", help="PEM file of your certificate")
    add("--tls-client-key-file", type=Path, metavar="FILE", help="PEM file of its key")
    add("--tls-server-name", default="", metavar="NAME", help="that its certificate must have")


def servers_of(parsed: argparse.Namespace) -> list[Server]:
    """
    Those that were named; none is the agent that runs here.

    Raises:
        ConfigError: If an address is none, or a file cannot be used.
    """
    from exporter.errors import ConfigError

    if not parsed.server:
        if any(value for name, value in vars(parsed).items() if name.startswith("tls")):
            raise ConfigError("TLS is for agents elsewhere: give --server")
        return []
    from exporter.observe_remote import Server

    lists = parsed.tls_ca_cert_files or ()
    servers = [
        Server(
            address,
            tls=parsed.tls,
            authorities=tuple(Path(name) for names in lists for name in names.split(",")),
            certificate=parsed.tls_client_cert_file,
            key=parsed.tls_client_key_file,
            name=parsed.tls_server_name,
        )
        for address in parsed.server
    ]
    for server in servers:
        server.check()
    return servers


def add_conditions(parser: argparse.ArgumentParser) -> None:
    """Add those of flows; :func:`conditions_of` takes what they give."""
    add = parser.add_argument_group("conditions").add_argument
    add("--not", action=_Not, nargs=0, help="turn the next condition round")
    for name, value, meaning, of_end in CONDITIONS:
        ends = (("", "either end is "), ("from-", "the source is "), ("to-", "the destination is "))
        for prefix, which in ends if of_end else (("", ""),):
            names = [f"--{prefix}{name}"] if prefix else [*_short(name), f"--{name}"]
            add(*names, action=_Condition, metavar=value, help=f"{which}{meaning}")
    for version in "46":
        add(f"-{version}", f"--ipv{version}", action=_Condition, nargs=0, const=version,
            dest="ip_version", help=f"IPv{version}")  # fmt: skip


def _short(name: str) -> list[str]:
    return [_SHORT[name]] if name in _SHORT else []


def conditions_of(parsed: argparse.Namespace) -> tuple[list[Pair], list[Pair]]:
    """
    Those that flows are asked for by, and those that they are left out by.

    Raises:
        ConfigError: If ``--not`` is the last of them, or a name that is asked for is none.
    """
    from exporter.errors import ConfigError

    if getattr(parsed, "turned", False):
        raise ConfigError("--not comes before the condition that it turns round")
    conditions: list[Pair] = getattr(parsed, "conditions", None) or []
    excluded: list[Pair] = getattr(parsed, "excluded", None) or []
    given = [*conditions, *excluded]
    # Octets that are no UTF-8 are not, either.
    if not all(text.isprintable() for _, text in given):
        raise ConfigError("a condition's value must be text that can be printed")
    if any(name == "where" for name, _ in given):
        # Imported here: all enrichers, for what they can add.
        from exporter.fields import check_conditions

        check_conditions(given)
    return conditions, excluded


def run(parsed: argparse.Namespace) -> int:
    """The command. Returns its exit code."""
    wanted = _wanted(parsed)
    show = _printer(parsed)
    if parsed.input_file is not None:
        return show(_from_file(parsed.input_file, wanted))
    return show(_flows(_from_agents(parsed, wanted)))


def _wanted(parsed: argparse.Namespace) -> Wanted:
    # Imported here: other commands need neither NumPy nor a decoder.
    from exporter.errors import ConfigError
    from exporter.observe import Wanted, moment_ns

    conditions, excluded = conditions_of(parsed)
    last = parsed.last
    if last is not None and parsed.all:
        raise ConfigError("--all and --last are both of the recent flows: give one")
    if min(last or 0, parsed.first) < 0:
        raise ConfigError("--last and --first are numbers of flows, 0 at least")
    if last is None and parsed.input_file is None and not (parsed.since or parsed.all):
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


def _from_agents(parsed: argparse.Namespace, wanted: Wanted) -> Iterator[bytes]:
    """Lines of the one here, or of those that were named."""
    servers = servers_of(parsed)
    if servers:
        from exporter.observe_remote import follow, recent

        yield from (follow if wanted.follow else recent)(servers, wanted, _say)
        return
    from exporter.status import find_agent, listen

    with listen(find_agent(parsed.pid), f"/observe?{wanted.query()}") as lines:
        yield from lines


def _flows(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Those that are flows; what else is told goes to standard error."""
    for line in lines:
        if line.startswith(b'{"notice"'):
            missed = json.loads(line)["notice"]["missed"]
            _say(f"too slow: {missed} flows not shown")
        elif line != b"\n":
            yield line


def _say(line: str) -> None:
    print(f"flow-exporter: {line}", file=sys.stderr, flush=True)


def _from_file(name: str, wanted: Wanted) -> Iterator[bytes]:
    """Lines of a file that are asked for, as they stand there."""
    from exporter.decode import decode_json
    from exporter.errors import DecodeError
    from exporter.fields import named
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
                    records.append(named(decode_json(line)))
                except DecodeError as err:
                    raise DecodeError(f"{name}, line {number}: {err}") from None
            rows = chosen.rows(records)
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
    from exporter.flow_text import How

    output = parsed.output or ("compact" if sys.stdout.isatty() else "json")
    if output == "json":
        return _print_json
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    how = How(
        table=output == "table",
        colour=colour if parsed.color == "auto" else parsed.color == "always",
        names=not parsed.numeric,
        nodes=parsed.print_node_name,
    )
    return lambda lines: _print_text(how, lines)


def _print_json(lines: Iterable[bytes]) -> int:
    for line in lines:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    return DONE


def _print_text(how: How, lines: Iterable[bytes]) -> int:
    from exporter.flow_text import texts

    for text in texts(how, lines):
        print(text, flush=True)
    return DONE
