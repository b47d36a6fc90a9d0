"""Programs at probes, tracepoints and events, counted exactly; nothing stays behind."""

from __future__ import annotations

import errno
import mmap
import os
import platform
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.ebpf import _perf, tracing
from exporter.ebpf.cpus import online_cpus
from exporter.ebpf.errors import BpfError, FeatureMissing
from exporter.ebpf.object import Object, ObjectSpec
from exporter.ebpf.tracefs import Probe, ProbeKind, Tracefs, own_name
from exporter.ebpf.tracing import (
    CPU_CLOCK,
    PAGE_FAULTS,
    SOFTWARE,
    Attachment,
    BtfTracepoint,
    Kprobe,
    PerfEvent,
    Point,
    RawTracepoint,
    Tracepoint,
    Uprobe,
    Way,
    attach,
    syscall_functions,
)
from tests import patience
from tests.compile import compile_bpf
from tests.e2e.net import Network

#: getppid(2): nothing calls it but us, and it cannot fail.
GETPPID = {"x86_64": 110, "s390x": 64, "ppc64le": 64}.get(platform.machine(), 173)
#: Descriptors are compared exactly: more rounds show no more, and each waits for the kernel.
ROUNDS = 20
MAGIC_NAMESPACE = Path("/proc/self/ns/pid")

TARGET = """
#include <stdlib.h>
#include <unistd.h>
__attribute__((noinline)) static int of_its_own(int n) { asm volatile(""); return n + 1; }
__attribute__((noinline)) int work(int n) { asm volatile(""); return of_its_own(n) + 1; }
int main(int argc, char **argv)
{
    char go;
    if (argc > 2 && read(0, &go, 1) != 1) return 1;
    for (int i = atoi(argv[1]); i > 0; i--) work(i);
    return 0;
}
"""


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the test's objects and the program that is probed."""
    directory = tmp_path_factory.mktemp("tracing")
    for name in ("tracing", "tracing_btf"):
        source = Path(__file__).with_name(f"{name}.bpf.c")
        compile_bpf(source, directory / f"{name}.bpf.o")
    (directory / "target.c").write_text(TARGET)
    # Fixed addresses too: the file's offsets differ from the addresses.
    for name, options in (("target", []), ("fixed", ["-no-pie"])):
        subprocess.run(
            ["clang", "-O1", *options, "-o", name, "target.c"], check=True, cwd=directory
        )
    return directory


class Counter:
    """One loaded program and what it counted."""

    def __init__(self, loaded: Object, name: str) -> None:
        self.program = loaded.programs[name]
        self._counts = loaded.maps["counts"]

    def hits(self, slot: int = 0) -> int:
        return int.from_bytes(self._counts.lookup(slot.to_bytes(4, "little")), "little")

    def reset(self, slot: int) -> None:
        self._counts.update(slot.to_bytes(4, "little"), bytes(8))


@contextmanager
def counting(directory: Path, name: str, **settings: int) -> Iterator[Counter]:
    """Load one of the programs, set to count what this process does."""
    which = "tracing_btf" if "btf" in name else "tracing"
    spec = ObjectSpec.open(directory / f"{which}.bpf.o")
    namespace = MAGIC_NAMESPACE.stat()
    settings |= {
        "pid": os.getpid(),
        "pid_device": namespace.st_dev,
        "pid_inode": namespace.st_ino,
        "system_call": GETPPID,
    }
    with Object.load(spec, settings=settings, programs=(name,)) as loaded:
        yield Counter(loaded, name)


def attach_if_possible(counter: Counter, point: Point, **options: Any) -> Attachment:
    """Attach, or skip with the kernel's reason."""
    try:
        return attach(counter.program, point, **options)
    except FeatureMissing as err:
        pytest.skip(str(err))


def run(directory: Path, times: int, program: str = "target") -> None:
    """Let the probed program call its functions."""
    subprocess.run([directory / program, str(times)], check=True)


def call(times: int) -> None:
    """Make system calls that are counted."""
    for _ in range(times):
        os.getppid()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.parametrize("way", ["perf", "tracefs"])
@pytest.mark.parametrize("program", ["target", "fixed"])
@pytest.mark.parametrize("returning", [False, True])
@pytest.mark.parametrize("function", ["work", "of_its_own"])
def test_uprobe(objects: Path, way: Way, program: str, returning: bool, function: str) -> None:
    """Every call of a function, exported or static, is counted while attached, and none after."""
    with counting(objects, "on_probe") as counter:
        point = Uprobe(objects / program, function, returning=returning)
        with attach(counter.program, point, way=way) as attachment:
            run(objects, 37, program)
            run(objects, 4, program)
            assert counter.hits() == 41
            assert attachment.attached
        run(objects, 5, program)
        assert counter.hits() == 41
        assert not attachment.attached


