"""
The kernel's directory of trace events: numbers of tracepoints, probes defined by name.

Probes that are defined here outlive the process that defined them if it is killed. Each bears its
owner in its name, so that those of the dead can be told from everybody else's.

Source: Documentation/trace/{kprobetrace,uprobetracer}.rst; kernel/trace/trace.h (names).
"""

from __future__ import annotations

import errno as errnos
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from exporter.ebpf import _perf
from exporter.ebpf.errors import BpfError, FeatureMissing

ProbeKind = Literal["kprobe", "uprobe"]

#: Where it is looked for first, then in the table of mounts.
PLACES = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
#: Group of the probes that are defined here.
GROUP = "flow_exporter"

_CONFIG = {
    "kprobe": "CONFIG_KPROBES and CONFIG_KPROBE_EVENTS",
    "uprobe": "CONFIG_UPROBES and CONFIG_UPROBE_EVENTS",
}
_LINE = re.compile(
    r"(?P<kind>[pr])(?P<active>\d*)(?::(?:(?P<group>\w+)/)?(?P<event>\w+))?"
    r"\s+(?P<target>\S+)(?:\s+(?P<arguments>.*\S))?\s*"
)
_OURS = re.compile(r"p(?P<namespace>\d+)_(?P<pid>\d+)_(?P<start>\d+)_\d+")
_numbers = itertools.count()


@dataclass(frozen=True)
class Probe:
    """
    A line of ``kprobe_events`` or ``uprobe_events``.

    Args:
        event: Its name, unique in its group.
        target: ``function``, ``module:function``, with ``+offset``, or ``path:0xoffset``.
        group: Directory of the event.
        returning: Whether it is hit at the return.
        active: How many returns may be pending at once; 0 leaves it to the kernel.
        arguments: What is recorded, as it stands.
    """

    event: str
    target: str
    group: str = GROUP
    returning: bool = False
    active: int = 0
    arguments: str = ""

    @classmethod
    def parse(cls, line: str) -> Probe:
        """
        A line as the kernel prints it.

        Raises:
            ValueError: If it is not one.
        """
        match = _LINE.fullmatch(line)
        if match is None or not match["event"]:
            raise ValueError(f"not a probe: {line!r}")
        return cls(
            event=match["event"],
            target=match["target"],
            group=match["group"] or "kprobes",
            returning=match["kind"] == "r",
            active=int(match["active"] or 0),
            arguments=match["arguments"] or "",
        )

    def __str__(self) -> str:
        active = str(self.active) if self.active else ""
        kind = f"r{active}" if self.returning else "p"
        line = f"{kind}:{self.group}/{self.event} {self.target}"
        return f"{line} {self.arguments}" if self.arguments else line


