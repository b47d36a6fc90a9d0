"""
Play a capture through the kernel program that watches interfaces, and get its flow records.

Each packet is one BPF_PROG_TEST_RUN: nothing is attached and no network is touched. Times are the
capture's, lengths those on the wire. A flow is one record however long the capture is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from exporter.batch.batch import FlowBatch, FlowEndReason, Interface, Totals, concatenate
from exporter.batch.build import accumulate, empty_batch, with_end_reason
from exporter.capture.config import CaptureConfig
from exporter.capture.fetcher import FlowFetcher
from exporter.ebpf.errors import BpfError
from exporter.ebpf.programs import TestRunner
from exporter.errors import CaptureFileError
from exporter.ledger import Balance, Ledger
from exporter.replay.capture_file import CapturedPacket, CaptureFile
from exporter.replay.link_layer import frame

#: The kernel wants a whole Ethernet header, and no more than a page with its own overhead.
_SHORTEST, _LONGEST = 14, 2048
#: How often the fill of the flow map is looked at, in packets.
_LOOK = 4096


@dataclass(frozen=True)
class Replayed:
    """
    What came of a capture.

    Args:
        batch: One row per flow, interface and direction.
        names: Interfaces, as the pipeline's enrichers want them.
        frames: Packets read from the file.
        unplayable: Of those, packets too short for a link-layer header: malformed.
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
        self._inbound = TestRunner(fetcher.program("tc_ingress"))
        self._outbound = TestRunner(fetcher.program("tc_egress"))
        self._parts: list[FlowBatch] = []
        self.frames = 0
        self.unplayable = 0

    def play(self, packet: CapturedPacket) -> None:
        self.frames += 1
        ethernet = frame(packet)
        if len(ethernet.data) < _SHORTEST:
            self.unplayable += 1
            return
        runner = self._outbound if ethernet.outbound else self._inbound
        time_ns = packet.time_ns & (1 << 64) - 1
        words = (
            packet.octets,
            time_ns & 0xFFFFFFFF,
            time_ns >> 32,
            packet.interface + 1,
            ethernet.octets,
        )
        try:
            runner.run(ethernet.data[:_LONGEST], 1, words)
        except BpfError:
            # The kernel makes no packet of it (newer ones refuse a bare link-layer header).
            self.unplayable += 1
        if self.frames % _LOOK == 0 and self._fetcher.fill() > self._fetcher.config.fill_threshold:
            self.collect()

    def collect(self) -> None:
        self._parts.append(self._fetcher.lookup_and_delete_map())
        self._parts.append(self._fetcher.read_ring_buffer())

    def flows(self) -> FlowBatch:
        filled = [part for part in self._parts if len(part)]
        return accumulate(concatenate(filled)) if filled else empty_batch()

    def drained(self) -> Totals:
        return sum((part.totals for part in self._parts), Totals())


def replay(path: Path, config: CaptureConfig) -> Replayed:
    """
    Play a capture file.

    Args:
        path: pcap or pcapng; Ethernet, raw IP or Linux cooked.
        config: Sizes and sampling; interfaces do not matter.

    Raises:
        CaptureFileError: If the file cannot be opened. Damage further on is in the result.
        BpfError: If the kernel does not take the program.
    """
    try:
        stream = path.open("rb")
    except OSError as err:
        raise CaptureFileError(f"cannot read {path}: {err.strerror}") from err
    error = ""
    with stream, FlowFetcher(config, replay=True) as fetcher:
        source, player = CaptureFile(stream), _Player(fetcher)
        ledger = Ledger(fetcher.counts)
        try:
            for packet in source.packets():
                player.play(packet)
        except CaptureFileError as err:
            error = str(err)
        player.collect()
        ledger.book(player.drained(), player.drained())
        ledger.close_kernel()
        batch = with_end_reason(_by_start(player.flows()), FlowEndReason.FORCED_END)
        names = {(0, n + 1): Interface(name or str(n)) for n, name in source.names.items()}
        return Replayed(
            replace(batch), names, player.frames, player.unplayable, ledger.balance(), error
        )


def _by_start(batch: FlowBatch) -> FlowBatch:
    """In the order that the flows began."""
    return batch.take(batch.flow_start_ns.argsort(kind="stable"))