@pytest.mark.parametrize("way", ["perf", "tracefs"])
def test_a_return_comes_after_what_was_called(objects: Path, way: Way) -> None:
    """A probe of the return fires when the inner function was called, one of the call before."""
    spec = ObjectSpec.open(objects / "tracing.bpf.o")
    with Object.load(spec, programs=("on_inner", "on_outer")) as loaded:
        outer = Counter(loaded, "on_outer")
        inner = Uprobe(objects / "target", "of_its_own")
        with attach(loaded.programs["on_inner"], inner, way=way):
            with attach(outer.program, Uprobe(objects / "target", "work"), way=way):
                run(objects, 1)
            assert (outer.hits(), outer.hits(2)) == (0, 1)
            outer.reset(2)
            point = Uprobe(objects / "target", "work", returning=True)
            with attach(outer.program, point, way=way):
                run(objects, 37)
            assert (outer.hits(), outer.hits(2)) == (37, 0)


@pytest.mark.parametrize("way", ["perf", "tracefs"])
def test_a_cpu_that_is_online(objects: Path, monkeypatch: pytest.MonkeyPatch, way: Way) -> None:
    """The event is opened on the first CPU that is online, which need not be number 0."""
    opened: list[int] = []

    def watched(function: Callable[..., int]) -> Callable[..., int]:
        def opening(*arguments: Any) -> int:
            opened.append(arguments[-1])
            return function(*arguments)

        return opening

    last = online_cpus()[-1]
    monkeypatch.setattr(tracing, "online_cpus", lambda: (last,))
    for name in ("event_open", "probe_open"):
        monkeypatch.setattr(_perf, name, watched(getattr(_perf, name)))
    point = Uprobe(objects / "target", "work")
    with counting(objects, "on_probe") as counter, attach(counter.program, point, way=way):
        run(objects, 3)
        assert counter.hits() == 3
    assert opened
    assert set(opened) == {last}


def test_uprobe_of_a_library(objects: Path) -> None:
    """A function of the stripped C library, found among its dynamic symbols."""
    libc = next(
        Path(line.split()[-1])
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/libc.so" in line or "/libc-" in line
    )
    with (
        counting(objects, "on_probe_of_pid") as counter,
        attach(counter.program, Uprobe(libc, "getppid")),
    ):
        call(1000)
        assert counter.hits() == 1000


def test_uprobe_at_an_offset(objects: Path) -> None:
    """An offset of the file is as good as a name."""
    from exporter.ebpf.elf import function_offset

    offset = function_offset(objects / "target", "work")
    with (
        counting(objects, "on_probe") as counter,
        attach(counter.program, Uprobe(objects / "target", offset=offset)),
    ):
        run(objects, 11)
        assert counter.hits() == 11


