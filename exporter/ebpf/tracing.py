"""
Run programs where the kernel, or another process, passes a point: probes, tracepoints, events.

What to attach to is a frozen value; :func:`attach` turns it into an :class:`Attachment`, which ends
with its descriptors and so cannot outlive this process. The one exception are probes defined in
tracefs, on kernels that cannot open them directly: see :meth:`Tracefs.remove_dead`.

Source: perf_event_open(2); kernel/events/core.c perf_event_set_bpf_prog().
"""

from __future__ import annotations

import contextlib
import errno as errnos
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from exporter.ebpf import _libbpf, _perf
from exporter.ebpf.cpus import online_cpus
from exporter.ebpf.elf import function_offset
from exporter.ebpf.errors import BpfError, FeatureMissing
from exporter.ebpf.programs import Program
from exporter.ebpf.tracefs import Probe, ProbeKind, Tracefs, missing, own_name

#: How a probe is made: opened directly where the kernel can, defined by name in tracefs otherwise.
Way = Literal["auto", "perf", "tracefs"]

DEVICES = Path("/sys/bus/event_source/devices")

# BPF_PROG_TYPE_*, include/uapi/linux/bpf.h.
_KPROBE, _TRACEPOINT, _PERF_EVENT, _RAW_TRACEPOINT, _TRACING = 2, 5, 7, 17, 26
_NAMES = {
    _KPROBE: "kprobe",
    _TRACEPOINT: "tracepoint",
    _PERF_EVENT: "perf_event",
    _RAW_TRACEPOINT: "raw_tracepoint",
    _TRACING: "tracing",
}
_NOT_OFFERED = (errnos.ENOENT, errnos.EOPNOTSUPP)


@dataclass(frozen=True)
class Kprobe:
    """
    A function of the kernel; for programs of type kprobe, run on all CPUs.

    Args:
        functions: Names, the first that the kernel has; see :func:`syscall_functions`.
        offset: Octets behind its beginning; must be the beginning of an instruction, and 0 for
            ``returning``.
        returning: Run when it returns instead.
    """

    functions: str | Sequence[str]
    offset: int = 0
    returning: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """``functions``, always several."""
        return (self.functions,) if isinstance(self.functions, str) else tuple(self.functions)

    def __str__(self) -> str:
        plus = f"+{self.offset:#x}" if self.offset else ""
        return f"{'kretprobe' if self.returning else 'kprobe'} {' or '.join(self.names)}{plus}"


@dataclass(frozen=True)
class Uprobe:
    """
    A place in an executable or library, in every process that maps it; for programs of type kprobe.

    Args:
        path: The file, in the calling process's mount namespace.
        function: A name in its symbol table; ``""`` counts ``offset`` from the file's beginning.
        offset: Octets, to the beginning of an instruction.
        returning: Run when the function returns instead.
        pid: Only in this process, all its threads; in all processes if ``None``.
    """

    path: Path
    function: str = ""
    offset: int = 0
    returning: bool = False
    pid: int | None = None

    def __str__(self) -> str:
        plus = f"+{self.offset:#x}" if self.offset or not self.function else ""
        return f"{'uretprobe' if self.returning else 'uprobe'} {self.path}:{self.function}{plus}"


@dataclass(frozen=True)
class Tracepoint:
    """An event of ``events/category/name`` in tracefs; for programs of type tracepoint."""

    category: str
    name: str

    def __str__(self) -> str:
        return f"tracepoint {self.category}/{self.name}"


@dataclass(frozen=True)
class RawTracepoint:
    """A tracepoint with the arguments as the kernel passes them; for type raw_tracepoint."""

    name: str

    def __str__(self) -> str:
        return f"raw tracepoint {self.name}"


@dataclass(frozen=True)
class BtfTracepoint:
    """The tracepoint that a program of type tracing names in its section, ``tp_btf/NAME``."""

    def __str__(self) -> str:
        return "the tracepoint of its section"


@dataclass(frozen=True)
class PerfEvent:
    """
    Every n-th of something that is counted per CPU; for programs of type perf_event.

    Args:
        type: PERF_TYPE_*: 0 hardware, 1 software.
        config: PERF_COUNT_*: of software 0 is the CPU's clock, in ns, and 2 page faults.
        period: Run after this many.
        frequency: Run about this often a second instead, if not 0.
        pid: Only in this thread and those it starts from now on; everywhere if ``None``.
        cpus: Only there; on all CPUs that are online if ``None``.
    """

    type: int
    config: int
    period: int = 0
    frequency: int = 0
    pid: int | None = None
    cpus: Sequence[int] | None = None

    def __str__(self) -> str:
        return f"perf event {self.type}:{self.config}"


#: Software events of :class:`PerfEvent`, include/uapi/linux/perf_event.h.
SOFTWARE = 1
CPU_CLOCK, PAGE_FAULTS = 0, 2

Point = Kprobe | Uprobe | Tracepoint | RawTracepoint | BtfTracepoint | PerfEvent


