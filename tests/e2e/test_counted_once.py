"""
What must not confuse the views that count flows once: clocks, drains, loss, and shared addresses.

Packets are made up, and every agent's records of them as it would have drained them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.e2e.clickhouse import ClickHouse

#: Noon of yesterday, Unix seconds: no edge of a long step is near, and it is kept for days.
NOON = int(time.time()) // 86_400 * 86_400 - 43_200
DAY = ", ".join(
    f"{name} = '{datetime.fromtimestamp(NOON + offset, UTC):%Y-%m-%d %H:%M:%S}'"
    for name, offset in (("from", -43_200), ("until", 43_200))
)
ONE, OTHER, GATEWAY = "10.0.0.1", "10.0.0.2", "10.0.0.254"
OCTETS = 100


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    with ClickHouse(tmp_path_factory.mktemp("clickhouse")) as one:
        for name in ("flows", "counted-once"):
            one.run(f"{name}.sql")
        yield one


@pytest.fixture
def clickhouse(started: ClickHouse) -> ClickHouse:
    """With empty tables."""
    for table in ("records", "pairs", "workloads"):
        started.execute(f"TRUNCATE TABLE flows.{table}")
    return started


@dataclass(frozen=True)
class Record:
    """A row of flows.records; what is not said is as the table has it."""

    agent: str
    flow_start: float
    flow_end: float
    packets: int
    octets_l2: int
    src_addr: str = ONE
    dst_addr: str = OTHER
    src_port: int = 0
    dst_port: int = 53
    ip_protocol: int = 17
    src_mac: int = 1
    sampling_interval: int = 1
    src_node_addr: str = "::"
    dst_node_addr: str = "::"
    src_owner: str = ""
    dst_owner: str = ""


@dataclass(frozen=True)
class Reporter:
    """
    An agent.

    Args:
        address: What it reports as its own.
        interval: Seconds between its drains.
        phase: Seconds after noon of one of them.
        skew: Seconds that its clock is ahead.
        away: Times in seconds between which it saw nothing.
    """

    address: str
    interval: float = 5
    phase: float = 0
    skew: float = 0
    away: tuple[float, float] = field(default=(0, 0))

    def records(self, packets: Iterable[float], port: int = 0) -> Iterator[Record]:
        """Those of a flow with packets at these times, one for each drain that had some."""
        drains: dict[int, list[float]] = {}
        for at in packets:
            if not self.away[0] <= at < self.away[1]:
                drains.setdefault(int((at - self.phase) // self.interval), []).append(at)
        for seen in drains.values():
            yield Record(
                self.address, min(seen) + self.skew, max(seen) + self.skew, len(seen),
                OCTETS * len(seen), src_port=port,
            )  # fmt: skip


def insert(clickhouse: ClickHouse, records: Iterable[Record]) -> None:
    names = [one.name for one in fields(Record)]

    def text(record: Record) -> str:
        values = {name: getattr(record, name) for name in names}
        for name in ("flow_start", "flow_end"):
            values[name] = f"fromUnixTimestamp64Milli({round(1000 * (NOON + values[name]))})"
        return ", ".join(
            f"'{value}'" if isinstance(value, str) and not name.startswith("flow_") else str(value)
            for name, value in values.items()
        )

    rows = ", ".join(f"({text(record)})" for record in records)
    clickhouse.execute(f"INSERT INTO flows.records ({', '.join(names)}) VALUES {rows}")


def sums(clickhouse: ClickHouse, table: str) -> int:
    """Packets; octets are as many times as many."""
    packets, octets = clickhouse.one(f"SELECT sum(packets), sum(octets_l2) FROM {table}")
    assert octets == OCTETS * packets
    return int(packets)


def once(clickhouse: ClickHouse, gap: int = 30) -> int:
    return sums(clickhouse, f"flows.counted_once({DAY}, gap = {gap})")


def pairs(clickhouse: ClickHouse, step: int) -> int:
    return sums(clickhouse, f"flows.pairs_once({DAY}, step = {step})")


def flows(seed: int, count: int) -> list[list[float]]:
    """Times of the packets of so many flows: bursts, steady ones, long pauses."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        start, times = rng.uniform(0, 3000), []
        for _ in range(rng.choice((1, 3, 200))):
            start += rng.choice((0.01, 1, 1, 20, 90))
            times.append(start)
        made.append(times)
    return made


def test_clocks_and_drains(clickhouse: ClickHouse) -> None:
    """
    Drains of another interval and phase, a clock 11 s ahead, a gateway between that saw all of it,
    too, and what Kafka delivered twice: each packet once. By the minute it is not less, and exact
    where no step has an edge.
    """
    agents = (
        Reporter(ONE),
        Reporter(OTHER, interval=7, phase=2.5, skew=11),
        Reporter(GATEWAY, interval=30, skew=-3),
    )
    made = flows(1, 200)
    records = [r for port, times in enumerate(made) for a in agents for r in a.records(times, port)]
    insert(clickhouse, records + records[::10])
    sent = sum(map(len, made))
    assert sums(clickhouse, "flows.records") > 3 * sent
    assert once(clickhouse) == sent


