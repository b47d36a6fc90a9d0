"""
The grammar of the kernel's list of probes, and which of them are ours to remove.

The directory is a fake, of plain files: a kernel without kprobes has no ``kprobe_events`` to write
to. tests/kernel/test_tracing.py does the same to ``uprobe_events`` of the running kernel, and to
``kprobe_events`` where it has them.
"""

from __future__ import annotations

import errno as errnos
import os
from pathlib import Path
from typing import Any, get_args

import pytest

from exporter.ebpf import tracing
from exporter.ebpf.errors import BpfError, FeatureMissing
from exporter.ebpf.tracefs import Probe, Tracefs, find, own_name

LISTED = [
    ("p:kprobes/p_do_sys_open_0 do_sys_open", Probe("p_do_sys_open_0", "do_sys_open", "kprobes")),
    (
        "r4096:kprobes/execve_1 __x64_sys_execve",
        Probe("execve_1", "__x64_sys_execve", "kprobes", returning=True, active=4096),
    ),
    (
        "p:uprobes/z /bin/with\\040space:0x0000000000001139 arg1=%di:u64 arg2=%si",
        Probe(
            "z",
            "/bin/with\\040space:0x0000000000001139",
            "uprobes",
            arguments="arg1=%di:u64 arg2=%si",
        ),
    ),
    ("p:flow_exporter/p1_2_3_4 nf:work+16", Probe("p1_2_3_4", "nf:work+16")),
]


@pytest.mark.parametrize(("line", "probe"), LISTED)
def test_lines(line: str, probe: Probe) -> None:
    """Lines as the kernel prints them are read, and written again the same."""
    assert Probe.parse(line) == probe
    assert str(probe) == line


def test_a_line_without_a_group() -> None:
    """The group may be left out, as whoever writes a line may do."""
    assert Probe.parse("p:open do_sys_open") == Probe("open", "do_sys_open", "kprobes")


@pytest.mark.parametrize("line", ["", "x:a/b c", "p:a/b", "p do_sys_open", "-:a/b"])
def test_what_is_no_probe(line: str) -> None:
    """Other lines are refused."""
    with pytest.raises(ValueError, match="not a probe"):
        Probe.parse(line)


def test_names() -> None:
    """No two are equal; each fits the kernel's 63 characters and is a C identifier."""
    names = [own_name() for _ in range(100)]
    assert len(set(names)) == 100
    assert all(name.isidentifier() and len(name) < 64 for name in names)


def fake(directory: Path, *lines: str) -> Tracefs:
    (directory / "kprobe_events").write_text("".join(f"{line}\n" for line in lines))
    (directory / "events").mkdir()
    return Tracefs(directory)


def test_only_our_dead_probes_are_removed(tmp_path: Path) -> None:
    """
    Not those of others, even with our name in theirs, of the living or of other PID namespaces; and
    what is written is appended: truncating the list would remove everybody's.
    """
    namespace, pid, start, _ = own_name()[1:].split("_")
    dead = f"p{namespace}_{pid}_{int(start) - 1}_0"
    lines = [
        f"p:flow_exporter/{dead} work",
        f"p:flow_exporter/p{namespace}_4194999_{start}_0 work",
        f"p:flow_exporter/p{namespace}_{pid}_{start}_0 work",
        f"p:flow_exporter/p7_{pid}_1_0 work",
        f"p:kprobes/{dead} work",
        "p:flow_exporter/by_hand work",
        "p:kprobes/flow_exporter_1 work",
    ]
    with fake(tmp_path, *lines) as tracefs:
        removed = tracefs.remove_dead("kprobe")
    assert [str(probe) for probe in removed] == lines[:2]
    written = (tmp_path / "kprobe_events").read_text().splitlines()
    assert written == [*lines, *(f"-:flow_exporter/{probe.event}" for probe in removed)]


def test_definition(tmp_path: Path) -> None:
    """A probe is defined by a line of its own behind the others."""
    with fake(tmp_path, "p:kprobes/other work") as tracefs:
        tracefs.define("kprobe", Probe("mine", "work+4", returning=True))
        assert tracefs.probes("kprobe")[1:] == [Probe("mine", "work+4", returning=True)]


@pytest.mark.parametrize(
    ("target", "errno"),
    [("vfs_read+4", "EINVAL"), ("no_such_function", "ENOENT"), ("module:nor_this", "ENOENT")],
)
def test_an_unknown_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, errno: str
) -> None:
    """Newer kernels call it invalid, like a misspelt line: the symbols tell which it is."""

    def refuse(_self: Tracefs, phase: str, *_: str) -> None:
        raise BpfError(phase, errnos.EINVAL)

    monkeypatch.setattr(Tracefs, "_write", refuse)
    with fake(tmp_path) as tracefs, pytest.raises(BpfError, match=errno):
        tracefs.define("kprobe", Probe("mine", target))


def test_no_kprobes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without kprobes is told from one without the function, by its configuration."""
    (tmp_path / "events").mkdir()
    with Tracefs(tmp_path) as tracefs:
        with pytest.raises(FeatureMissing, match="CONFIG_KPROBES"):
            tracefs.probes("kprobe")
        with pytest.raises(FeatureMissing, match="CONFIG_UPROBES"):
            tracefs.define("uprobe", Probe("mine", "/bin/true:0x10"))
    program: Any = None
    monkeypatch.setattr(tracing, "DEVICES", tmp_path)
    monkeypatch.setattr(tracing, "Tracefs", lambda: Tracefs(tmp_path))
    for way in get_args(tracing.Way):
        with pytest.raises(FeatureMissing, match="CONFIG_KPROBES"):
            tracing._attach_kprobe(program, tracing.Kprobe("work"), 0, way)


def test_events(tmp_path: Path) -> None:
    """An event is known by its number; one that is not there is a feature that is missing."""
    with fake(tmp_path) as tracefs:
        where = tmp_path / "events" / "sched" / "sched_switch"
        where.mkdir(parents=True)
        (where / "id").write_text("314\n")
        assert tracefs.event_id("sched", "sched_switch") == 314
        with pytest.raises(FeatureMissing, match="find event sched/other"):
            tracefs.event_id("sched", "other")


def test_where_it_is_mounted(tmp_path: Path) -> None:
    """The usual places first, if something is mounted there, then the table; else nowhere."""
    usual, other = tmp_path / "usual", tmp_path / "a place"
    for directory in (usual, other):
        directory.mkdir()
    mounts = tmp_path / "mounts"
    escaped = os.fsencode(other).replace(b" ", b"\\040")
    mounts.write_bytes(b"proc /pr\xffoc proc rw 0 0\nnone %s tracefs rw 0 0\n" % escaped)
    assert find((usual,), mounts) is None
    (other / "events").mkdir()
    assert find((usual,), mounts) == other
    (usual / "events").mkdir()
    assert find((usual,), mounts) == usual


def test_system_calls() -> None:
    """A system call's function goes by this machine's wrapper or, before 4.17, by two names."""
    names = tracing.syscall_functions("execve")
    assert names[-2:] == ("sys_execve", "SyS_execve")
    assert names[0].startswith("__")
    assert names[0].endswith("_sys_execve")
    assert tracing.Kprobe("one").names == ("one",)
    assert tracing.Kprobe(["one", "two"]).names == ("one", "two")
    assert str(tracing.Kprobe("work", 4)) == "kprobe work+0x4"
    assert str(tracing.Uprobe(Path("/bin/x"), "f", returning=True)) == "uretprobe /bin/x:f"
