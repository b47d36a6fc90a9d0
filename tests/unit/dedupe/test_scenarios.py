"""What is counted once, drain by drain, in situations that hosts get into."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pytest

from exporter.batch.batch import FlowBatch, Point, Totals
from exporter.dedupe.config import DedupeConfig
from exporter.ledger import KernelCounts, Ledger, Tally
from tests.unit.dedupe.simulation import FRAME, MS, PACKET, Hop, Packet, dedupe, drains

A, B, C, D = (Point(0, ifindex, 0) for ifindex in (2, 3, 4, 5))
US = 1000


def path(*points: Point, delay: int = 200 * US) -> tuple[Hop, ...]:
    """Points one after the other, ``delay`` ns apart."""
    return tuple(Hop(point, place * delay) for place, point in enumerate(points))


def stream(count: int, start_ms: float, every_ms: float, hops: tuple[Hop, ...]) -> list[Packet]:
    """``count`` packets along one path."""
    return [Packet(int((start_ms + n * every_ms) * MS), hops) for n in range(count)]


def drained(
    packets: Iterable[Packet], *cuts_ms: float, sampling_interval: int = 1
) -> list[FlowBatch]:
    """The drains at these times, ms."""
    return list(drains(packets, [int(cut * MS) for cut in cuts_ms], sampling_interval))


@dataclass(frozen=True)
class Scenario:
    """
    Args:
        packets: What was sent.
        cuts: When was drained, ms.
        published: Packets in each drain that come out.
        leaders: In each drain, the points that are counted, as the records list them first.
    """

    packets: Sequence[Packet]
    cuts: Sequence[float]
    published: Sequence[int]
    leaders: Sequence[tuple[Point, ...]]


SCENARIOS = {
    "two points, nothing under way at the cuts": Scenario(
        stream(10, 50, 10, path(A, B)) + stream(20, 1050, 10, path(A, B)),
        [1000, 2000],
        [10, 20],
        [(A,), (A,)],
    ),
    "a packet between two points at the cut": Scenario(
        [
            *stream(4, 100, 100, path(A, B)),
            Packet(int(999.9 * MS), path(A, B)),
            *stream(4, 1100, 100, path(A, B)),
        ],
        [1000, 2000],
        [5, 4],
        [(A,), (A,)],
    ),
    "a packet between two points at every cut": Scenario(
        stream(40, 99.9, 100, path(A, B)),
        [1000, 2000, 3000, 4100],
        [10, 10, 10, 10],
        [(A,)] * 4,
    ),
    "a flow of a single packet, between two points at the cut": Scenario(
        [Packet(int(999.9 * MS), path(A, B))], [1000, 2000], [1, 0], [(A,), ()]
    ),
    "a flow of a single packet, among three points at the cut": Scenario(
        [Packet(int(999.7 * MS), path(A, B, C))], [1000, 2000], [1, 0], [(A,), ()]
    ),
    "the leader falls silent between two drains, and another point goes on": Scenario(
        stream(5, 100, 100, path(A)) + stream(7, 1100, 100, path(B)),
        [1000, 2000],
        [5, 7],
        [(A,), (B,)],
    ),
    "the leader falls silent within a drain, and another point goes on": Scenario(
        stream(5, 100, 100, path(A)) + stream(7, 900, 100, path(B)),
        [2000],
        [12],
        [(A, B)],
    ),
    "a flow moves from point to point within a drain": Scenario(
        stream(3, 0, 100, path(A)) + stream(4, 500, 100, path(B)) + stream(5, 1200, 99, path(C)),
        [2000],
        [12],
        [(A, B, C)],
    ),
    "a flow moves to two other points within a drain, one packet is under way at its end": Scenario(
        stream(5, 0, 100, path(A, B)) + stream(10, 1099.9, 100, path(C, D)),
        [2000, 3000],
        [15, 0],
        [(A, C), ()],
    ),
    "the flow moves back": Scenario(
        stream(5, 100, 100, path(A)) + stream(5, 1100, 100, path(B)) + stream(5, 2100, 99, path(A)),
        [1000, 2000, 3000],
        [5, 5, 5],
        [(A,), (B,), (A,)],
    ),
    "the first point goes, what is under way from it is not counted again": Scenario(
        stream(10, 99.9, 100, path(A, C)) + stream(10, 1300, 50, path(B, C)),
        [1000, 2000],
        [10, 10],
        [(A,), (C,)],
    ),
    "the last point joins in the middle and is behind": Scenario(
        stream(5, 0, 100, path(A)) + stream(5, 500, 100, path(A, B)),
        [1000, 2000],
        [10, 0],
        [(A,), ()],
    ),
    "a bond and its two members": Scenario(
        [Packet(n * 10 * MS, path(A, (B, C)[n % 3 == 0])) for n in range(30)],
        [1000],
        [30],
        [(A,)],
    ),
    "a bond whose member fails": Scenario(
        stream(20, 0, 20, path(A, B)) + stream(20, 400, 20, path(A, C)),
        [1000],
        [40],
        [(A,)],
    ),
    "three points, each behind the one before at every cut": Scenario(
        stream(40, 99.7, 100, path(A, B, C)),
        [1000, 2000, 3000, 4100],
        [10, 10, 10, 10],
        [(A,)] * 4,
    ),
    "one VLAN trunk that the flow passes in two VLANs": Scenario(
        stream(3, 0, 10, (Hop(A, 0, vlan=10), Hop(B, 100 * US)))
        + stream(4, 50, 10, (Hop(A, 0, vlan=20), Hop(B, 100 * US))),
        [1000],
        [7],
        [(A, A)],
    ),
    "VLAN tag at one point, none at the next": Scenario(
        stream(6, 99.9, 180, (Hop(A, 0, vlan=10), Hop(B, 200 * US))),
        [1000, 2000],
        [6, 0],
        [(A,), ()],
    ),
    "equal ifindex in two namespaces": Scenario(
        stream(10, 99.9, 100, path(Point(1, 2, 1), Point(0, 2, 0))),
        [1000, 2000],
        [10, 0],
        [(Point(1, 2, 1),), ()],
    ),
    "the same interface in both directions": Scenario(
        stream(8, 10, 10, path(Point(0, 2, 0), Point(0, 2, 1))),
        [1000],
        [8],
        [(Point(0, 2, 0),)],
    ),
    "late packets do not make a move of a flow that is slow": Scenario(
        [
            Packet(int(t * MS), path(A, B, delay=700 * US))
            for t in (325, 425.4, 425.5, 525.5, 625.5)
        ],
        [425.7, 626, 1000],
        [3, 2, 0],
        [(A,), (A,), ()],
    ),
    "late packets of a new point do not make a move either": Scenario(
        [
            *stream(4, 0, 100, path(A)),
            *stream(2, 500, 300, (Hop(A), Hop(B), Hop(C, 1))),
            Packet(1000 * MS, path(A)),
        ],
        [500, 2000],
        [5, 2],
        [(A,), (A,)],
    ),
    "a move without a pause, the first path takes longer": Scenario(
        stream(51, 0, 9.99, (Hop(A, 900 * US),)) + stream(50, 499.8, 9.9, path(B)),
        [1500],
        [101],
        [(A, B)],
    ),
    "a move without a pause, and the second point of the new path is behind": Scenario(
        stream(60, 0, 10, path(A))
        + [Packet(int(t * MS), path(B, C)) for t in (600.5, 899.9)]
        + stream(5, 905, 5, path(C)),
        [900, 2000],
        [62, 5],
        [(A, B), (C,)],
    ),
    "the leader falls silent at the cut, and another point goes on at once": Scenario(
        stream(100, 0, 9.95, path(A)) + stream(90, 1005, 10, path(B)),
        [1000, 2000],
        [100, 90],
        [(A,), (B,)],
    ),
    "the leader falls silent at the cut, and a point that joined late goes on at once": Scenario(
        stream(20, 0, 10, path(A)) + stream(75, 200, 10, path(A, B)) + stream(50, 960, 10, path(B)),
        [950, 2000],
        [95, 50],
        [(A,), (B,)],
    ),
    "single packets at two points, a pause over the cut": Scenario(
        [Packet(960 * MS, path(A)), Packet(1040 * MS, path(B))],
        [1000, 2000],
        [1, 1],
        [(A,), (B,)],
    ),
    "a point joins at a cut, and at the next one the leader falls silent": Scenario(
        stream(10, 900, 10, path(A))
        + stream(100, 1000.5, 10, path(A, B))
        + stream(50, 2000.5, 10, path(B)),
        [1000, 2000, 3000],
        [10, 100, 50],
        [(A,), (A,), (B,)],
    ),
    "one point that saw all rather than two that saw half each": Scenario(
        stream(5, 100, 10, path(B, A))
        + stream(20, 1100, 10, path(C, A))
        + stream(20, 1500, 10, path(B, A)),
        [1000, 2000],
        [5, 40],
        [(B,), (A,)],
    ),
    "a drain of late packets only changes no leader": Scenario(
        [Packet(int(999.9 * MS), path(A, B)), *stream(3, 2100, 10, path(B, A))],
        [1000, 2000, 3000],
        [1, 0, 3],
        [(A,), (), (A,)],
    ),
    "drains that come one upon the other": Scenario(
        stream(3, 999, 0.4, path(A, B)),
        [1000, 1010, 1020],
        [3, 0, 0],
        [(A,), (), ()],
    ),
}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_scenario(scenario: Scenario) -> None:
    """Every drain brings the packets that are new, of the points that lead, and all are counted."""
    batches = drained(scenario.packets, *scenario.cuts)
    outcome = dedupe(batches)
    assert outcome.packets == list(scenario.published)
    assert [counted(batch) for batch in outcome.published] == list(scenario.leaders)
    sent = len(scenario.packets)
    assert outcome.totals.packets == sent
    assert outcome.totals.octets == FRAME * sent
    assert outcome.octets_l3 == PACKET * sent
    assert_ledger_closes(batches, outcome.published)


def counted(batch: FlowBatch) -> tuple[Point, ...]:
    """The first point of every row's list, in the order of the points."""
    return tuple(sorted(batch.point_lists[number][0] for number in batch.points.tolist()))


