"""
What it takes to get a program into the kernel: compiled ahead and loaded by libbpf, or by BCC.

Each load is a process of its own; the loaders take turns. Times are of the loader's import and of
the load, without the interpreter's start; memory is the process's peak, VmHWM. The counter is the
same program on both sides; the flow program is the agent's, all of it, opened as the agent does by
either of its loaders, of which BCC compiles in a child process that ends. Each run checks that what
was loaded counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from benchmarks.report import Table, spread
from exporter.ebpf.cpus import slot_size
from exporter.ebpf.maps import Map
from exporter.ebpf.programs import Program
from tests.compile import compile_bpf

RUNS, PACKETS = 7, 1000
#: Debian's python3-bpfcc is for this one.
SYSTEM_PYTHON = "/usr/bin/python3"
_SOURCE = Path(__file__).with_name("count.bpf.c")
_FRAME = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP() / UDP() / bytes(40))

#: A child loads, says how long that took and the program's id, and holds it until its input ends.
_REPORT = """
took = (imported - began, time.perf_counter() - imported)
info = open(f"/proc/self/fdinfo/{fd}").read()
program_id = int(info.partition("prog_id:")[2].split()[0])
print(json.dumps({"seconds": took, "program_id": program_id}), flush=True)
sys.stdin.read()
"""
_LIBBPF = """
import json, sys, time
path, name = sys.argv[1:]
began = time.perf_counter()
from pathlib import Path
from exporter.ebpf.object import Object, ObjectSpec
imported = time.perf_counter()
loaded = Object.load(ObjectSpec.open(Path(path)))
fd = loaded.programs[name].fd
"""
_AGENT = """
import json, sys, time
began = time.perf_counter()
from exporter.capture.config import CaptureConfig
from exporter.capture.fetcher import FlowFetcher
imported = time.perf_counter()
loaded = FlowFetcher(CaptureConfig(loader=sys.argv[1], max_flows=10_000))
loaded.open()
fd = loaded.program("tc_ingress").fd
"""
_BCC = """
import json, sys, time
path, name, flags = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
began = time.perf_counter()
from bcc import BPF
imported = time.perf_counter()
loaded = BPF(src_file=path, cflags=flags)
fd = loaded.load_func(name, BPF.SCHED_CLS).fd
"""


@dataclass(frozen=True)
class _Case:
    program: str
    loader: str
    command: Sequence[str]
    environment: dict[str, str]
    map: str


def run() -> Table:
    """Seconds and memory of every case."""
    table = Table(
        "load",
        f"loading a program in a fresh process, median of {RUNS}",
        ("program", "loader", "import ms", "load ms", "RSS MB"),
    )
    with tempfile.TemporaryDirectory() as directory:
        cases = _cases(Path(directory))
        measured: list[list[tuple[float, ...]]] = [[] for _ in cases]
        for _ in range(RUNS):
            for case, rows in zip(cases, measured, strict=True):
                rows.append(_load(case))
    for case, rows in zip(cases, measured, strict=True):
        imports, loads, peaks = zip(*rows, strict=True)
        table.add(case.program, case.loader, spread(imports, 0), spread(loads, 0), spread(peaks, 0))
    return table


def _cases(directory: Path) -> list[_Case]:
    counter = compile_bpf(_SOURCE, directory / "count.bpf.o")
    libbpf = [sys.executable, "-c", _LIBBPF + _REPORT, str(counter), "count"]
    agent = [sys.executable, "-c", _AGENT + _REPORT]
    kernel, flags = _headers()
    bcc = [SYSTEM_PYTHON, "-c", _BCC + _REPORT, str(_SOURCE), "count", json.dumps(flags)]
    return [
        _Case("counter", "ours, libbpf", libbpf, {}, "packet_count"),
        _Case("counter", "bcc's Python API", bcc, kernel, "packet_count"),
        _Case("flows", "ours, libbpf", [*agent, "libbpf"], {}, "counters"),
        _Case("flows", "ours, BCC", [*agent, "bcc"], {}, "counters"),
    ]


def _headers() -> tuple[dict[str, str], list[str]]:
    """
    BCC finds the running kernel's headers itself. Where they are not installed any of Debian's do
    for a program that reads no kernel structure: its environment and compiler flags.
    """
    if Path(f"/lib/modules/{os.uname().release}/build").exists():
        return {}, ["-DBCC"]
    common = max(Path("/usr/src").glob("linux-headers-*-common"), default=None)
    if common is None:
        raise FileNotFoundError("no kernel headers: apt install linux-headers-amd64")
    (built, *_) = [
        path
        for path in Path("/usr/src").glob(common.name.removesuffix("common") + "*")
        if path != common and (path / "include/generated/autoconf.h").exists()
    ]
    generated = ("include", "arch/x86/include/generated", "arch/x86/include/generated/uapi",
                 "include/generated/uapi")  # fmt: skip
    return {"BCC_KERNEL_SOURCE": str(common)}, [
        "-DBCC",
        *(f"-I{built / part}" for part in generated),
    ]


def _load(case: _Case) -> tuple[float, ...]:
    """One load: milliseconds of the import and of the load, MB at its peak."""
    with subprocess.Popen(
        case.command, env=os.environ | case.environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            _, errors = child.communicate()
            raise RuntimeError(f"{case.loader} did not load {case.program}: {errors[-2000:]}")
        told = json.loads(line)
        status = Path(f"/proc/{child.pid}/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
        _check(case, told["program_id"])
        child.communicate("")
        assert child.returncode == 0
    return *(1e3 * seconds for seconds in told["seconds"]), peak / 1e6


def _check(case: _Case, program_id: int) -> None:
    """The program that somebody else's loader loaded counts every packet."""
    with Program.from_id(program_id) as program:
        program.test_run(_FRAME, PACKETS)
        maps = program.maps()
        try:
            (counts,) = [one for one in maps if one.spec.name == case.map]
            assert _packets(case, counts) == PACKETS
        finally:
            for one in maps:
                one.close()


def _packets(case: _Case, counts: Map) -> int:
    """Summed over all CPUs; the ledger's first member of each is the packets seen."""
    key = bytes(4) if case.program == "flows" else counts.next_key()
    assert key is not None
    value = counts.lookup(key)
    slot = slot_size(counts.spec.value_size)
    return sum(int.from_bytes(value[at : at + 8], "little") for at in range(0, len(value), slot))
