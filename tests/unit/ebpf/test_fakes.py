"""Fakes where they are used: no root, no kernel. What they share with maps is in tests/kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.capture.loader import OBJECT_PATH
from exporter.ebpf.dump import dump
from exporter.ebpf.errors import BpfError
from exporter.ebpf.fakes import FakeMap, FakeObject, FakeProgram
from exporter.ebpf.maps import Map
from exporter.ebpf.mapspec import MapSpec
from exporter.ebpf.object import Object, ObjectSpec
from exporter.ebpf.programs import Program, ProgramSpec

SPEC = ProgramSpec("count_every_packet", "tcx/ingress", "sched_cls", 2)


def drain(table: Map) -> int:
    """A user's function: takes a live map."""
    total = sum(int.from_bytes(value, "little") for _, value in dump(table))
    for key in table:
        table.delete(key)
    return total


def test_a_users_test() -> None:
    """What takes a live map takes a fake."""
    with FakeMap(MapSpec("counts", "hash", 4, 8, 10)) as table:
        table.insert(1, 20)
        table.insert(2, 22)
        assert drain(table) == 42
        assert drain(table) == 0


def test_a_program() -> None:
    """A function of the packet, run as often as asked; errors as the kernel's."""
    lengths: list[int] = []

    def run(packet: bytes) -> int:
        lengths.append(len(packet))
        return 2

    program = FakeProgram(SPEC, run)
    assert isinstance(program, Program)
    with program:
        done = program.test_run(bytes(60), repeat=3)
        assert (done.retval, done.packet, done.octets) == (2, bytes(60), 60)
        assert (lengths, program.runs) == ([60, 60, 60], 3)
        assert program.info().name == "count_every_pac"
        assert program.maps() == ()
        with pytest.raises(BpfError, match="pin program"):
            program.pin(Path("pin"))
        with pytest.raises(BpfError, match="test-run program count_every_packet: Invalid"):
            program.test_run(bytes(13))
    program.close()
    with pytest.raises(BpfError, match="test-run program count_every_packet: Bad file"):
        program.test_run(bytes(60))
    with pytest.raises(BpfError, match="inspect program count_every_packet: Bad file"):
        program.info()


def test_programs_in_an_array() -> None:
    """A tail call's slot takes a program, and no map."""
    table = FakeMap(MapSpec("calls", "prog_array", 0, 0, 4))
    with table, FakeProgram(SPEC) as program:
        table.upsert(1, program)
        assert table.lookup_int(1) == program.info().id
        with pytest.raises(BpfError, match="Invalid argument"):
            table.upsert(1, table)


def test_an_object() -> None:
    """The project's own object without a kernel: sizes as asked for, programs as given."""
    spec = ObjectSpec.open(OBJECT_PATH)
    name = spec.programs[0].name
    loaded = FakeObject.of(spec, max_entries={"flow_stats_a": 3}, run={name: lambda _: 7})
    assert isinstance(loaded, Object)
    with loaded:
        table = loaded.maps["flow_stats_a"]
        assert (table.spec.max_entries, table.spec.type) == (3, "percpu_hash")
        assert "flow_ring" not in loaded.maps
        assert loaded.programs[name].test_run(bytes(14)).retval == 7
        assert loaded.programs[spec.programs[1].name].test_run(bytes(14)).retval == 0
    with pytest.raises(BpfError):
        table.next_key()


def test_an_object_has_no_such_name() -> None:
    """A misspelt name is an error, as when loading."""
    with pytest.raises(BpfError, match="it has nothing named flow_statz"):
        FakeObject.of(ObjectSpec.open(OBJECT_PATH), max_entries={"flow_statz": 1})


def test_unpinning_nothing(tmp_path: Path) -> None:
    """As a path that is not there."""
    with pytest.raises(FileNotFoundError):
        FakeMap.unpin(tmp_path / "none")
