"""
Play a capture through the kernel program that watches interfaces, and get its flow records.

Each packet is one BPF_PROG_TEST_RUN: nothing is attached and no network is touched. Times are the
capture's, lengths those on the wire. A flow is one record however long the capture is, and no
packet is lost, however small the maps are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from exporter.abi.layout import FLOW_RECORD
from exporter.batch.batch import FlowBatch, FlowEndReason, Interface, Totals, concatenate
from exporter.batch.build import accumulate, empty_batch, with_end_reason
from exporter.capture.config import CaptureConfig
from exporter.capture.fetcher import FlowFetcher
from exporter.errors import CaptureFileError
from exporter.ledger import Balance, Ledger
from exporter.replay.capture_file import CapturedPacket, CaptureFile
from exporter.replay.link_layer import Frame, frame

#: Octets that the kernel takes: some refuse a bare Ethernet header, newer ones an IP header that is
#: cut, and none takes more than a page with its own overhead.
_SHORTEST, _LONGEST = 15, 2048
_SHORTEST_IP = {b"\x08\x00": 14 + 20, b"\x86\xdd": 14 + 40}
#: How often the fill of the maps is looked at, in packets, and how full they may be.
_LOOK, _FULL = 4096, 0.5
#: How often it is told how far it is, in packets: some milliseconds' work.
_TELL = 1024
#: Octets of the ring buffer for a packet that the flow map had no room for, with the kernel's own.
_RING_RECORD = FLOW_RECORD.itemsize + 8
#: Octets of a packet in a file, at least; the least that the maps may be.
_FILE_RECORD, _LEAST_FLOWS, _LEAST_RING = 16, 16, 1 << 15
#: In the kernel time 0 is that of a slot without packets, in a capture it may be a packet's: times
#: are played one later, and taken back modulo 2**64.
_LATER, _BACK = 1, (1 << 64) - 1
_LAST_TIME = (1 << 64) - 1 - _LATER


@dataclass(frozen=True)
class Replayed:
    """
    What came of a capture.

    Args:
        batch: One row per flow, interface and direction.
        names: Interfaces, as the pipeline's enrichers want them.
        frames: Packets read from the file.
        unplayable: Of those, packets whose link-layer header is not all there: malformed.
        balance: The ledger.
        error: Why reading stopped early; empty if it did not.
    """

    batch: FlowBatch
    names: dict[tuple[int, int], Interface]
    frames: int
    unplayable: int
    balance: Balance
    error: str


class _Player:
    """Feeds packets to the two programs and collects what they count."""

    def __init__(self, fetcher: FlowFetcher) -> None:
        self._fetcher = fetcher
        self._inbound = fetcher.program("tc_ingress")
        self._outbound = fetcher.program("tc_egress")
        self._parts: list[FlowBatch] = []
        # Until the next look, packets without room in the flow map fill a quarter of the ring.
        self._look = max(min(_LOOK, fetcher.config.ring_size // (4 * _RING_RECORD)), 1)
        self.frames = 0
        self.unplayable = 0

    def play(self, packet: CapturedPacket) -> None:
        ethernet = frame(packet)
        self.frames += 1
        if ethernet is None:
            self.unplayable += 1
            return
        program = self._outbound if ethernet.outbound else self._inbound
        data, octets = _acceptable(ethernet)
        time_ns = min(max(packet.time_ns, 0), _LAST_TIME) + _LATER
        interface = packet.interface + 1
        words = (packet.octets, time_ns & 0xFFFFFFFF, time_ns >> 32, interface, octets)
        program.test_run(data, 1, words)
        if self.frames % self._look == 0 and self._fetcher.fill() > _FULL:
            self.collect()

    def collect(self) -> None:
        self._parts.append(self._fetcher.lookup_and_delete_map(_BACK))
        self._parts.append(self._fetcher.read_ring_buffer(_BACK))

    def flows(self) -> FlowBatch:
        filled = [part for part in self._parts if len(part)]
        return accumulate(concatenate(filled)) if filled else empty_batch()

    def drained(self) -> Totals:
        return sum((part.totals for part in self._parts), Totals())


def replay(
    path: Path,
    config: CaptureConfig,
    tell: Callable[[int, int], None] = lambda _frames, _octets: None,
) -> Replayed:
    """
    Play a capture file.

    Args:
        path: pcap or pcapng; Ethernet, raw IP, Linux cooked or BSD loopback.
        config: Sizes and sampling; interfaces do not matter.
        tell: Called now and then with the packets and the octets of the file that were read; there
            are no octets of a pipe.

    Raises:
        CaptureFileError: If no packet can be read. Damage further on is in the result.
        BpfError: If the kernel does not take the program, or a packet.
    """
    try:
        stream = path.open("rb")
    except OSError as err:
        raise CaptureFileError(f"cannot read {path}: {err.strerror}") from err
    error = ""
    with stream, _one_cpu(), FlowFetcher(_fitting(config, stream), replay=True) as fetcher:
        source, player = CaptureFile(stream), _Player(fetcher)
        ledger = Ledger(fetcher.counts)
        try:
            for packet in source.packets():
                player.play(packet)
                if player.frames % _TELL == 0:
                    tell(player.frames, stream.tell() if stream.seekable() else 0)
        except CaptureFileError as err:
            if not player.frames:
                raise CaptureFileError(f"{path}: {err}") from err
            error = str(err)
        player.collect()
        ledger.book(player.drained(), player.drained())
        ledger.close_kernel()
        batch = with_end_reason(_by_start(player.flows()), FlowEndReason.FORCED_END)
        names = {(0, n + 1): Interface(name) for n, name in source.names.items()}
        return Replayed(batch, names, player.frames, player.unplayable, ledger.balance(), error)


def _fitting(config: CaptureConfig, stream: BinaryIO) -> CaptureConfig:
    """Smaller maps for a small file: half of its replay would be the kernel making them ready."""
    packets = os.fstat(stream.fileno()).st_size // _FILE_RECORD
    if not packets or packets >= config.capacity():
        return config  # a pipe has no size
    ring_octets = 1 << max(packets * _RING_RECORD, _LEAST_RING).bit_length()
    return config.model_copy(
        update={
            "max_flows": max(packets, _LEAST_FLOWS),
            "ring_size": min(ring_octets, config.ring_size),
        }
    )


def _acceptable(ethernet: Frame) -> tuple[bytes, int]:
    """Data that the kernel takes, and the length of the frame that the program is to believe."""
    data, octets = ethernet.data[:_LONGEST], ethernet.octets
    shortest = _SHORTEST_IP.get(data[12:14], _SHORTEST)
    if len(data) < shortest:
        # No header fits into so short a frame: what it is filled up with is never read as one.
        octets = len(data)
        data = data.ljust(shortest, b"\0")
    return data, octets


@contextmanager
def _one_cpu() -> Iterator[None]:
    """
    Stay on one CPU, and with it in one slot of each flow: there packets stay in the file's order,
    which their times do not tell where they are equal.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _by_start(batch: FlowBatch) -> FlowBatch:
    """In the order that the flows began."""
    return batch.take(batch.flow_start_ns.argsort(kind="stable"))
