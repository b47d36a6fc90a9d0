"""
The command line.

Exit codes: 0 done; 1 it could not be done, or the ledger does not close; 2 the command was wrong.
An error is one line on standard error that says what to do.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from exporter import (
    __version__,
    cli_completion,
    cli_consume,
    cli_doctor,
    cli_kube_cache,
    cli_lag,
    cli_observe,
    cli_top,
)
from exporter.cli_examples import epilog
from exporter.ebpf.errors import BpfError
from exporter.errors import CaptureFileError, ConfigError, ExporterError

log = logging.getLogger(__name__)

DONE, FAILED, USAGE = 0, 1, 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


class _Commands(argparse.RawDescriptionHelpFormatter):
    """Each command on one line: argparse does not count how far they are moved to the right."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = len("    dump-config")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, the process's own if none is given. Returns the exit code."""
    if arguments is None:
        # The process is ours. At its end Python looks for cycles in all that is left, which is the
        # system's to free: a tenth of a second of an agent's, in which its successor waits for it.
        atexit.register(gc.freeze)
    parsed = parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = parsed.command
    try:
        code = command(parsed)
        # Here, where it can still be reported, rather than by Python at exit.
        sys.stdout.flush()
    except ConfigError as err:
        return _fail(err, USAGE)
    except (ExporterError, BpfError) as err:
        return _fail(err, FAILED)
    except KeyboardInterrupt:
        return FAILED
    except BrokenPipeError:
        # Whoever read our output has had enough.
        _close_output()
        return FAILED
    except OSError as err:
        if err.filename is not None:
            raise
        _close_output()
        return _fail(ExporterError(f"the output cannot be written: {err.strerror}"), FAILED)
    return code


