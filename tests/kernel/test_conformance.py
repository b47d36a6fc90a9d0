"""Both loaders, one program: every capture gives equal records, whoever compiled it."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.batch.record import FlowRecord, records
from exporter.capture.config import CaptureConfig
from exporter.capture.loader import OBJECT_PATH, Loader
from exporter.ebpf.bcc.program import load
from exporter.ebpf.object import ObjectSpec
from exporter.replay.replay import Replayed, replay
from tests.kernel.loader import compiled
from tests.kernel.test_replay import noise
from tests.packets.capture import Capture
from tests.packets.capture_writer import pcap
from tests.packets.make_captures import captures

pytestmark = pytest.mark.usefixtures("_bcc")


def replayed(path: Path, loader: Loader) -> Replayed:
    return replay(path, CaptureConfig(loader=loader, max_flows=4096, ring_size=1 << 20))


def in_order(of: Replayed) -> list[FlowRecord]:
    return sorted(records(of.batch), key=repr)


@pytest.mark.parametrize("capture", captures(), ids=lambda capture: capture.name)
def test_captures_give_equal_records(capture: Capture) -> None:
    """
    Every field of every record is equal, times to the nanosecond; so are the kernel's counters.

    That they are also right is what ``test_replay_tshark`` says of the packaged program.
    """
    ours, theirs = (replayed(capture.path, loader) for loader in ("libbpf", "bcc"))
    assert in_order(theirs) == in_order(ours)
    assert theirs.balance.kernel == ours.balance.kernel
    assert theirs.frames == ours.frames


def test_noise_gives_equal_records(tmp_path: Path) -> None:
    """Mutilated frames are taken for the same flows and refused for the same reasons."""
    path = tmp_path / "noise.pcap"
    path.write_bytes(pcap(noise(packets=1000)))
    ours, theirs = (replayed(path, loader) for loader in ("libbpf", "bcc"))
    assert len(ours.batch) > 100
    assert in_order(theirs) == in_order(ours)
    assert theirs.balance.kernel == ours.balance.kernel


def test_the_same_maps_programs_and_settings() -> None:
    """What BCC's loader reads in the source is what libbpf's reads in the object."""
    spec, other = ObjectSpec.open(OBJECT_PATH), compiled()
    ours = {declared.name: declared for declared in spec.maps if not declared.name.startswith(".")}
    assert {declared.name: declared for declared in other.maps} == ours
    assert other.source.programs == tuple((p.name, p.section) for p in spec.programs)
    constants = {(v.name, v.size) for v in spec.variables if not v.name.startswith("abi_")}
    assert {(setting.name, setting.size) for setting in other.settings} == constants


def test_the_verifier_has_room() -> None:
    """
    What BCC inlines stays far below the million instructions that the verifier reads at most,
    whichever settings are chosen.
    """
    choices: tuple[dict[str, int], ...] = (
        {},
        {"replay": 1},
        {"coarse_clock": 1, "sampling_interval": 100, "netns": 3, "dns_ports": 53},
    )
    for settings in choices:
        with load(compiled(), settings=settings) as loaded:
            read = [p.info().verified_instructions for p in loaded.programs.values()]
        assert max(read) < 250_000