def assert_ledger_closes(drained: Iterable[FlowBatch], published: Iterable[FlowBatch]) -> None:
    """Drained is deduplicated and published together, and nothing is negative."""
    came = Totals()
    ledger = Ledger(
        lambda: KernelCounts(
            Tally(came.packets, came.octets), {"aggregated": Tally(came.packets, came.octets)}
        )
    )
    for before, after in zip(drained, published, strict=True):
        came += before.totals
        ledger.book(before.totals, after.totals)
        gone = before.totals - after.totals
        assert min(gone.flows, gone.packets, gone.octets) >= 0
    ledger.close_kernel()
    balance = ledger.balance()
    assert balance.problems() == []
    assert balance.drained == balance.deduplicated + balance.published


def test_all_points_are_listed() -> None:
    """The record of a flow lists every point that saw it, the counted one first."""
    outcome = dedupe(drained(stream(5, 10, 10, path(C, A, B)), 1000))
    (batch,) = outcome.published
    assert [batch.point_lists[number] for number in batch.points.tolist()] == [(C, A, B)]


def test_records_of_a_moved_flow_list_all_points() -> None:
    """Both records of a flow that moved list all points, each its own first."""
    packets = stream(5, 0, 100, path(A, B)) + stream(5, 1000, 100, path(C))
    (batch,) = dedupe(drained(packets, 2000)).published
    lists = {batch.point_lists[number] for number in batch.points.tolist()}
    assert lists == {(A, B, C), (C, A, B)}