class Attachment:
    """
    A program at a point. Ends with :meth:`close`, with its ``with`` block, or with this process.

    Args:
        point: Where, for people.
        descriptors: That keep it there; from now on this object's.
        undo: What has to be done once they are closed.
    """

    def __init__(
        self, point: str, descriptors: Sequence[int], undo: Callable[[], None] | None = None
    ) -> None:
        self.point = point
        self._descriptors = list(descriptors)
        self._undo = undo

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def attached(self) -> bool:
        """Whether it has not been closed."""
        return bool(self._descriptors or self._undo)

    def close(self) -> None:
        """
        Take the program away. Again is fine; after a failure, again tries again.

        Raises:
            BpfError: If it could not be done, with the first failure. What could be done is done.
        """
        failures = []
        while self._descriptors:
            try:
                os.close(self._descriptors.pop())
            except OSError as err:
                failures.append(BpfError(f"detach from {self.point}", err.errno or 0))
        if self._undo is not None:
            try:
                self._undo()
                self._undo = None
            except BpfError as err:
                failures.append(err)
        if failures:
            raise failures[0]


def attach(program: Program, point: Point, *, cookie: int = 0, way: Way = "auto") -> Attachment:
    """
    Run a program at a point, from now on.

    Args:
        program: Of the type that the point wants. Stays the caller's, who may close it.
        point: Where.
        cookie: 64 bits that the program gets by bpf_get_attach_cookie(): probes, tracepoints and
            perf events only.
        way: How probes are made; of no meaning to other points.

    Raises:
        FeatureMissing: If this kernel has no such tracepoint, function or kind of probe, or no
            cookies.
        BpfError: EINVAL if the program is of another type; EACCES or EPERM without CAP_PERFMON; as
            :func:`~exporter.ebpf.elf.function_offset`.
    """
    match point:
        case Kprobe():
            _require_type(program, point, _KPROBE)
            return _attach_kprobe(program, point, cookie, way)
        case Uprobe():
            _require_type(program, point, _KPROBE)
            return _attach_uprobe(program, point, cookie, way)
        case Tracepoint():
            _require_type(program, point, _TRACEPOINT)
            with Tracefs() as tracefs:
                number = tracefs.event_id(point.category, point.name)
            return _attach_event(program, str(point), _open_traced(str(point), number), cookie)
        case PerfEvent():
            _require_type(program, point, _PERF_EVENT)
            return _attach_perf_event(program, point, cookie)
        case RawTracepoint() | BtfTracepoint():
            return _attach_raw(program, point, cookie)


def syscall_functions(name: str) -> tuple[str, ...]:
    """
    What the function of a system call may be called, for :class:`Kprobe`: this machine's wrapper
    first, then the names of kernels before 4.17.

    Source: include/linux/syscalls.h; arch/*/include/asm/syscall_wrapper.h.
    """
    wrapper = {"x86_64": "x64", "aarch64": "arm64", "riscv64": "riscv", "s390x": "s390x"}.get(
        platform.machine()
    )
    wrapped = (f"__{wrapper}_sys_{name}",) if wrapper else ()
    return (*wrapped, f"__se_sys_{name}", f"sys_{name}", f"SyS_{name}")


def _require_type(program: Program, point: Point, *types: int) -> None:
    try:
        actual = _libbpf.info(_libbpf.ProgramInfo, program.fd).type
    except OSError as err:
        raise BpfError(f"inspect program {program.spec.name}", err.errno or 0) from err
    if actual not in types:
        raise BpfError(
            f"attach {program.spec.name} to {point}",
            errnos.EINVAL,
            f"it is of type {_NAMES.get(actual, actual)}, not {_NAMES[types[0]]}",
        )


def _attach_kprobe(program: Program, point: Kprobe, cookie: int, way: Way) -> Attachment:
    for name in point.names:
        try:
            if _device(point, "kprobe", way):
                event = _open_probe(point, "kprobe", name.encode(), point.offset, None)
                return _attach_event(program, str(point), [event], cookie)
            plus = f"+{point.offset}" if point.offset else ""
            return _attach_defined(program, point, "kprobe", f"{name}{plus}", cookie)
        except FeatureMissing:
            raise
        except BpfError as err:
            if err.errno != errnos.ENOENT:
                raise
    raise FeatureMissing(f"attach to {point}", errnos.ENOENT, "this kernel has no such function")


def _attach_uprobe(program: Program, point: Uprobe, cookie: int, way: Way) -> Attachment:
    offset = point.offset
    if point.function:
        offset += function_offset(point.path, point.function)
    if _device(point, "uprobe", way):
        path = os.fsencode(point.path)
        event = _open_probe(point, "uprobe", path, offset, point.pid)
        return _attach_event(program, str(point), [event], cookie)
    if point.pid is not None and way == "auto":
        raise missing(f"attach to {point} in process {point.pid}", "uprobe")
    target = f"{point.path.absolute()}:{offset:#x}"
    return _attach_defined(program, point, "uprobe", target, cookie)