def test_uprobe_of_one_process(objects: Path) -> None:
    """With a pid, other processes of the same program are not counted."""
    with counting(objects, "on_probe") as counter:
        command = [str(objects / "target"), "7", "wait"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as watched:
            point = Uprobe(objects / "target", "work", pid=watched.pid)
            with attach(counter.program, point):
                run(objects, 100)
                assert counter.hits() == 0
                watched.communicate(b"g", timeout=10 * patience.FACTOR)
                assert counter.hits() == 7


def test_cookie(objects: Path) -> None:
    """Two attachments of one program are told apart by their cookies."""
    spec = ObjectSpec.open(objects / "tracing.bpf.o")
    try:
        loaded = Object.load(spec, programs=("on_probe_with_cookie",))
    except BpfError:
        # The helper came with the links that carry cookies.
        with (
            counting(objects, "on_probe") as plain,
            pytest.raises(FeatureMissing, match=r"5\.15"),
        ):
            attach(plain.program, Uprobe(objects / "target", "work"), cookie=1)
        return
    with loaded:
        counter = Counter(loaded, "on_probe_with_cookie")
        work, own = (Uprobe(objects / "target", name) for name in ("work", "of_its_own"))
        with (
            attach(counter.program, work, cookie=1 << 40),
            attach(counter.program, own, cookie=3, way="tracefs"),
        ):
            run(objects, 5)
        assert counter.hits() == 10
        assert counter.hits(1) == 5 * ((1 << 40) + 3)


@pytest.mark.parametrize("way", ["perf", "tracefs"])
@pytest.mark.parametrize("returning", [False, True])
def test_kprobe(objects: Path, way: Way, returning: bool) -> None:
    """Every call of a kernel function is counted once while attached, and none after."""
    point = Kprobe(syscall_functions("getppid"), returning=returning)
    with counting(objects, "on_probe_of_pid") as counter:
        with attach_if_possible(counter, point, way=way):
            call(1000)
            assert counter.hits() == 1000
        call(5)
        assert counter.hits() == 1000


@pytest.mark.parametrize("way", ["auto", "perf", "tracefs"])
def test_kprobe_that_cannot_be(objects: Path, way: Way) -> None:
    """
    A kernel without the function says so, and one without kprobes says what it would have to be
    configured with.
    """
    with counting(objects, "on_probe") as counter:
        before = descriptors()
        with pytest.raises(FeatureMissing, match=r"CONFIG_KPROBES|no such function"):
            attach(counter.program, Kprobe(("no_such_function", "nor_this")), way=way)
        assert descriptors() == before


def test_tracepoint(objects: Path, network: Network) -> None:
    """Each of ten TCP connections is established twice: at either end."""
    netns = network.namespace("a")
    with netns.entered(), socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        point = Tracepoint("sock", "inet_sock_set_state")
        with (
            counting(objects, "on_state", port=port) as counter,
            attach_if_possible(counter, point),
        ):
            for _ in range(10):
                with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
                    pass
            assert counter.hits() == 20


@pytest.mark.parametrize(
    ("name", "point"),
    [("on_raw_sys_enter", RawTracepoint("sys_enter")), ("on_btf_sys_enter", BtfTracepoint())],
)
def test_raw_tracepoints(objects: Path, name: str, point: Point) -> None:
    """Every system call of this process is counted while attached, and none after."""
    with counting(objects, name) as counter:
        with attach(counter.program, point):
            call(1000)
            assert counter.hits() == 1000
        call(5)
        assert counter.hits() == 1000


def test_perf_event_of_one_thread(objects: Path) -> None:
    """Every first touch of a page is one page fault, and its address is known."""
    pages, size = 64, mmap.PAGESIZE
    with mmap.mmap(-1, pages * size) as room:
        room.madvise(mmap.MADV_NOHUGEPAGE)
        first = np.frombuffer(room, np.uint8).ctypes.data
        addresses = {"first_address": first, "last_address": first + pages * size - 1}
        point = PerfEvent(SOFTWARE, PAGE_FAULTS, period=1, pid=threading.get_native_id())
        with (
            counting(objects, "on_fault", **addresses) as counter,
            attach(counter.program, point),
        ):
            for page in range(pages):
                room[page * size] = 1
            assert counter.hits() == pages


@pytest.mark.parametrize("how", [{"period": 1_000_000}, {"frequency": 1000}])
def test_perf_event_on_all_cpus(objects: Path, how: dict[str, Any]) -> None:
    """The clock of every CPU runs the program, about a thousand times a second."""
    with counting(objects, "on_clock") as counter:
        attached = time.monotonic()
        with attach(counter.program, PerfEvent(SOFTWARE, CPU_CLOCK, **how)):
            began = time.monotonic()
            while time.monotonic() < began + 0.3:
                pass
        # Turning it on and off takes time, too, and a machine under load may take long over it.
        took = time.monotonic() - attached
        hits = counter.hits()
        assert 50 < hits <= 1000 * (took + 0.1) * len(online_cpus()) * 2
        time.sleep(0.05)
        assert counter.hits() == hits


def test_wrong_type_of_program(objects: Path) -> None:
    """A program of another type is refused before anything is opened, and the error names both."""
    with counting(objects, "on_clock") as counter:
        before = descriptors()
        for point, wanted in (
            (Uprobe(objects / "target", "work"), "kprobe"),
            (Tracepoint("sched", "sched_switch"), "tracepoint"),
            (RawTracepoint("sys_enter"), "raw_tracepoint"),
            (BtfTracepoint(), "tracing"),
        ):
            with pytest.raises(BpfError, match=f"is of type perf_event, not {wanted}") as refused:
                attach(counter.program, point)
            assert refused.value.errno == errno.EINVAL
        assert descriptors() == before


def test_what_is_not_there(objects: Path) -> None:
    """A tracepoint, a function or a CPU that is missing is named, and leaves nothing open."""
    before = descriptors()
    target = objects / "target"
    for name, point, message in (
        ("on_state", Tracepoint("sock", "no_such"), "find event sock/no_such"),
        ("on_raw_sys_enter", RawTracepoint("no_such"), "raw tracepoint no_such: No such"),
        ("on_probe", Uprobe(target, "no_such"), "it defines no such function"),
        ("on_probe", Uprobe(objects / "gone", offset=8), "No such file"),
        ("on_clock", PerfEvent(SOFTWARE, CPU_CLOCK, 1000, cpus=(0, 4095)), "on CPU 4095"),
    ):
        with counting(objects, name) as counter, pytest.raises(BpfError, match=message) as err:
            attach(counter.program, point)
        assert isinstance(err.value, FeatureMissing) == name.endswith(("state", "enter"))
    assert descriptors() == before


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("on_state", Tracepoint("sock", "inet_sock_set_state")),
        ("on_raw_sys_enter", RawTracepoint("sys_enter")),
        ("on_btf_sys_enter", BtfTracepoint()),
        ("on_clock", PerfEvent(SOFTWARE, CPU_CLOCK, 1_000_000)),
        ("on_probe", Kprobe(syscall_functions("getppid"))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_again_and_again(objects: Path, name: str, point: Point) -> None:
    """Attached and detached again and again leave as many descriptors as there were."""
    with counting(objects, name) as counter:
        attach_if_possible(counter, point).close()
        before = descriptors()
        for _ in range(ROUNDS):
            with attach(counter.program, point) as attachment:
                assert descriptors() > before
            attachment.close()
        assert descriptors() == before


@pytest.mark.parametrize("way", ["perf", "tracefs"])
def test_uprobes_again_and_again(objects: Path, way: Way) -> None:
    """As above, and the list of probes is as it was."""
    with counting(objects, "on_probe") as counter, Tracefs() as tracefs:
        listed = tracefs.probes("uprobe")
        before = descriptors()
        for _ in range(ROUNDS):
            with attach(counter.program, Uprobe(objects / "target", "work"), way=way):
                assert descriptors() > before
        assert descriptors() == before
        assert tracefs.probes("uprobe") == listed


def test_detach_that_fails(objects: Path) -> None:
    """
    Whoever else uses the definition of a probe keeps it from going: close says so, has detached the
    program, and a second close tries again.
    """
    with counting(objects, "on_probe") as counter, Tracefs() as tracefs:
        listed = tracefs.probes("uprobe")
        before = descriptors()
        attachment = attach(counter.program, Uprobe(objects / "target", "work"), way="tracefs")
        (probe,) = [each for each in tracefs.probes("uprobe") if each not in listed]
        number = tracefs.event_id(probe.group, probe.event)
        (user,) = tracing._open_traced("the same probe", number)
        with pytest.raises(BpfError, match=r"remove uprobe p\d+_.*EBUSY"):
            attachment.close()
        assert attachment.attached
        run(objects, 3)
        assert counter.hits() == 0
        os.close(user)
        attachment.close()
        attachment.close()
        assert not attachment.attached
        assert descriptors() == before
        assert tracefs.probes("uprobe") == listed


@pytest.mark.parametrize("kind", ["uprobe", "kprobe"])
def test_probes_of_the_dead(objects: Path, kind: ProbeKind) -> None:
    """
    Of the probes in the kernel's own list only that of a dead process of ours is removed: not
    those of the living, of other PID namespaces, or of others whose name contains ours.
    """
    if kind == "kprobe":
        target = syscall_functions("getppid")[0]
    else:
        target = f"{objects / 'target'}:0x{0x1000:x}"
    namespace, _, start, _ = own_name()[1:].split("_")
    with subprocess.Popen(["true"]) as gone:
        pass
    with Tracefs() as tracefs:
        try:
            tracefs.remove_dead(kind)  # of a run that was killed
            before = tracefs.probes(kind)
        except FeatureMissing as err:
            pytest.skip(str(err))
        dead = Probe(f"p{namespace}_{gone.pid}_{start}_0", target)
        reused = Probe(f"p{namespace}_{os.getpid()}_{int(start) - 1}_0", target)
        living = Probe(own_name(), target)
        elsewhere = Probe(f"p1_{gone.pid}_{start}_0", target)
        others = Probe("flow_exporter_1", target, group="flow_exporter_too")
        everything = [dead, reused, living, elsewhere, others]
        for probe in everything:
            tracefs.define(kind, probe)
        try:
            with pytest.raises(BpfError, match="EEXIST"):
                tracefs.define(kind, dead)
            assert [p.event for p in tracefs.remove_dead(kind)] == [dead.event, reused.event]
            left = [p.event for p in tracefs.probes(kind) if p not in before]
            assert left == [living.event, elsewhere.event, others.event]
        finally:
            for probe in tracefs.probes(kind):
                if probe not in before:
                    tracefs.remove(kind, probe)
        assert tracefs.probes(kind) == before


def test_nobody_sees_the_mount(objects: Path) -> None:
    """Where tracefs is not mounted it is mounted for us alone: the table of mounts stays."""
    mounts = Path("/proc/self/mounts")
    before = mounts.read_text()
    with Tracefs() as tracefs:
        assert tracefs.event_id("sched", "sched_switch") > 0
        assert mounts.read_text() == before
        tracefs.open()
    assert mounts.read_text() == before
