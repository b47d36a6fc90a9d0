"""
Packets that travel past observation points, and the drains that cut their time.

An oracle that knows every single packet: what the points count is made from it, and what is
published is compared with it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from exporter.batch.batch import FlowBatch, Point, Totals, Window
from exporter.dedupe.config import DedupeConfig
from exporter.dedupe.dedupe import Deduper
from exporter.testing import Row, make_batch

MS = 1_000_000
#: The simulation's time 0, Unix ns.
EPOCH = 1_700_000_000_000_000_000
#: Octets of a simulated packet, L2 and L3.
FRAME, PACKET = 114, 100


@dataclass(frozen=True)
class Hop:
    """A packet is seen at ``point``, ``delay_ns`` after it was sent; ``vlan`` is its tag there."""

    point: Point
    delay_ns: int = 0
    vlan: int = 0


@dataclass(frozen=True)
class Packet:
    """A packet of flow number ``flow``, sent at ``time_ns`` after the epoch along ``path``."""

    time_ns: int
    path: tuple[Hop, ...]
    flow: int = 0


@dataclass
class _Counted:
    """What one point counted of one flow in one window."""

    first_ns: int
    last_ns: int
    packets: int = 0


def drains(
    packets: Iterable[Packet], cuts: Sequence[int], sampling_interval: int = 1
) -> Iterator[FlowBatch]:
    """
    What is drained at each cut: one row per flow, point and VLAN.

    Args:
        packets: In any order.
        cuts: ns after the epoch, ascending. A packet seen at the very moment of a cut is before it.
            What is seen after the last cut is drained by nobody.
        sampling_interval: To write into the rows.
    """
    windows: list[dict[tuple[int, Hop], _Counted]] = [{} for _ in cuts]
    for packet in packets:
        for hop in packet.path:
            seen = packet.time_ns + hop.delay_ns
            window = bisect_left(cuts, seen)
            if window == len(cuts):
                continue
            where = (packet.flow, Hop(hop.point, 0, hop.vlan))
            counted = windows[window].setdefault(where, _Counted(seen, seen))
            counted.first_ns = min(counted.first_ns, seen)
            counted.last_ns = max(counted.last_ns, seen)
            counted.packets += 1
    start = 0
    for cut, table in zip(cuts, windows, strict=True):
        rows = [_row(*where, counted, sampling_interval) for where, counted in table.items()]
        yield make_batch(*rows, window=Window(EPOCH + start, EPOCH + cut))
        start = cut


def _row(flow: int, hop: Hop, counted: _Counted, sampling_interval: int) -> Row:
    return Row(
        src_port=10_000 + flow,
        ifindex=hop.point.ifindex,
        netns=hop.point.netns,
        direction=hop.point.direction,
        vlan_id=hop.vlan,
        flow_start_ns=EPOCH + counted.first_ns,
        flow_end_ns=EPOCH + counted.last_ns,
        packet_count=counted.packets,
        octet_count_l2=FRAME * counted.packets,
        octet_count_l3=PACKET * counted.packets,
        sampling_interval=sampling_interval,
    )


@dataclass(frozen=True)
class Outcome:
    """
    What deduplication made of it.

    Args:
        published: One batch for each drain.
        drained: Sums over all that went in.
    """

    published: list[FlowBatch]
    drained: Totals

    @property
    def packets(self) -> list[int]:
        """Published in each drain."""
        return [batch.totals.packets for batch in self.published]

    @property
    def totals(self) -> Totals:
        """Sums over all that came out."""
        return sum((batch.totals for batch in self.published), Totals())

    @property
    def octets_l3(self) -> int:
        """Likewise, of IP octets."""
        return sum(int(batch.octet_count_l3.sum()) for batch in self.published)


def dedupe(batches: Iterable[FlowBatch], config: DedupeConfig | None = None) -> Outcome:
    """Put drain after drain through one deduper."""
    deduper = Deduper(config or DedupeConfig())
    published, drained = [], Totals()
    for batch in batches:
        drained += batch.totals
        published.append(deduper.apply(batch))
    return Outcome(published, drained)