class Tracefs:
    """
    The directory, for the length of a ``with`` block.

    Args:
        path: The directory; found, or mounted for this object alone, if ``None``.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._given = path
        self._path: Path | None = None
        self._mount = -1

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The directory, while open."""
        assert self._path is not None, "tracefs is not open"
        return self._path

    def open(self) -> None:
        """
        Find the directory, or mount it where nobody else sees it. Again is fine.

        Raises:
            FeatureMissing: If the kernel has no tracefs.
            BpfError: If it is neither mounted nor may be.
        """
        if self._path is None:
            self._path = self._given or find()
        if self._path is None:
            try:
                self._mount = _perf.mount_detached("tracefs")
            except OSError as err:
                if err.errno == errnos.ENODEV:
                    raise FeatureMissing(
                        "mount tracefs", 0, "this kernel has none (CONFIG_FTRACE)"
                    ) from err
                raise BpfError(
                    "mount tracefs", err.errno or 0, "mount it at /sys/kernel/tracing"
                ) from err
            self._path = Path(f"/proc/self/fd/{self._mount}")

    def close(self) -> None:
        """Forget the directory, and unmount what was mounted. Again is fine."""
        self._path = None
        mount, self._mount = self._mount, -1
        if mount >= 0:
            os.close(mount)

    def event_id(self, category: str, name: str) -> int:
        """
        The number by which perf_event_open(2) knows an event.

        Raises:
            FeatureMissing: If this kernel has no such event.
            BpfError: If it may not be read.
        """
        try:
            return int((self.path / "events" / category / name / "id").read_text())
        except FileNotFoundError as err:
            raise FeatureMissing(
                f"find event {category}/{name}", errnos.ENOENT, "this kernel has none of that name"
            ) from err
        except OSError as err:
            raise BpfError(f"find event {category}/{name}", err.errno or 0) from err

    def probes(self, kind: ProbeKind) -> list[Probe]:
        """
        Every probe there is, anybody's.

        Raises:
            FeatureMissing: If this kernel has no such probes.
            BpfError: If the list may not be read.
        """
        try:
            lines = self._file(kind).read_text().splitlines()
        except OSError as err:
            raise self._error(f"list {kind}s", kind, err) from err
        return [Probe.parse(line) for line in lines if line.strip()]

    def define(self, kind: ProbeKind, probe: Probe) -> None:
        """
        Add a probe.

        Raises:
            FeatureMissing: If this kernel has no such probes.
            BpfError: ENOENT if it has no such function; EEXIST if the name is taken.
        """
        phase = f"define {kind} {probe.target}"
        try:
            self._write(phase, kind, str(probe))
        except BpfError as err:
            # Since 6.10 an unknown function is as invalid as a misspelt line; see
            # validate_probe_symbol() in kernel/trace/trace_kprobe.c.
            if err.errno == errnos.EINVAL and kind == "kprobe" and not _is_known(probe.target):
                raise BpfError(phase, errnos.ENOENT) from err
            raise

    def remove(self, kind: ProbeKind, probe: Probe) -> None:
        """
        Take a probe away.

        Raises:
            BpfError: EBUSY while somebody uses it; ENOENT if it is gone.
        """
        self._write(f"remove {kind} {probe.event}", kind, f"-:{probe.group}/{probe.event}")

    def remove_dead(self, kind: ProbeKind) -> list[Probe]:
        """
        Take away the probes that were defined here by processes that are dead. Other people's
        probes, those of the living and those of other PID namespaces, which cannot be known, stay.

        Returns:
            What was taken away.

        Raises:
            FeatureMissing, BpfError: As :meth:`probes` and :meth:`remove`.
        """
        dead = [probe for probe in self.probes(kind) if _is_dead(probe)]
        for probe in dead:
            self.remove(kind, probe)
        return dead

    def _file(self, kind: ProbeKind) -> Path:
        return self.path / f"{kind}_events"

    def _write(self, phase: str, kind: ProbeKind, line: str) -> None:
        try:
            # Truncating the file would remove every probe of the host.
            fd = os.open(self._file(kind), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                os.write(fd, line.encode() + b"\n")
            finally:
                os.close(fd)
        except OSError as err:
            raise self._error(phase, kind, err) from err

    def _error(self, phase: str, kind: ProbeKind, err: OSError) -> BpfError:
        if err.errno == errnos.ENOENT and not self._file(kind).exists():
            return missing(phase, kind)
        return BpfError(phase, err.errno or 0)


def _is_known(target: str, symbols: Path = Path("/proc/kallsyms")) -> bool:
    """Whether the kernel or one of its modules has the function of a kprobe."""
    function = target.rpartition(":")[2].partition("+")[0]
    with symbols.open() as lines:
        return any(line.split(None, 3)[2] == function for line in lines)


def missing(phase: str, kind: ProbeKind) -> FeatureMissing:
    """The error of a kernel that has no probes of this kind."""
    return FeatureMissing(phase, 0, f"this kernel has no {kind}s ({_CONFIG[kind]})")


def find(places: Sequence[Path] = PLACES, mounts: Path = Path("/proc/self/mounts")) -> Path | None:
    """
    Where tracefs is mounted, if it is.

    Args:
        places: Looked at first.
        mounts: The table of mounts, looked at next.
    """
    listed = []
    # Paths may hold octets that are no text.
    for line in os.fsdecode(mounts.read_bytes()).splitlines():
        _, where, kind, *_ = line.split(" ")
        if kind == "tracefs":
            listed.append(Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), where)))
    # An empty directory of that name is where it could be mounted.
    return next((path for path in (*places, *listed) if (path / "events").is_dir()), None)


def own_name() -> str:
    """A name for a probe of this process: no other process takes it, not even one after it."""
    namespace, pid = _pid_namespace(), os.getpid()
    return f"p{namespace}_{pid}_{_start_time(pid)}_{next(_numbers)}"


def _is_dead(probe: Probe) -> bool:
    match = _OURS.fullmatch(probe.event)
    if probe.group != GROUP or match is None or int(match["namespace"]) != _pid_namespace():
        return False
    return _start_time(int(match["pid"])) != int(match["start"])


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def _start_time(pid: int) -> int | None:
    """
    When a process was started, in clock ticks since boot: tells it from others of its number.

    Source: proc(5), /proc/pid/stat field 22.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.rpartition(")")[2].split()[19])