def _close_output() -> None:
    """Python would try to write what is left, and complain, when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(err: Exception, code: int) -> int:
    print(f"flow-exporter: {' '.join(str(err).split())}", file=sys.stderr)
    return code


def _run(parsed: argparse.Namespace) -> int:
    from exporter.capabilities import require
    from exporter.service import Service, Source
    from exporter.telemetry import setup_log

    config = _config(parsed)
    setup_log(config.log_level)
    _say_what_is_ignored()
    require("run", config)
    return Service(config, Source(lambda: _config(parsed), parsed.config)).run()


def _say_what_is_ignored() -> None:
    from exporter.netobserv import ignored

    for serious, line in ignored(os.environ):
        log.log(logging.WARNING if serious else logging.INFO, "%s", line)


def _replay(parsed: argparse.Namespace) -> int:
    from exporter.capabilities import require
    from exporter.cli_progress import progress
    from exporter.replay.replay import replay

    require("replay")
    config = _config(parsed)
    with progress(parsed.file, quiet=parsed.quiet) as tell:
        replayed = replay(parsed.file, config.capture, tell)
    balance = _print_flows(replayed, config, parsed.schema or "otel", as_table=parsed.table)
    if not parsed.quiet:
        _print_sums(replayed, balance, told_excluded=bool(config.exclude))
    if replayed.error:
        return _fail(CaptureFileError(f"{parsed.file}: {replayed.error}"), FAILED)
    return FAILED if balance.problems() else DONE


def _print_sums(replayed: Any, balance: Any, *, told_excluded: bool) -> None:
    excluded = f"  excluded: {balance.excluded_total.flows}" if told_excluded else ""
    flows = balance.published.flows
    kernel = replayed.balance.kernel
    malformed = kernel.outcome("malformed").packets + replayed.unplayable
    print(
        f"frames: {replayed.frames}  flows: {flows}  "
        f"packets: {replayed.balance.drained.packets}  octets: {replayed.balance.drained.octets}  "
        f"not IP: {kernel.outcome('not_ip').packets}  malformed: {malformed}  "
        f"lost: {kernel.lost.packets}{excluded}",
        file=sys.stderr,
    )


def _print_flows(replayed: Any, config: Any, schema: str, *, as_table: bool) -> Any:
    """Returns the ledger, with what was not printed."""
    from exporter.dedupe.config import DedupeConfig
    from exporter.dedupe.dedupe import Deduper
    from exporter.enrich.table import Surroundings, make
    from exporter.exclude.excluder import Excluder
    from exporter.sinks.encodings.jsonl import SHAPES, encode

    batch = Deduper(DedupeConfig(mode="none")).apply(replayed.batch)
    enrichment = make(config.enrich, config.agent, Surroundings(lambda: replayed.names))
    excluder = Excluder(config.exclude, enrichment.attributes())
    enrichment.open()
    batch, excluded = excluder.apply(enrichment.apply(batch))
    enrichment.close()
    flows = replace(replayed.balance.drained, flows=len(replayed.batch))
    balance = replace(replayed.balance, drained=flows, published=batch.totals, excluded=excluded)
    if as_table:
        from rich.console import Console

        from exporter.sinks.stdout.table import render

        if len(batch):
            Console().print(render(replace(batch, window=_window(batch)), 2 * len(batch)))
        return balance
    sys.stdout.buffer.write(encode(batch, SHAPES[schema]))
    sys.stdout.buffer.flush()
    return balance


def _window(batch: Any) -> Any:
    from exporter.batch.batch import Window

    return Window(int(batch.flow_start_ns.min()), int(batch.flow_end_ns.max()))


def _ledger(parsed: argparse.Namespace) -> int:
    from exporter.status import ask, find_agent

    ledger = json.loads(ask(find_agent(parsed.pid), "/ledger"))
    if parsed.json or not sys.stdout.isatty():
        print(json.dumps(ledger, indent=2))
    else:
        print(_ledger_text(ledger))
    for problem in ledger["problems"]:
        print(f"flow-exporter: the ledger does not close: {problem}", file=sys.stderr)
    return DONE if ledger["closes"] else FAILED


def _ledger_text(ledger: dict[str, Any]) -> str:
    """The balance as a table: packets and octets of every account."""
    kernel = dict(ledger["kernel"])
    lost, earlier = kernel.pop("lost"), ledger["earlier_agents"]
    rows: list[tuple[str, dict[str, int] | None]] = [("seen", kernel.pop("seen"))]
    rows += [(f"  {name.replace('_', ' ')}", tally) for name, tally in kernel.items()]
    rows += [(f"  lost, {why.replace('_', ' ')}", tally) for why, tally in lost.items()]
    if any(tally["packets"] for tally in earlier.values()):
        rows += [("drained by earlier agents", earlier["settled"])]
        rows += [("lost with earlier agents", earlier["lost"])]
    rows += [("still in the kernel", ledger["held_in_kernel"]), ("drained", ledger["drained"])]
    rows += [("  deduplicated", ledger["deduplicated"])]
    rows += [(f"  excluded, {name}", what) for name, what in ledger["excluded"].items()]
    rows += [("  published", ledger["published"])]
    for name, sink in ledger["sinks"].items():
        rows += [(f"sink {name}: queued", sink["queued"])]
        if sink["recovered"]["flows"]:
            rows += [("  recovered from its spool", sink["recovered"])]
        rows += [(f"  {state}", sink[state]) for state in ("delivered", "pending")]
        if sink["spooled"]["flows"]:
            rows += [("  spooled", sink["spooled"])]
        rows += [(f"  dropped, {why}", what) for why, what in sink["dropped"].items()]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'':<{width}}  {'packets':>16}  {'octets':>20}"]
    for name, tally in rows:
        if tally is not None:
            lines.append(f"{name:<{width}}  {tally['packets']:>16,}  {tally['octets']:>20,}")
    lines.append("the ledger closes" if ledger["closes"] else "THE LEDGER DOES NOT CLOSE")
    return "\n".join(lines)


def _unpin(parsed: argparse.Namespace) -> int:
    from exporter.capabilities import require
    from exporter.capture.store import unpin_all

    require("unpin")
    left = unpin_all(_config(parsed).capture.pin or "auto")
    if left is None:
        print("nothing is pinned", file=sys.stderr)
        return DONE
    print(
        f"detached from {left.points} hook(s); packets counted and never read: {left.unread}",
        file=sys.stderr,
    )
    return DONE


def _doctor(parsed: argparse.Namespace) -> int:
    return cli_doctor.run(parsed, lambda: _config(parsed))


def _check(parsed: argparse.Namespace) -> int:
    from exporter.enrich.table import Surroundings, make
    from exporter.exclude.excluder import Excluder
    from exporter.telemetry import setup_log

    config = _config(parsed)
    setup_log(config.log_level)
    _say_what_is_ignored()
    # Expressions are read where it is known what they can name.
    enrichment = make(config.enrich, config.agent, Surroundings(dict))
    Excluder(config.exclude, enrichment.attributes())
    return DONE


def _dump_config(parsed: argparse.Namespace) -> int:
    from exporter.config import dump

    print(dump(_config(parsed)), end="")
    return DONE


#: Attribute of the parsed arguments -> path of the key it sets.
_FLAGS = {
    "interfaces": ("capture", "interfaces"),
    "exclude_interfaces": ("capture", "exclude_interfaces"),
    "netns": ("capture", "netns"),
    "attach": ("capture", "hook"),
    "loader": ("capture", "loader"),
    "drain_interval": ("capture", "drain_interval"),
    "max_flows": ("capture", "max_flows"),
    "flow_memory": ("capture", "flow_memory"),
    "ring_size": ("capture", "ring_size"),
    "sampling": ("capture", "sampling"),
    "gso": ("capture", "gso"),
    "clock": ("capture", "clock"),
    "pin": ("capture", "pin"),
    "dedupe": ("dedupe", "mode"),
    "agent_address": ("agent", "address"),
    "metrics_address": ("metrics", "address"),
    "observe_address": ("observe", "address"),
    "page": ("metrics", "page"),
    "sink": ("sinks",),
    "log_level": ("log_level",),
}


def _config(parsed: argparse.Namespace) -> Any:
    from exporter.config import load

    flags: dict[str, Any] = {}
    for attribute, path in _FLAGS.items():
        value = getattr(parsed, attribute, None)
        if value is None:
            continue
        place = flags
        for section in path[:-1]:
            place = place.setdefault(section, {})
        place[path[-1]] = value
    direction = getattr(parsed, "direction", None)
    if direction in ("ingress", "egress"):
        other = "egress" if direction == "ingress" else "ingress"
        flags.setdefault("capture", {})[other] = False
    return load(parsed.config, os.environ, flags, getattr(parsed, "schema", None))


def parser() -> argparse.ArgumentParser:
    """Every command and its flags. The result's ``command`` takes the parsed arguments."""
    top = _Parser(
        prog="flow-exporter",
        description="Network flows from eBPF, every packet accounted for.",
        epilog=epilog(""),
        formatter_class=_Commands,
    )
    top.add_argument("--version", action="version", version=f"flow-exporter {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    run = _command(commands, "run", _run, "observe interfaces and export flows")
    _add_capture_flags(run)
    _add_run_flags(run)

    replay = _command(commands, "replay", _replay, "flows of a capture file, as JSON lines")
    replay.add_argument("file", type=Path, metavar="FILE", help="pcap or pcapng")
    replay.add_argument("--table", action="store_true", help="print a table instead")
    replay.add_argument("--quiet", action="store_true", help="no progress and no sums")
    _add_schema_flag(replay)
    _add_size_flags(replay)
    _add_config_flag(replay)

    ledger = _command(commands, "ledger", _ledger, "the balance of a running agent")
    ledger.add_argument("--pid", type=int, help="of the agent, if several are running")
    ledger.add_argument("--json", action="store_true", help="JSON, also on a terminal")

    unpin = _command(commands, "unpin", _unpin, "remove what 'run --pin' left behind")
    unpin.add_argument("pin", nargs="?", metavar="PATH", help="default: as for run --pin")
    _add_config_flag(unpin)

    cli_observe.add_arguments(
        _command(commands, "observe", cli_observe.run, "flows of a running agent, or of a file")
    )

    cli_top.add_arguments(_command(commands, "top", cli_top.run, "who and what is busiest, live"))

    _add_kafka_commands(commands)

    cli_kube_cache.add_arguments(
        _command(
            commands,
            "kube-cache",
            cli_kube_cache.run,
            "list and watch a Kubernetes cluster once for all agents",
        )
    )

    _add_commands_about_it(commands)
    return top


def _add_commands_about_it(commands: Any) -> None:
    """Commands that say what would be."""
    cli_doctor.add_arguments(doctor := _command(commands, "doctor", _doctor, cli_doctor.MEANING))
    _add_capture_flags(doctor)
    _add_run_flags(doctor)
    for name, function, meaning in (
        ("check", _check, "validate the configuration and exit"),
        ("dump-config", _dump_config, "print the effective configuration"),
    ):
        command = _command(commands, name, function, meaning)
        _add_capture_flags(command)
        _add_run_flags(command)
    cli_completion.add_arguments(
        _command(
            commands, "completion", cli_completion.run, "a script that makes a shell complete"
        ),
        parser,
    )


def _add_kafka_commands(commands: Any) -> None:
    cli_consume.add_arguments(
        _command(
            commands, "consume", cli_consume.run, "print, filter and sum what is on a Kafka topic"
        )
    )
    cli_lag.add_arguments(
        _command(commands, "lag", cli_lag.run, "how far Kafka's consumer groups are behind")
    )


def _command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], meaning: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=meaning,
        description=f"{meaning[:1].upper()}{meaning[1:]}.",
        epilog=epilog(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=function)
    return parser


