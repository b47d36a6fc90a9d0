"""Sums by attributes against a dictionary that is filled row by row."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.batch.attributes import Attribute, Entities
from exporter.batch.batch import FlowBatch, Interface, Point
from exporter.batch.record import WITH_PORTS, FlowRecord, records
from exporter.errors import ConfigError
from exporter.sinks.encodings.series import ATTRIBUTES, Reading, Series, Value, check_attributes
from exporter.testing import Row, make_batch
from tests.strategies import batches, enriched

_WRAP = 1 << 64


def value(record: FlowRecord, attribute: str) -> Value:
    """An attribute of one record, without any of the code under test."""
    ports = record.ip_protocol in WITH_PORTS
    values: dict[str, Value] = {
        "src_addr": record.source,
        "dst_addr": record.destination,
        "src_port": record.source_port if ports else 0,
        "dst_port": record.destination_port if ports else 0,
        "ip_protocol": record.ip_protocol,
        "ip_version": record.ip_version,
        "interface": record.interface,
        "flow_direction": record.direction,
        "vlan_id": record.vlan_id,
        "inner_vlan_id": record.inner_vlan_id,
        "dscp": record.dscp,
        "src_mac": record.source_mac,
        "dst_mac": record.destination_mac,
    }
    return values[attribute]


def expected(batch: FlowBatch, attributes: tuple[str, ...]) -> dict[tuple[Value, ...], list[int]]:
    """Flows, packets, L2 and L3 octets of each series."""
    sums: dict[tuple[Value, ...], list[int]] = {}
    for record in records(batch):
        if not record.duplicate:
            key = tuple(value(record, name) for name in attributes)
            total = sums.setdefault(key, [0, 0, 0, 0])
            row = (1, record.packets, record.octets_l2, record.octets_l3)
            sums[key] = [(a + b) % _WRAP for a, b in zip(total, row, strict=True)]
    return sums


def as_counted_points(batch: FlowBatch) -> FlowBatch:
    """Keys that say what the point lists say, as deduplication leaves them."""
    key = batch.key.copy()
    for row, number in enumerate(batch.points.tolist()):
        point = batch.point_lists[number][0]
        key[row]["netns"], key[row]["ifindex"] = point.netns, point.ifindex
    return replace(batch, key=key)


def found(reading: Reading) -> dict[tuple[Value, ...], list[int]]:
    assert len(set(reading.values)) == len(reading.values)
    return dict(zip(reading.values, reading.sums.tolist(), strict=True))


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


CHOICES = st.lists(st.sampled_from(sorted(ATTRIBUTES)), max_size=4, unique=True).map(tuple)


@given(st.lists(batches(), max_size=3), CHOICES)
def test_sums_are_those_of_the_rows(some: list[FlowBatch], attributes: tuple[str, ...]) -> None:
    """Any attributes, several batches: every sum is exact, and no series is missing or extra."""
    series = Series(attributes)
    wanted: dict[tuple[Value, ...], list[int]] = {}
    for batch in map(as_counted_points, some):
        series.add(batch, 1)
        for key, row in expected(batch, attributes).items():
            total = wanted.get(key, [0, 0, 0, 0])
            wanted[key] = [(a + b) % _WRAP for a, b in zip(total, row, strict=True)]
    reading = series.read()
    assert found(reading) == wanted
    assert not reading.overflow
    assert len(series) == len(reading) == len(wanted)


@given(batches(), CHOICES, st.integers(2, 5))
def test_a_limit_loses_nothing(batch: FlowBatch, attributes: tuple[str, ...], limit: int) -> None:
    """No more series than allowed; what has none of its own is in the overflow series."""
    batch = as_counted_points(batch)
    series = Series(attributes, limit)
    slots = series.add(batch, 1)
    reading = series.read()
    wanted = expected(batch, attributes)
    assert len(reading) == min(len(wanted), limit)
    assert reading.overflow == (len(wanted) >= limit)
    own = found(reading)
    over = own.pop((), [0, 0, 0, 0]) if reading.overflow else [0, 0, 0, 0]
    # A first come, first served: the kept ones are the first in the batch.
    assert list(own) == list(wanted)[: len(own)]
    assert own.items() <= wanted.items()
    rest = [row for key, row in wanted.items() if key not in own]
    assert over == [sum(column) % _WRAP for column in zip(*rest, strict=True)] or not rest
    # Rows know their series.
    flows = Counter(slots[slots >= 0].tolist())
    assert [flows[slot] for slot in reading.slots.tolist()] == reading.flows.tolist()
    assert (slots == -1).tolist() == batch.duplicate.tolist()


def test_exactly_at_the_limit() -> None:
    """One series fewer than the limit does not overflow; one more does."""
    series = Series(["src_port"], limit=3)
    series.add(make_batch(Row(src_port=1), Row(src_port=2)), 1)
    assert not series.read().overflow
    slots = series.add(make_batch(Row(src_port=3), Row(src_port=1), Row(src_port=4)), 2)
    reading = series.read()
    assert reading.overflow
    assert slots.tolist() == [series.overflow_slot, 0, series.overflow_slot]
    assert reading.values == ((1,), (2,), ())
    assert reading.flows.tolist() == [2, 1, 2]
    assert reading.packets.tolist() == [20, 10, 20]
    assert reading.octets_l2.tolist() == [3080, 1540, 3080]
    assert reading.octets_l3.tolist() == [2800, 1400, 2800]
    assert reading.start_ns.tolist() == [1, 1, 2]


def test_idle_series_expire() -> None:
    """
    Forgotten after the idle time, not before; the others keep their sums; one that comes back
    begins at zero, with the start of its batch. Room that became free is used.
    """
    clock = Clock()
    series = Series(["src_port"], limit=4, idle=10, clock=clock)
    series.add(make_batch(Row(src_port=1), Row(src_port=2), Row(src_port=3), Row(src_port=4)), 1)
    clock.now += 10
    assert series.expire() == 0
    series.add(make_batch(Row(src_port=2)), 2)
    clock.now += 1
    assert series.expire() == 3
    reading = series.read()
    assert (reading.values, reading.flows.tolist(), reading.overflow) == (((2,),), [2], False)
    series.add(make_batch(Row(src_port=1), Row(src_port=4)), 3)
    reading = series.read()
    assert reading.values == ((2,), (1,), (4,))
    assert reading.flows.tolist() == [2, 1, 1]
    assert reading.start_ns.tolist() == [1, 3, 3]
    clock.now += 11
    assert series.expire() == 3
    assert len(series) == 0
    assert series.read().sums.shape == (0, 4)


def test_interfaces_have_names() -> None:
    """By name where there is one, by index where there is none, with or without point lists."""
    points = (Point(0, 2, 0), Point(3, 2, 0), Point(0, 7, 1))
    names = {points[0]: Interface("eth0"), points[1]: Interface("eth0", "pod")}
    rows = [
        Row(netns=p.netns, ifindex=p.ifindex, direction=p.direction, points=(p,)) for p in points
    ]
    for listed in (True, False):
        some = rows if listed else [replace(row, points=None) for row in rows]
        series = Series(["interface"])
        series.add(make_batch(*some, interfaces=names), 1)
        reading = series.read()
        assert dict(zip(reading.values, reading.flows.tolist(), strict=True)) == {
            ("eth0",): 2,
            ("7",): 1,
        }


def test_texts_do_not_pile_up() -> None:
    """Interfaces that come and go for ever leave nothing behind."""
    clock = Clock()
    series = Series(["interface", "src_port"], limit=10, idle=1, clock=clock)
    for number in range(5000):
        point = Point(0, number + 1, 0)
        names = {point: Interface(f"veth{number}")}
        series.expire()
        series.add(make_batch(Row(points=(point,)), interfaces=names), 1)
        clock.now += 1
    assert series.read().values[-1] == ("veth4999", 40000)
    assert len(series._texts) < 1100


def test_a_hundred_thousand_series() -> None:
    """As many flows as series, twice: numbers stay, sums double."""
    rows = 100_000
    batch = make_batch(Row()).take(np.zeros(rows, np.int64))
    key = batch.key.copy()
    key["src_addr"][:, 12:] = np.arange(rows, dtype=">u4").view(np.uint8).reshape(rows, 4)
    batch = replace(batch, key=key)
    series = Series(["src_addr", "ip_protocol"], limit=rows + 1)
    first, second = series.add(batch, 1), series.add(batch, 2)
    assert first.tolist() == second.tolist() == list(range(rows))
    reading = series.read()
    assert len(reading) == rows
    assert set(reading.packets.tolist()) == {20}
    assert reading.values[258] == ("0.0.1.2", 6)


def test_attributes_are_checked() -> None:
    """Those named twice are refused, and unknown ones with the nearest name, in one line."""
    with pytest.raises(ValueError, match="named twice"):
        check_attributes(["src_addr", "src_addr"])
    with pytest.raises(ConfigError):
        Series(["src_addr", "src_addr"])
    added = ("src_k8s_pod_name", "labels_team")
    assert check_attributes(["labels_team", "src_addr"], added) == ("labels_team", "src_addr")
    for name, advice in (
        ("src_k8s_pod", r"did you mean src_k8s_pod_name\?"),
        ("src_adr", r"did you mean src_addr\?"),
        ("zzz", "use src_addr, .*labels_team"),
    ):
        with pytest.raises(ValueError, match=f"there is no attribute '{name}': {advice}"):
            check_attributes([name], added)


def _names(batch: FlowBatch) -> list[str]:
    return [what.name for what in batch.attributes()]


@given(batch=enriched(), data=st.data())
def test_sums_by_what_was_added(batch: FlowBatch, data: st.DataObject) -> None:
    """Any attributes of any entities and columns, each as records have it; unknown is empty."""
    known = [*_names(batch), "ip_protocol", "src_nobody_knows"]
    chosen = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=4, unique=True))
    series = Series(chosen, limit=100)
    for part in (batch.take(slice(0, 3)), batch.take(slice(3, None))):
        series.add(part, 1)
    wanted: Counter[tuple[Value, ...]] = Counter()
    for record in records(batch):
        if not record.duplicate:
            has: dict[str, Value] = {
                what.name: value for what, value in record.metadata.items() if value is not None
            }
            has["ip_protocol"] = record.ip_protocol
            wanted[tuple(has.get(name, "") for name in chosen)] += 1
    reading = series.read()
    assert dict(zip(reading.values, reading.flows.tolist(), strict=True)) == wanted


def test_texts_of_overflow_are_forgotten() -> None:
    """Names that there is no room for do not stay in memory, scraped or not."""
    series = Series(["src_x"], limit=10)
    what = Attribute("source.x", "")
    for drain in range(20):
        names = (None, *(f"pod-{drain}-{n}" for n in range(500)))
        batch = make_batch(Row()).take(np.zeros(500, np.int64))
        some = Entities(np.arange(1, 501, dtype=np.uint32), {what: names})
        series.add(replace(batch, entities=(some,)), 1)
    assert len(series._texts) < 2000
    reading = series.read()
    assert [values[0] for values in reading.values[:-1]] == [f"pod-0-{n}" for n in range(9)]
    assert reading.flows.tolist() == [1] * 9 + [20 * 500 - 9]
