"""What makes two packets the same flow, and that colliding hashes cost no packet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from exporter.batch.batch import Point
from exporter.batch.group import SEED, hash_words
from exporter.dedupe import policy
from exporter.dedupe.config import DedupeConfig
from exporter.dedupe.dedupe import Deduper
from exporter.testing import Row, make_batch
from tests.unit.dedupe.simulation import MS, Hop, Packet, dedupe, drains

SAME = Row(src_addr="10.0.0.1", dst_addr="10.0.0.2")


def published(*rows: Row) -> int:
    """Rows that are left of these, one drain."""
    return len(Deduper(DedupeConfig()).apply(make_batch(*rows)))


@pytest.mark.parametrize(
    "other",
    [
        replace(SAME, ifindex=9),
        replace(SAME, netns=1),
        replace(SAME, direction=1),
        replace(SAME, ifindex=9, vlan_id=7, inner_vlan_id=8),
        replace(SAME, ifindex=9, src_mac="02:00:00:00:00:99"),
    ],
    ids=["interface", "namespace", "direction", "tags", "router"],
)
def test_the_same_packets_elsewhere(other: Row) -> None:
    """Another point, other tags, other MACs: the same packets, counted once."""
    assert published(SAME, other) == 1


@pytest.mark.parametrize(
    "other",
    [
        replace(SAME, src_addr="10.0.0.3"),
        replace(SAME, dst_addr="10.0.0.3"),
        replace(SAME, src_port=1),
        replace(SAME, dst_port=1),
        replace(SAME, ip_protocol=17),
        replace(SAME, src_addr="::a00:1", dst_addr="::a00:2"),
        replace(SAME, src_addr=SAME.dst_addr, dst_addr=SAME.src_addr),
    ],
    ids=["source", "destination", "source port", "destination port", "protocol", "family", "back"],
)
def test_other_packets(other: Row) -> None:
    """Another flow is another flow, also at another point."""
    assert published(SAME, other) == 2
    assert published(SAME, replace(other, ifindex=9)) == 2


@pytest.mark.parametrize("unspecified", ["0.0.0.0", "::"])
def test_hosts_without_an_address(unspecified: str) -> None:
    """Who has no address yet is told apart by MAC, and seen twice still counts once."""
    first = Row(src_addr=unspecified, dst_addr=unspecified, src_port=68, dst_port=67)
    second = replace(first, src_mac="02:00:00:00:00:99", ifindex=3)
    assert published(first, second) == 2
    assert published(first, replace(first, ifindex=3), second) == 2


@pytest.mark.parametrize("loopback", ["127.0.0.1", "127.1.2.3", "::1"])
def test_loopback_addresses(loopback: str) -> None:
    """Loopback packets never leave their namespace: those of two namespaces are different."""
    first = Row(src_addr=loopback, dst_addr=loopback)
    assert published(first, replace(first, netns=1)) == 2
    assert published(first, replace(first, direction=1)) == 1


def test_points_as_numbers() -> None:
    """Interface, namespace and direction do not run into one another."""
    extremes = [Point(n, i, d) for n in (0, 2**16 - 1) for i in (0, 2**32 - 1) for d in (0, 1)]
    batch = make_batch(*(Row(netns=n, ifindex=i, direction=d) for n, i, d in extremes))
    assert len(set(policy.points(batch.key_words()).tolist())) == len(extremes)
    listed = Deduper(DedupeConfig(mode="none")).apply(batch)
    assert [listed.point_lists[n] for n in listed.points.tolist()] == [(p,) for p in extremes]


def test_colliding_hashes_cost_no_packet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows whose hashes are all equal are still told apart, in the drain and in the memory."""

    def colliding(words: NDArray[np.uint64], seed: np.uint64 = SEED) -> NDArray[np.uint64]:
        return np.zeros(len(words), np.uint64) if seed == SEED else hash_words(words, seed)

    monkeypatch.setattr(policy, "hash_words", colliding)
    hops = (Hop(Point(0, 2, 0)), Hop(Point(0, 3, 0), MS // 5))
    packets = [Packet(n * 100 * MS, hops, flow) for n in range(1, 40) for flow in range(n % 7)]
    outcome = dedupe(drains(packets, [n * 1000 * MS + MS for n in range(1, 5)]))
    assert outcome.totals.packets == len(packets)