def _device(point: Point, kind: ProbeKind, way: Way) -> bool:
    """Whether to open the probe directly."""
    if way == "tracefs":
        return False
    if (DEVICES / kind).is_dir():
        return True
    if way == "perf":
        raise missing(f"attach to {point}", kind)
    return False


def _open_probe(
    point: Kprobe | Uprobe, kind: ProbeKind, name: bytes, offset: int, pid: int | None
) -> int:
    attributes = _perf.EventAttributes()
    attributes.config2 = offset
    try:
        attributes.type = int((DEVICES / kind / "type").read_text())
        if point.returning:
            bit = (DEVICES / kind / "format" / "retprobe").read_text()
            attributes.config = 1 << int(bit.partition(":")[2])
        who, where = (_perf.ANY, online_cpus()[0]) if pid is None else (pid, _perf.ANY)
        return _perf.probe_open(attributes, name, who, where)
    except OSError as err:
        raise BpfError(f"attach to {point}", err.errno or 0) from err


def _open_traced(point: str, number: int) -> list[int]:
    """A trace event. One CPU's is enough: its program runs on all."""
    attributes = _perf.EventAttributes()
    attributes.type, attributes.config = _perf.TYPE_TRACEPOINT, number
    attributes.period = 1
    try:
        return [_perf.event_open(attributes, _perf.ANY, online_cpus()[0])]
    except OSError as err:
        raise BpfError(f"attach to {point}", err.errno or 0) from err


def _attach_defined(
    program: Program, point: Kprobe | Uprobe, kind: ProbeKind, target: str, cookie: int
) -> Attachment:
    """By a definition in tracefs, which goes when the attachment does."""
    probe = Probe(own_name(), target, returning=point.returning)
    with Tracefs() as tracefs:
        tracefs.define(kind, probe)
        try:
            number = tracefs.event_id(probe.group, probe.event)
            inner = _attach_event(program, str(point), _open_traced(str(point), number), cookie)
        except BaseException:
            tracefs.remove(kind, probe)
            raise

    def undo() -> None:
        inner.close()
        with Tracefs() as tracefs:
            tracefs.remove(kind, probe)

    return Attachment(str(point), [], undo)


def _attach_perf_event(program: Program, point: PerfEvent, cookie: int) -> Attachment:
    attributes = _perf.EventAttributes()
    attributes.type, attributes.config = point.type, point.config
    attributes.period = point.frequency or point.period
    attributes.flags = _perf.DISABLED
    if point.frequency:
        attributes.flags |= _perf.FREQUENCY
    if point.pid is not None:
        attributes.flags |= _perf.INHERIT
    who = _perf.ANY if point.pid is None else point.pid
    with contextlib.ExitStack() as undo:
        events = []
        for cpu in online_cpus() if point.cpus is None else point.cpus:
            try:
                events.append(_perf.event_open(attributes, who, cpu))
            except OSError as err:
                if err.errno == errnos.ENODEV and point.cpus is None:
                    continue  # it went offline
                if err.errno in _NOT_OFFERED:
                    raise FeatureMissing(
                        f"attach to {point}", err.errno, "this machine cannot count that"
                    ) from err
                raise BpfError(f"attach to {point} on CPU {cpu}", err.errno or 0) from err
            undo.callback(os.close, events[-1])
        undo.pop_all()
    return _attach_event(program, str(point), events, cookie)


def _attach_event(program: Program, point: str, events: list[int], cookie: int) -> Attachment:
    """
    Bind the program to events, which are closed if it fails: by links where the kernel has them.
    """
    links: list[int] = []
    try:
        for event in events:
            try:
                links.append(_perf.link_event(program.fd, event, cookie))
            except OSError as err:
                if err.errno != errnos.EINVAL:
                    raise
                if cookie:
                    raise FeatureMissing(
                        f"attach to {point} with a cookie", 0, "Linux 5.15 brought cookies"
                    ) from err
                _perf.event_set_program(event, program.fd)
            _perf.event_enable(event)
    except BaseException as err:
        for descriptor in (*links, *events):
            os.close(descriptor)
        if isinstance(err, OSError):
            raise BpfError(f"attach {program.spec.name} to {point}", err.errno or 0) from err
        raise
    # The last ones are closed first: links before the events that they are on.
    return Attachment(point, [*events, *links])


def _attach_raw(program: Program, point: RawTracepoint | BtfTracepoint, cookie: int) -> Attachment:
    by_name = isinstance(point, RawTracepoint)
    _require_type(program, point, _RAW_TRACEPOINT if by_name else _TRACING)
    if cookie:
        raise FeatureMissing(f"attach to {point} with a cookie", 0, "raw tracepoints have none")
    name = point.name if isinstance(point, RawTracepoint) else None
    try:
        return Attachment(str(point), [_perf.raw_tracepoint_open(name, program.fd)])
    except OSError as err:
        if err.errno == errnos.ENOENT:
            raise FeatureMissing(
                f"attach to {point}", errnos.ENOENT, "this kernel has no such tracepoint"
            ) from err
        raise BpfError(f"attach {program.spec.name} to {point}", err.errno or 0) from err