def test_flows_do_not_mix() -> None:
    """Flows at the same points are counted each for itself; equal lists are stored once."""
    packets = [
        replace(packet, flow=flow)
        for flow in range(20)
        for packet in stream(flow + 1, 10, 10, path(A, B))
    ]
    (batch,) = dedupe(drained(packets, 1000)).published
    assert dict(zip(batch.src_port.tolist(), batch.packet_count.tolist(), strict=True)) == {
        10_000 + flow: flow + 1 for flow in range(20)
    }
    assert batch.point_lists == ((A, B),)


def test_late_packets_of_two_vlans() -> None:
    """What a point owes is taken from its rows one after the other; empty rows vanish."""
    late = (Hop(A), Hop(B, 300 * US, vlan=10))
    later = (Hop(A), Hop(B, 300 * US, vlan=20))
    packets = [
        *stream(3, 999.8, 0.01, late),
        *stream(2, 999.85, 0.01, later),
        # From here on only B sees the flow.
        *stream(4, 1300, 10, (Hop(B, 0, vlan=20),)),
    ]
    batches = drained(packets, 1000, 2000)
    assert [batch.totals.packets for batch in batches] == [5, 9]
    outcome = dedupe(batches)
    assert outcome.packets == [5, 4]
    assert outcome.published[1].vlan_id.tolist() == [20]
    assert_ledger_closes(batches, outcome.published)


def test_mode_none_keeps_every_row() -> None:
    """Mode none: every point's record, counted at every point, each listing its own point."""
    batches = drained(stream(5, 10, 10, path(A, B)), 1000)
    outcome = dedupe(batches, DedupeConfig(mode="none"))
    (batch,) = outcome.published
    assert batch.totals == batches[0].totals
    assert sorted(batch.point_lists[n] for n in batch.points.tolist()) == [(A,), (B,)]
    assert not batch.duplicate.any()


def test_mode_mark_marks_all_but_the_leader() -> None:
    """Mode mark: every point's record; those that do not count are marked; nothing is taken out."""
    packets = stream(5, 10, 100, path(A, B, C))
    batches = drained([*packets, Packet(int(999.9 * MS), path(A, B))], 1000, 2000)
    outcome = dedupe(batches, DedupeConfig(mode="mark"))
    assert outcome.totals == outcome.drained
    marks = [
        dict(zip(batch.ifindex.tolist(), batch.duplicate.tolist(), strict=True))
        for batch in outcome.published
    ]
    # In the second drain B has but the late packet, which A counted.
    assert marks == [{2: False, 3: True, 4: True}, {3: True}]