def test_by_minutes(clickhouse: ClickHouse) -> None:
    """Without what came twice, minutes give the sum where no flow passes an edge; never less."""
    agents = (Reporter(ONE), Reporter(OTHER, interval=7, phase=2.5, skew=11))
    made = flows(2, 200)
    insert(clickhouse, [
        r for port, times in enumerate(made) for a in agents for r in a.records(times, port)
    ])  # fmt: skip
    sent = sum(map(len, made))
    assert pairs(clickhouse, 86_400) == sent
    assert sent < pairs(clickhouse, 60) < 2 * sent


def test_one_agent_missed_some(clickhouse: ClickHouse) -> None:
    """Either agent was away: the other has it all. A flow that one saw alone is kept."""
    times = [float(n) for n in range(600)]
    insert(clickhouse, [
        *Reporter(ONE, away=(100, 200)).records(times, 1),
        *Reporter(OTHER, phase=2.5).records(times, 1),
        *Reporter(ONE).records(times, 2),
        *Reporter(OTHER, phase=2.5, away=(0, 60)).records(times, 2),
        *Reporter(OTHER, phase=2.5).records(times, 3),
    ])  # fmt: skip
    assert once(clickhouse) == 3 * 600


def test_both_missed_some(clickhouse: ClickHouse) -> None:
    """The limit: of one conversation, the agent that saw most. After a pause it is another one."""
    times = [float(n) for n in range(300)]
    insert(clickhouse, [
        *Reporter(ONE, away=(0, 50)).records(times),
        *Reporter(OTHER, away=(200, 300)).records(times),
        *Reporter(ONE, away=(0, 550)).records([500 + at for at in times]),
        *Reporter(OTHER, away=(700, 800)).records([500 + at for at in times]),
    ])  # fmt: skip
    assert once(clickhouse) == 250 + 250


def test_a_clock_beyond_the_gap(clickhouse: ClickHouse) -> None:
    """The other limit: clocks further apart than the gap make two conversations of one."""
    insert(clickhouse, [*Reporter(ONE).records([0, 1]), *Reporter(OTHER, skew=60).records([0, 1])])
    assert once(clickhouse, gap=30) == 4
    assert once(clickhouse, gap=90) == 2


def test_addresses_that_many_hosts_have(clickhouse: ClickHouse) -> None:
    """
    Every host asks for a lease from 0.0.0.0, and talks to itself: with a MAC address of its own, or
    with none, it is a flow of its own. What two agents see of one MAC address is one.
    """
    ends = (
        ("0.0.0.0", "255.255.255.255"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("fe80::1", "ff02::1"),
        ("169.254.1.1", "169.254.1.2"),
    )
    insert(clickhouse, [
        Record(agent, 0, 1, 7, 700, source, destination, src_mac=mac)
        for source, destination in ends
        for agent, mac in ((ONE, 0), (OTHER, 0), (ONE, 5), (OTHER, 6), (GATEWAY, 6))
    ])  # fmt: skip
    assert once(clickhouse) == len(ends) * 4 * 7
    assert pairs(clickhouse, 3600) == len(ends) * 4 * 7


def test_who_samples_less(clickhouse: ClickHouse) -> None:
    """One in ten, scaled by chance to more than there was, does not win over every packet."""
    insert(clickhouse, [
        Record(ONE, 0, 1, 90, 9000),
        Record(OTHER, 0, 1, 95, 9500, sampling_interval=10),
    ])  # fmt: skip
    assert once(clickhouse) == pairs(clickhouse, 3600) == 90


def test_by_workloads(clickhouse: ClickHouse) -> None:
    """
    Pods on two nodes, a client outside, and a third node that sees what passes through: counted by
    whose node the agent is on, in every minute exactly.
    """
    web, shop, client = "10.244.1.1", "10.244.2.1", "203.0.113.9"
    made: list[Record] = []
    for minute in range(3):
        for agent, start in ((ONE, 58.0), (OTHER, 61.0), (GATEWAY, 59.0)):
            at = 60 * minute + start
            ends: dict[str, Any] = {"src_node_addr": ONE, "dst_node_addr": OTHER}
            ends |= {"src_owner": "web", "dst_owner": "shop"}
            made.append(Record(agent, at, at + 1, 10, 1000, web, shop, **ends))
            outside: dict[str, Any] = {"dst_node_addr": OTHER, "dst_owner": "shop"}
            made.append(Record(agent, at, at + 1, 3, 300, client, shop, **outside))
        # Hosts that are no nodes, seen where they pass.
        made.append(Record(GATEWAY, 60 * minute, 60 * minute, 1, 100, client, "203.0.113.10"))
    insert(clickhouse, made)
    found = clickhouse.rows(
        "SELECT src_owner, dst_owner, toUInt32(minute) AS minute, sum(packets) AS packets "
        f"FROM flows.workloads_once WHERE minute >= toDateTime({NOON}) GROUP BY ALL"
    )
    got = {(r["src_owner"], r["dst_owner"], r["minute"] - NOON): r["packets"] for r in found}
    wanted = {("web", "shop", 60 * n): 10 for n in range(3)}
    wanted |= {("", "shop", 60 * n): 3 for n in range(1, 4)}
    wanted |= {("", "", 60 * n): 1 for n in range(3)}
    assert got == wanted
