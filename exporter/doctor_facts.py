"""
What else a report of a fault needs: versions, limits, interfaces, clocks, the configuration, and
the agent that runs.

Only what can be read: nothing is loaded, attached or sent, but for a connection to each destination
if somebody asks for it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from exporter import __version__
from exporter.config import Config, hidden
from exporter.doctor import Finding
from exporter.ebpf._libbpf import MissingLibrary, library
from exporter.ebpf.cpus import possible_cpus
from exporter.ebpf.errors import BpfError
from exporter.ebpf.kinds import Direction
from exporter.errors import ConfigError, ControlError
from exporter.quantities import join_host_port, split_host_port

#: Kernels before 5.11 count the maps' memory against RLIMIT_MEMLOCK.
#: Source: kernel commit 97306be45fbe ("Merge branch 'switch to memcg-based memory accounting'").
_MEMCG_SINCE = (5, 11)
#: Clock sources that are read without a system call, and those of virtual machines.
_FAST_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")
_DIRECTIONS: tuple[Direction, ...] = ("ingress", "egress")
#: Interfaces that are named in a line; JSON has all.
_SHOWN = 20
#: Requirements that no agent has.
_DEVELOPMENT = re.compile(r"extra == .(test|lint|kernels)\b")
#: Seconds for a program or a destination to answer.
_PATIENCE = 3.0


def versions() -> Iterator[Finding]:
    """Of the program, of what it runs on, and of what it is made of."""
    where = Path(__file__).parent
    yield _said("flow-exporter", f"{__version__} in {where}, Python {platform.python_version()}")
    yield _said("distribution", _distribution())
    found = dict(_libraries())
    yield _said("libraries", ", ".join(f"{name} {what}" for name, what in found.items()), found)


def limits() -> Iterator[Finding]:
    """What the process and the host may use."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    counted = _kernel_version() < _MEMCG_SINCE
    short = counted and soft != resource.RLIM_INFINITY
    yield Finding(
        "locked memory",
        "no" if short else "yes",
        f"{_limit(soft)} octets"
        + ("" if counted else ", which maps do not count against since Linux 5.11"),
        "maps may not fit: run with LimitMEMLOCK=infinity, or ulimit -l unlimited" if short else "",
        False,
    )
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield _said("open files", f"{_limit(files)}; two for each interface with TCX")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield _said("memory", f"{memory >> 20} MiB; {_cgroup_limit()}")
    cpus = f"{os.cpu_count()} online, {len(os.sched_getaffinity(0))} for this process"
    yield _said(
        "CPUs", f"{cpus}, {possible_cpus()} possible: each flow has a slot for each of these"
    )


def _cgroup_limit() -> str:
    # Of this process, which need not be that of the agent.
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, _, path = line.split(":", 2)
        limit = Path(f"/sys/fs/cgroup{path}/memory.max")
        if number == "0" and limit.exists():
            return f"memory.max of this cgroup: {limit.read_text().strip()}"
    return "no limit by a cgroup is known"


def interfaces() -> Iterator[Finding]:
    """What is there to observe, and whose programs are on its hooks already."""
    names = dict(socket.if_nameindex())
    found = {name: _interface(number, name) for number, name in names.items()}
    shown = [f"{name} ({one['state']})" for name, one in found.items()]
    yield _said("interfaces", _some(shown) or "none", found)
    others = [
        f"{name} {direction}: {', '.join(programs)}"
        for name, one in found.items()
        for direction, programs in one["hooks"].items()
        if programs
    ]
    yield Finding(
        "programs at hooks",
        "yes" if others else "",
        _some(others) or "none (without CAP_NET_ADMIN they are not seen)",
        "they run beside ours; one that redirects or drops before it hides packets from it"
        if others
        else "",
        False,
    )


def _interface(number: int, name: str) -> dict[str, Any]:
    base = Path("/sys/class/net") / name
    kinds = [line for line in _read(base / "uevent").splitlines() if line.startswith("DEVTYPE=")]
    return {
        "index": number,
        "state": _read(base / "operstate") or "unknown",
        "mtu": _read(base / "mtu"),
        "kind": kinds[0].removeprefix("DEVTYPE=") if kinds else "",
        "hooks": {direction: list(_at_hook(number, direction)) for direction in _DIRECTIONS},
    }