def _add_capture_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--interfaces", metavar="LIST", help="names or /regex/ to observe; default: all")
    add("--exclude-interfaces", metavar="LIST", help="names or /regex/ to leave out; default: lo")
    add(
        "--netns",
        metavar="LIST",
        help="namespaces of /var/run/netns to observe too: names or /regex/",
    )
    add("--direction", choices=("both", "ingress", "egress"), help="hooks to use; default: both")
    add(
        "--attach",
        choices=("auto", "tcx", "tc"),
        help="how to attach; default: TCX if there is one",
    )
    add("--drain-interval", metavar="TIME", help="time between drains; default: 5s")
    add("--dedupe", metavar="MODE", help="merge (default), mark, drop or none")
    add("--agent-address", metavar="IP", help="address to report as the agent's")
    add("--clock", choices=("auto", "precise", "coarse"), help="precision of a flow's end")
    _add_size_flags(parser)


def _add_size_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--loader",
        choices=("auto", "libbpf", "bcc"),
        help="packaged kernel program, or compiled here by BCC; default: the first that can be",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--max-flows", metavar="N", help="flows between two drains")
    size.add_argument(
        "--flow-memory", metavar="SIZE", help="kernel memory for flows; default: 64MiB"
    )
    add(
        "--ring-size",
        metavar="SIZE",
        help="ring buffer for what the map cannot take; default: 16MiB",
    )
    add("--sampling", metavar="N", help="take 1 in N packets; default: 1")
    add(
        "--gso",
        choices=("segments", "packet"),
        help="what a super-packet counts as; default: segments",
    )


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--sink",
        action="append",
        metavar="SINK",
        help="stdout (default), null, grpc://HOST:PORT, kafka://HOST:PORT/TOPIC, otlp+grpc://, "
        "otlp+http://, ipfix+udp://, ipfix+tcp://, prometheus:// and HOST:PORT, file:///PATH; may "
        "be repeated",
    )
    add(
        "--pin",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="stay attached when the agent ends, for its successor; "
        "default PATH: /sys/fs/bpf/flow-exporter",
    )
    _add_schema_flag(parser)
    add("--metrics-address", metavar="HOST:PORT", help="serve /metrics, /healthz and /readyz there")
    add("--observe-address", metavar="HOST:PORT", help="serve flows over gRPC there, for observe")
    add(
        "--page",
        action="store_true",
        default=None,
        help="and a page of live talkers and the ledger",
    )
    add("--log-level", choices=("debug", "info", "warning", "error"), help="default: info")
    _add_config_flag(parser)


def _add_schema_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--schema", choices=("otel", "netobserv"), help="keys of JSON records; default: otel"
    )


def _add_config_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML configuration")
