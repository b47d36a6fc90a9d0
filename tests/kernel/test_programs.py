"""Programs in the kernel: found again, inspected, pinned, and run on packets of the test's own."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from exporter.ebpf import inventory, programs
from exporter.ebpf.contexts import SkbContext, XdpContext
from exporter.ebpf.errors import BpfError, FeatureMissing
from exporter.ebpf.object import Object
from exporter.ebpf.programs import Program, ProgramSpec, unix_ns
from exporter.ebpf.tcx import TcxLink
from exporter.ebpf.xdp import XdpAction
from tests.e2e.net import Network
from tests.kernel.hooks import quiet_pair
from tests.kernel.samples import EXPERIMENTAL, OTHER, descriptors, load, number, spec

LONG = "a_program_with_a_name_of_41_characters_xy"


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A BPF file system of the test's own."""
    subprocess.run(["mount", "-t", "bpf", "bpf", str(tmp_path)], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_info() -> None:
    """The kernel says what a program is, how large, when it was loaded, by whom, and its maps."""
    before = time.time_ns()
    with load("first", "pass_all") as loaded:
        info = loaded.programs["first"].info()
        assert (info.name, info.type, info.uid) == ("first", "sched_cls", os.geteuid())
        assert info.gpl_compatible
        assert len(info.tag) == 16
        assert info.translated_octets >= 8 * loaded.programs["first"].spec.instructions > 60
        assert info.translated_octets % 8 == 0
        assert info.jited_octets > 0
        assert info.verified_instructions > 0
        # The two clocks are read one after the other.
        assert before - 10**7 < unix_ns(info.load_time_ns) < time.time_ns() + 10**7
        assert loaded.programs["pass_all"].info().type == "xdp"
        # libbpf binds the constants to every program of the object.
        (constants,) = loaded.programs["pass_all"].maps()
        with constants:
            assert constants.spec.name == "samples.rodata"


def test_equal_programs_have_equal_tags() -> None:
    """The tag is of the instructions: two loads of one program agree, another program differs."""
    with load("first", "second") as one, load("first") as other:
        tag = one.programs["first"].info().tag
        assert other.programs["first"].info().tag == tag
        assert one.programs["second"].info().tag != tag
        assert other.programs["first"].info().id != one.programs["first"].info().id


def test_maps() -> None:
    """The maps of a program are those that it names, as live handles."""
    with load("first") as loaded, ExitStack() as opened:
        maps = [opened.enter_context(m) for m in loaded.programs["first"].maps()]
        trail = next(m for m in maps if m.spec.name == "trail")
        assert (trail.spec.type, trail.spec.key_size, trail.spec.value_size) == ("array", 4, 8)
        loaded.programs["first"].test_run(OTHER)
        assert number(trail) == 1


def test_by_descriptor_id_and_path(bpffs: Path) -> None:
    """Each of the three gives a handle of its own to the same program."""
    with load("first") as loaded, ExitStack() as opened:
        program = loaded.programs["first"]
        program.pin(bpffs / "first")
        found = [
            opened.enter_context(one)
            for one in (
                Program.from_fd(program.fd),
                Program.from_id(program.info().id),
                Program.from_path(bpffs / "first"),
            )
        ]
        assert [one.info() for one in found] == [program.info()] * 3
        assert len({one.fd for one in found} | {program.fd}) == 4
        assert found[0].spec == ProgramSpec(
            "first", "", "sched_cls", program.info().translated_octets // 8
        )


def test_a_pinned_program_outlives_its_object(bpffs: Path) -> None:
    """It can be run after the object is closed, and is gone when its name is removed."""
    path = bpffs / "wordy"
    with load("wordy") as loaded:
        program_id = loaded.programs["wordy"].info().id
        loaded.programs["wordy"].pin(path)
        with pytest.raises(BpfError, match="EEXIST"):
            loaded.programs["wordy"].pin(path)
    with Program.from_path(path) as program:
        assert program.info().id == program_id
        assert program.test_run(OTHER).octets == len(OTHER)
    path.unlink()
    gone(program_id)


def gone(program_id: int) -> None:
    """The kernel frees programs after a grace period."""
    deadline = time.monotonic() + 5
    while program_id in inventory.program_ids():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_not_a_program(bpffs: Path, tmp_path: Path) -> None:
    """A map, a missing file or id, a closed descriptor: an error that says so; no leak."""
    before = descriptors()
    with load("first") as loaded:
        with pytest.raises(BpfError, match=r"EINVAL.*: it is a map, not a program"):
            Program.from_fd(loaded.maps["trail"].fd)
        with pytest.raises(BpfError, match="ENOENT"):
            Program.from_path(bpffs / "nothing")
        loaded.programs["first"].close()
        with pytest.raises(BpfError, match="EBADF"):
            loaded.programs["first"].info()
        with pytest.raises(BpfError, match=r"pin program first at .*EINVAL"):
            loaded.programs["first"].pin(bpffs / "first")
    with pytest.raises(BpfError, match="ENOENT"):
        Program.from_id(0xFFFFFFF0)
    with pytest.raises(BpfError, match="EBADF"):
        Program.from_fd(100_000)
    assert descriptors() == before


def test_pinning_outside_a_bpf_file_system(tmp_path: Path) -> None:
    """The kernel's refusal, with the path."""
    with (
        load("first") as loaded,
        pytest.raises(BpfError, match=rf"pin program first at {tmp_path}/x: .*EPERM"),
    ):
        loaded.programs["first"].pin(tmp_path / "x")


def test_ids_of_the_system(network: Network) -> None:
    """Programs, maps and links that are made show up in the lists, ascending, and go again."""
    one, _ = quiet_pair(network)
    with load("first") as loaded:
        info = loaded.programs["first"].info()
        index = one.netns.index(one.device)
        with TcxLink.attach(
            loaded.programs["first"], index, "ingress", netns=one.netns.path
        ) as link:
            link_id = link.id
            assert link_id in inventory.link_ids()
        found, maps = list(inventory.program_ids()), list(inventory.map_ids())
        assert found == sorted(found)
        assert info.id in found
        assert set(info.map_ids) <= set(maps)
        assert link_id not in inventory.link_ids()
    gone(info.id)


def test_a_long_name() -> None:
    """A name longer than the kernel's 15 octets loads, is found by all of it, and is cut there."""
    with load(LONG) as loaded:
        program = loaded.programs[LONG]
        assert program.info().name == LONG[:15]
        assert program.test_run(OTHER).retval == 4
        assert "a_map_with_a_name_of_37_characters_xy" in loaded.maps


def test_packet_and_context_out() -> None:
    """A classifier's changes to the packet, its length, the mark and cb come back."""
    with load("rewrite") as loaded:
        result = loaded.programs["rewrite"].test_run(
            OTHER, context=SkbContext(mark=41, cb=(5, 0, 7), priority=3)
        )
    assert result.retval == 3
    assert result.packet == b"\xee" + OTHER[1:] + bytes(6)
    assert result.octets == len(OTHER) + 6
    assert isinstance(result.context, SkbContext)
    assert result.context.mark == 42
    assert result.context.cb == (5, 10, 7, 0, 0)
    assert result.context.priority == 3


def test_repeats_go_on_where_the_last_stopped() -> None:
    """The packet grows with every repeat, and the last state comes back."""
    with load("rewrite", "first") as loaded:
        result = loaded.programs["rewrite"].test_run(OTHER, 10, cb=(1,))
        assert result.octets == len(OTHER) + 60
        assert loaded.programs["first"].test_run(OTHER, 3).retval == -1
        assert number(loaded.maps["trail"]) == 111


def test_a_packet_that_outgrows_the_room() -> None:
    """The result is there all the same; the packet is cut and its true length is said."""
    with load("rewrite") as loaded:
        result = loaded.programs["rewrite"].test_run(OTHER, 800)
        assert result.octets == len(OTHER) + 4800
        assert len(result.packet) == len(OTHER) + 4096


def test_xdp() -> None:
    """Verdicts by packet, metadata in, a header in front of the packet out."""
    with load("drop_experimental", "prepend") as loaded:
        drop = loaded.programs["drop_experimental"]
        assert XdpAction(drop.test_run(EXPERIMENTAL).retval) is XdpAction.DROP
        assert XdpAction(drop.test_run(OTHER, 4).retval) is XdpAction.PASS
        assert [number(loaded.maps["hits"], slot) for slot in (0, 1)] == [1, 4]
        result = loaded.programs["prepend"].test_run(
            b"meta" + OTHER, context=XdpContext(metadata_octets=4)
        )
        assert result.retval == XdpAction.TX
        assert result.packet == b"meta" + b"\xab" * 4 + OTHER
        assert result.context == XdpContext(metadata_octets=4)
        assert loaded.programs["prepend"].test_run(OTHER).retval == XdpAction.ABORTED


def test_socket_filter() -> None:
    """A socket filter's return value is the octets to keep."""
    with load("keep_experimental") as loaded:
        program = loaded.programs["keep_experimental"]
        assert program.test_run(EXPERIMENTAL).retval == 20
        assert program.test_run(OTHER).retval == 0


@pytest.mark.parametrize(
    ("name", "kind"), [("probe", "kprobe"), ("select_by_first_octet", "sk_reuseport")]
)
def test_a_type_without_a_test_run(name: str, kind: str) -> None:
    """A typed error that names the type, not error 524."""
    with load(name) as loaded:
        assert loaded.programs[name].spec.type == kind
        with pytest.raises(FeatureMissing, match=f"no test run for programs of type {kind}") as got:
            loaded.programs[name].test_run(OTHER)
        assert got.value.errno == errno.EOPNOTSUPP


def test_a_context_of_the_wrong_kind() -> None:
    """XDP takes no socket buffer and a classifier no xdp_md; the kernel is not asked."""
    with load("pass_all", "first", "probe") as loaded:
        for name, context, message in (
            ("pass_all", SkbContext(), "type xdp takes no SkbContext"),
            ("first", XdpContext(), "type sched_cls takes no XdpContext"),
            ("probe", XdpContext(), "type kprobe takes no XdpContext"),
        ):
            with pytest.raises(BpfError, match=message):
                loaded.programs[name].test_run(OTHER, context=context)


def test_a_packet_that_is_too_short() -> None:
    """The kernel wants an Ethernet header."""
    with (
        load("first") as loaded,
        pytest.raises(BpfError, match=r"test-run program first: .*EINVAL"),
    ):
        loaded.programs["first"].test_run(b"short")


def test_kprobe_programs_are_programs() -> None:
    """A kprobe program whose licence is not exactly GPL is there, with its type."""
    with Object.load(spec()) as loaded:
        assert set(loaded.programs) == {one.name for one in spec().programs}
        assert loaded.programs["probe"].info().type == "kprobe"


def test_tail_calls() -> None:
    """A program jumps to the one in the slot that it names; an empty slot is no jump."""
    with load("jump", "landed", "rewrite") as loaded:
        for slot, target in ((0, "landed"), (2, "rewrite")):
            loaded.maps["jumps"].update(
                slot.to_bytes(4, "little"), loaded.programs[target].fd.to_bytes(4, "little")
            )
        jump = loaded.programs["jump"]
        assert [jump.test_run(OTHER, cb=(slot,)).retval for slot in (0, 1, 2, 3)] == [
            200, 100, 3, 100,
        ]  # fmt: skip
        loaded.maps["jumps"].delete((0).to_bytes(4, "little"))
        assert jump.test_run(OTHER, cb=(0,)).retval == 100


def test_the_plain_result() -> None:
    """Without anything asked for, what was there before is still what comes back."""
    with load("shot") as loaded:
        result = loaded.programs["shot"].test_run(OTHER)
        assert result == programs.TestRun(2, result.duration_ns, OTHER, len(OTHER), result.context)