def _at_hook(number: int, direction: Direction) -> Iterator[str]:
    """Programs on the two kinds of hooks, in words. What cannot be asked has none."""
    # Imported here: netlink is not needed to say what a configuration is.
    from exporter.ebpf import qdisc, tcx

    # A kernel without TCX, or not for us to ask; the findings of the kernel say so.
    with contextlib.suppress(BpfError, MissingLibrary):
        chain = tcx.query(number, direction)
        yield from (f"TCX {_program(one.program_id)}" for one in chain.programs)
    try:
        for one in qdisc.filters(number, direction):
            yield f"tc filter {one.name or one.kind} of priority {one.priority}"
    except OSError:
        # The interface is gone, or its qdiscs are not for us to ask.
        return


def _program(number: int) -> str:
    from exporter.ebpf.programs import Program

    try:
        with Program.from_id(number) as program:
            return f"{program.info().name} (program {number})"
    except BpfError:
        # Gone by now, or only for CAP_SYS_ADMIN to look at.
        return f"program {number}"


def _some(words: list[str]) -> str:
    """The first of many."""
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


def clocks() -> Iterator[Finding]:
    """Times of flows are only as good as the host's clock."""
    source = _read(Path("/sys/devices/system/clocksource/clocksource0/current_clocksource"))
    slow = source not in _FAST_CLOCKS
    yield Finding(
        "clock source",
        "could not tell" if not source else "no" if slow else "yes",
        source or "not known",
        "reading the time is slow, and each packet does: prefer --clock coarse" if slow else "",
        False,
    )
    synchronized = _synchronized()
    yield Finding(
        "clock synchronized",
        synchronized,
        {"yes": "systemd says so", "no": "systemd says that it is not"}.get(
            synchronized, "no systemd to ask; chronyc tracking or ntpq -p know"
        ),
        "flows of several hosts cannot be put in order" if synchronized == "no" else "",
        False,
    )
    suspended = max(time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic(), 0)
    yield _said("time since boot", f"{time.monotonic():.0f} s, {suspended:.0f} s more suspended")


def _synchronized() -> str:
    command = shutil.which("timedatectl")
    if command is None or not Path("/run/systemd/system").is_dir():
        return "could not tell"
    try:
        done = subprocess.run(  # noqa: S603 - a program of the system, without a shell
            [command, "show", "--property=NTPSynchronized", "--value"],
            capture_output=True, text=True, check=False, timeout=_PATIENCE,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return "could not tell"
    return done.stdout.strip() if done.stdout.strip() in ("yes", "no") else "could not tell"


def configuration(load: Callable[[], Config]) -> tuple[list[Finding], Config | None]:
    """What file, environment and flags come to, with what may be secret hidden."""
    try:
        config = load()
    except ConfigError as err:
        return [Finding("configuration", "no", str(err), "no agent starts with it", False)], None
    sinks = ", ".join(sink.name or sink.type for sink in config.sinks)
    return [_said("configuration", f"valid; sinks: {sinks}", hidden(config))], config


def agent(pid: int | None) -> tuple[list[Finding], dict[str, bytes]]:
    """
    The agent that runs here.

    Returns:
        What is to be said of it, and its answers by file name.
    """
    from exporter.status import ask, find_agent

    try:
        path = find_agent(pid)
    except ControlError as err:
        return [_said("running agent", str(err))], {}
    answers: dict[str, bytes] = {}
    for name in ("ledger.json", "readyz.txt", "config.json", "metrics.txt", "log.txt"):
        try:
            answers[name] = ask(path, f"/{name.partition('.')[0]}")
        except ControlError as err:
            answers[name] = f"{err}\n".encode()
    return list(_agent(path.stem, answers)), answers


def _agent(pid: str, answers: dict[str, bytes]) -> Iterator[Finding]:
    import orjson

    ready = answers["readyz.txt"].decode(errors="replace").splitlines()
    fine = ready[:1] == ["ok"]
    yield Finding(
        "running agent",
        "yes",
        f"process {pid}: {'; '.join(ready)}",
        "" if fine else "its sinks or enrichers say what is wrong; so does its log",
        False,
    )
    try:
        ledger = orjson.loads(answers["ledger.json"])
    except orjson.JSONDecodeError:
        yield Finding("its ledger", "could not tell", answers["ledger.json"].decode(), "", False)
        return
    lost = {why: tally for why, tally in ledger["kernel"]["lost"].items() if tally["packets"]}
    said = ", ".join(f"{tally['packets']} packets {why}" for why, tally in lost.items())
    dropped = {
        f"{name}: {why}": sums["flows"]
        for name, sink in ledger["sinks"].items()
        for why, sums in sink["dropped"].items()
    }
    said_dropped = ", ".join(f"{flows} flows by {where}" for where, flows in dropped.items())
    yield Finding(
        "its ledger",
        "yes" if ledger["closes"] else "no",
        "; ".join(ledger["problems"]) or "closes",
        "" if ledger["closes"] else "this is a fault of the agent: please report it",
        False,
        ledger,
    )
    yield Finding(
        "nothing lost",
        "no" if lost or dropped else "yes",
        "; ".join(
            filter(None, (said and f"lost: {said}", said_dropped and f"dropped: {said_dropped}"))
        )
        or f"{ledger['kernel']['seen']['packets']} packets seen",
        "more memory (--flow-memory), or shorter drains; for sinks a larger queue or a spool"
        if lost or dropped
        else "",
        False,
    )


def destinations(config: Config) -> Iterator[Finding]:
    """Whether each can be reached from here: a connection is opened and closed again."""
    for number, sink in enumerate(config.sinks):
        name = sink.name or f"{sink.type} {number}"
        for kind, where in _places(sink):
            yield _reached(f"sink {name}", kind, where)
    if config.metrics.otlp is not None:
        yield _reached("metrics.otlp", "tcp", config.metrics.otlp.endpoint)


def _places(sink: Any) -> Iterator[tuple[str, str]]:
    """How a sink's destinations are reached, and where."""
    if sink.type == "kafka":
        yield from (("tcp", broker) for broker in sink.brokers)
    elif sink.type == "file":
        yield "file", str(sink.path)
    elif sink.type == "ipfix":
        yield sink.transport, sink.target
    elif sink.type == "grpc":
        yield "tcp", sink.target
    elif sink.type == "otlp":
        yield "tcp", sink.endpoint


def _reached(subject: str, kind: str, where: str) -> Finding:
    if kind == "file":
        return _writable(subject, Path(where))
    if not where:
        return Finding(subject, "could not tell", "OTEL_EXPORTER_OTLP_ENDPOINT names it", "", False)
    started = time.monotonic()
    try:
        host, port = split_host_port(where)
        if kind == "udp":
            address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][4]
            return _said(subject, f"{where} is {address[0]}; over UDP nobody says what arrives")
        with socket.create_connection((host, port), _PATIENCE) as there:
            peer = join_host_port(*there.getpeername()[:2])
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or str(err)
        advice = "is it running, does its name resolve, does a firewall let us through?"
        return Finding(subject, "no", f"{where}: {reason}", advice, False)
    milliseconds = 1000 * (time.monotonic() - started)
    return Finding(subject, "yes", f"{peer} took a connection in {milliseconds:.0f} ms", "", False)


