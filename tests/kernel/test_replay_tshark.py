"""``flow-exporter replay`` equals tshark: flows, packets, octets, flags, times, exactly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.packets import tshark
from tests.packets.capture import Capture
from tests.packets.capture_writer import pcap, timed
from tests.packets.command import Replayed, replay
from tests.packets.flow import Reading
from tests.packets.frames import ACK, PSH, ethernet, ipv4, ipv6, tcp, udp
from tests.packets.make_captures import captures


@pytest.fixture(autouse=True)
def _needs_tshark() -> None:
    if not tshark.is_installed():
        missing("tshark")


@dataclass(frozen=True)
class Both:
    """Two readings of a file, under way at the same time."""

    ours: Future[Replayed]
    theirs: Future[Reading]


def _start(pool: ThreadPoolExecutor, path: Path, *preferences: str) -> Both:
    return Both(pool.submit(replay, path), pool.submit(tshark.read, path, preferences))


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        yield executor
        executor.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def readings(request: pytest.FixtureRequest, pool: ThreadPoolExecutor) -> dict[str, Both]:
    """Of every capture that was selected: started together, so that no processor waits."""
    selected = [
        item.callspec.params["capture"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_replay_equals_tshark
    ]
    return {
        capture.name: _start(pool, capture.path, *capture.preferences)
        for capture in selected
        if isinstance(capture, Capture)
    }


@pytest.mark.parametrize("capture", captures(), ids=lambda capture: capture.name)
def test_replay_equals_tshark(capture: Capture, readings: dict[str, Both]) -> None:
    """
    Each flow has the same key, packets, octets of both layers, flags, DSCP, MACs and times to the
    nanosecond; the same frames are not IP or malformed, as many as the capture was built with; the
    summary adds up, and nothing is lost.
    """
    ours, theirs = readings[capture.name].ours.result(), readings[capture.name].theirs.result()
    assert (ours.code, ours.errors) == (0, [])
    assert ours.flows() == theirs.flows
    assert ours.reading() == theirs
    assert (theirs.not_ip, theirs.malformed) == (capture.not_ip, capture.malformed)
    assert ours.summary == {
        "frames": theirs.frames,
        "flows": len(theirs.flows),
        "packets": theirs.frames - theirs.not_ip - theirs.malformed,
        "octets": sum(flow.octets_l2 for flow in theirs.flows.values()),
        "not IP": capture.not_ip,
        "malformed": capture.malformed,
        "lost": 0,
    }


def test_frames_longer_than_the_kernel_takes_keep_their_length(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """Captured whole, frames of 9,014 and 65,549 octets count them all, under IPv4 and IPv6."""
    frames = [
        ethernet(ipv4(udp(octets=9000 - 28))),
        ethernet(ipv4(tcp(PSH | ACK, octets=65535 - 40))),
        ethernet(ipv6(tcp(PSH | ACK, octets=65535 - 40 - 20))),
    ]
    assert [len(frame) for frame in frames] == [9014, 65549, 65549]
    path = tmp_path / "jumbo.pcap"
    path.write_bytes(pcap(timed(frames)))
    both = _start(pool, path)
    theirs = both.theirs.result()
    assert both.ours.result().reading() == theirs
    assert sorted(flow.octets_l2 for flow in theirs.flows.values()) == [9014, 65549, 65549]