def test_mode_drop_lists_only_the_counted_point() -> None:
    """Mode drop: the leader's record with its own point alone."""
    outcome = dedupe(drained(stream(5, 10, 10, path(A, B)), 1000), DedupeConfig(mode="drop"))
    (batch,) = outcome.published
    assert outcome.packets == [5]
    assert [batch.point_lists[number] for number in batch.points.tolist()] == [(A,)]


@pytest.mark.parametrize("mode", ["merge", "mark", "drop", "none"])
def test_no_rows(mode: str) -> None:
    """An empty drain stays empty in every mode."""
    outcome = dedupe(drained([], 1000), DedupeConfig.model_validate({"mode": mode}))
    assert outcome.totals == Totals()


def tie(start_ms: float, first: Point, second: Point) -> list[Packet]:
    """Three packets that two points see alike, ``first`` a little earlier."""
    return stream(3, start_ms, 10, path(first, second))


@pytest.mark.parametrize(("expiry", "leader"), [(10.0, A), (1.0, B)])
def test_a_quiet_flow_keeps_its_leader_until_it_expires(expiry: float, leader: Point) -> None:
    """On a tie the leader before the silence leads again; forgotten, the first to see it does."""
    packets = [*tie(100, A, B), *tie(3100, B, A), Packet(2500 * MS, path(D), flow=1)]
    batches = drained(packets, 1000, 2000, 3000, 4000)
    outcome = dedupe(batches, DedupeConfig(expiry=expiry))
    assert counted(outcome.published[-1]) == (leader,)
    assert outcome.totals.packets == len(packets)


def test_memory_is_bounded() -> None:
    """No more flows are remembered than configured, and the forgotten are counted."""
    from exporter.dedupe.dedupe import Deduper

    deduper = Deduper(DedupeConfig(max_flows=10))
    packets = [Packet((100 + flow) * MS, path(A), flow) for flow in range(8)]
    packets += [Packet((1100 + flow) * MS, path(A), flow) for flow in range(5, 17)]
    for batch, remembered, evictions in zip(
        drained(packets, 1000, 2000), (8, 10), (0, 7), strict=True
    ):
        deduper.apply(batch)
        assert len(deduper.window) == remembered
        # 8 known, then 12 of which 3 are among them: 17 in all for 10 places.
        assert deduper.window.evictions == evictions


def test_forgotten_flows_lose_nothing() -> None:
    """With room for one flow only, points that see all packets still count each once."""
    packets = [replace(packet, flow=f) for f in range(9) for packet in stream(9, 5, 300, path(A))]
    outcome = dedupe(drained(packets, 1000, 2000, 3000), DedupeConfig(max_flows=1))
    assert outcome.totals.packets == len(packets)


def test_silence_of_the_whole_host_ends_debts() -> None:
    """After a drain without any flow nothing is under way: a new point's packets are new."""
    packets = [Packet(990 * MS, path(A)), Packet(3010 * MS, path(B))]
    outcome = dedupe(drained(packets, 1000, 2000, 3000, 4000))
    assert outcome.packets == [1, 0, 0, 1]


def test_silence_of_the_flow_ends_debts() -> None:
    """The same while another flow goes on."""
    packets = [Packet(990 * MS, path(A)), Packet(3010 * MS, path(B))]
    packets += [replace(packet, flow=1) for packet in stream(30, 50, 100, path(D))]
    outcome = dedupe(drained(packets, 1000, 2000, 3000, 4000))
    assert outcome.totals.packets == len(packets)


def test_debts_of_a_lossy_path_are_not_believed() -> None:
    """
    Where packets are dropped between two points, what the second misses is not under way: when the
    first point falls silent, all that the second sees is counted.
    """
    packets = [Packet(n * MS + MS // 2, path(A, B) if n % 10 else path(A)) for n in range(5000)]
    moved = stream(1000, 5000.5, 0.9, path(B))
    outcome = dedupe(drained([*packets, *moved], *range(1000, 7000, 1000)))
    assert outcome.totals.packets == 6000


def test_sampled_points_do_not_make_a_move() -> None:
    """Sampled, two points see different packets of one flow: that is no move, the most count."""
    packets = [Packet(100 * MS, path(A)), Packet(900 * MS, path(B))]
    assert dedupe(drained(packets, 1000)).packets == [2]
    assert dedupe(drained(packets, 1000, sampling_interval=100)).packets == [1]