def _writable(subject: str, path: Path) -> Finding:
    place = next((one for one in (path, *path.parents) if one.exists()), Path("/"))
    if os.access(place, os.W_OK):
        free = shutil.disk_usage(place).free
        return Finding(subject, "yes", f"{place} can be written, {free >> 20} MiB free", "", False)
    return Finding(subject, "no", f"{place} cannot be written", "check owner and mode", False)


def _said(subject: str, detail: str, more: Any = None) -> Finding:
    """What is neither good nor bad."""
    return Finding(subject, "", detail, "", False, more)


def _read(path: Path) -> str:
    """A line of the kernel's, or nothing."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else f"{value:,}"


def _kernel_version() -> tuple[int, int]:
    major, minor = (part.split("-")[0] for part in platform.release().split(".")[:2])
    return int(major), int(minor)


def _distribution() -> str:
    try:
        known = platform.freedesktop_os_release()
    except OSError:
        return "not known"
    return known.get("PRETTY_NAME", known.get("NAME", "not known"))


def _libraries() -> Iterator[tuple[str, str]]:
    """What the package asks for, as far as it is installed, and the libbpf that is loaded."""
    with contextlib.suppress(MissingLibrary):
        library()
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split()[-1]
        if "/libbpf.so" in path:
            yield "libbpf", Path(path).resolve().name.removeprefix("libbpf.so.")
            break
    try:
        wanted = metadata.requires("flow-exporter") or []
    except metadata.PackageNotFoundError:
        return
    for one in sorted({_name(line) for line in wanted if not _DEVELOPMENT.search(line)}):
        try:
            yield one, metadata.version(one)
        except metadata.PackageNotFoundError:
            # An extra that is not installed.
            continue


def _name(requirement: str) -> str:
    """``numpy>=1.26; extra == 'x'`` -> ``numpy``."""
    end = next((n for n, c in enumerate(requirement) if not (c.isalnum() or c in "-_.")), None)
    return requirement[:end]
