"""The batch itself: columns, keys as words, rows taken and joined, records for people."""

from __future__ import annotations

import ipaddress
import struct
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.batch.batch import (
    ROW_COLUMNS,
    FlowBatch,
    FlowEndReason,
    Interface,
    Observer,
    Point,
    Totals,
    Window,
    concatenate,
    mac_numbers,
)
from exporter.batch.clock import unix_offset_ns
from exporter.batch.record import PointName, address_text, records
from exporter.batch.schema import COLUMNS
from exporter.testing import Row, make_batch
from tests.strategies import IPV4, IPV6, batches


@pytest.mark.parametrize("address", IPV4)
def test_ipv4_is_ipv4(address: str) -> None:
    """::ffff/96 is IPv4, whatever the four octets are."""
    assert make_batch(Row(src_addr=address, dst_addr=address)).is_ipv4().tolist() == [True]


@pytest.mark.parametrize(
    "address", [*IPV6, "0:0:0:1::ffff:0:0", "::fffe:1.2.3.4", "::ff:0:1.2.3.4"]
)
def test_ipv6_is_not_ipv4(address: str) -> None:
    """Everything else is not, however close."""
    assert make_batch(Row(src_addr=address, dst_addr=address)).is_ipv4().tolist() == [False]


def test_is_icmp() -> None:
    """Only ICMP and ICMPv6 have type and code."""
    batch = make_batch(*(Row(ip_protocol=number) for number in range(256)))
    assert np.flatnonzero(batch.is_icmp()).tolist() == [1, 58]


def test_key_words() -> None:
    """Every field is where the docstring says, and nothing else is there."""
    row = Row(
        src_addr="1112:1314:1516:1718:191a:1b1c:1d1e:1f20",
        dst_addr="2122:2324:2526:2728:292a:2b2c:2d2e:2f30",
        ifindex=0x31323334,
        src_port=0x4142,
        dst_port=0x5152,
        netns=0x6162,
        vlan_id=0x0172,
        inner_vlan_id=0x0182,
        ip_protocol=0x91,
        direction=1,
    )
    words = make_batch(row).key_words()[0].tolist()
    source, destination = (
        struct.unpack("<2Q", ipaddress.ip_address(text).packed)
        for text in (row.src_addr, row.dst_addr)
    )
    assert words == [
        *source,
        *destination,
        row.ifindex | row.src_port << 32 | row.dst_port << 48,
        row.netns
        | row.vlan_id << 16
        | row.inner_vlan_id << 32
        | row.ip_protocol << 48
        | row.direction << 56,
    ]


def test_key_words_of_every_other_row() -> None:
    """Keys that do not lie one after the other give their own words."""
    batch = make_batch(*(Row(ifindex=n) for n in range(10))).take(slice(None, None, 2))
    assert (batch.key_words()[:, 4] & 0xFFFFFFFF).tolist() == [0, 2, 4, 6, 8]


def test_totals() -> None:
    """Sums over the rows; they add and subtract by part."""
    batch = make_batch(Row(packet_count=1, octet_count_l2=60), Row(packet_count=9))
    assert batch.totals == Totals(flows=2, packets=10, octets=1600)
    assert batch.totals + Totals(1, 1, 1) == Totals(3, 11, 1601)
    assert batch.totals - Totals(1, 1, 1) == Totals(1, 9, 1599)
    assert make_batch().totals == Totals()


def test_totals_are_of_this_batch() -> None:
    """What was summed for a batch is not carried over to one that is made from it."""
    batch = make_batch(Row(packet_count=1), Row(packet_count=9))
    assert batch.totals.packets == 10
    assert batch.take(slice(1)).totals.packets == 1
    assert replace(batch, packet_count=np.full(2, 3, np.uint64)).totals.packets == 6


def rows_of(batch: FlowBatch) -> list[tuple[bytes, ...]]:
    """Rows as octets, all columns."""
    return [
        tuple(getattr(batch, name)[row].tobytes() for name in ROW_COLUMNS)
        for row in range(len(batch))
    ]


@given(batches(), st.data())
def test_take(batch: FlowBatch, data: st.DataObject) -> None:
    """Indices, masks and slices select the same rows of all columns, and keep all else."""
    rows = rows_of(batch)
    mask = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), bool
    )
    chosen = [row for row, keep in zip(rows, mask.tolist(), strict=True) if keep]
    assert rows_of(batch.take(mask)) == chosen
    assert rows_of(batch.take(np.flatnonzero(mask))) == chosen
    start = data.draw(st.integers(0, len(rows)))
    part = batch.take(slice(start, None))
    assert rows_of(part) == rows[start:]
    assert (part.point_lists, part.observer) == (batch.point_lists, batch.observer)


@given(st.lists(batches(5), min_size=1, max_size=3))
def test_concatenate(parts: list[FlowBatch]) -> None:
    """All rows, in order."""
    assert rows_of(concatenate(parts)) == [row for part in parts for row in rows_of(part)]


def test_every_column_is_described() -> None:
    """The column table names attributes of a batch, each once, with its dtype."""
    batch = make_batch(Row())
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    for column in COLUMNS:
        values = getattr(batch, column.name)
        count, _, kind = column.dtype.rpartition(" x ")
        assert values.dtype == np.dtype(kind), column.name
        assert values.shape == ((1, int(count)) if count else (1,)), column.name


def test_records() -> None:
    """A row as a value: every field, names of interfaces, the observer."""
    ingress, egress = Point(0, 2, 0), Point(4, 9, 1)
    batch = make_batch(
        Row(
            src_addr="10.1.2.3",
            dst_addr="10.4.5.6",
            src_port=1234,
            dst_port=443,
            vlan_id=12,
            inner_vlan_id=13,
            packet_count=7,
            octet_count_l2=800,
            octet_count_l3=700,
            tcp_control_bits=0x12,
            tcp_flag_sets=1,
            dscp=46,
            flow_end_reason=2,
            direction=1,
            points=(egress, ingress),
        ),
        Row(
            src_addr="2001:db8::1",
            dst_addr="2001:db8::2",
            ip_protocol=58,
            src_port=0,
            dst_port=128 << 8 | 3,
            duplicate=True,
            points=(ingress,),
        ),
        interfaces={egress: Interface("eth0", "blue")},
        observer=Observer("192.0.2.9", "node-1"),
        window=Window(1, 2),
    )
    first, second = records(batch)
    assert (first.source, first.destination) == ("10.1.2.3", "10.4.5.6")
    assert (first.source_port, first.destination_port, first.ip_version) == (1234, 443, 4)
    assert (first.vlan_id, first.inner_vlan_id) == (12, 13)
    assert (first.packets, first.octets_l2, first.octets_l3) == (7, 800, 700)
    assert (first.tcp_control_bits, first.tcp_flag_sets, first.dscp) == (0x12, 1, 46)
    assert first.source_mac == "02:00:00:00:00:01"
    assert first.points == (PointName("eth0", 9, 1, "blue"), PointName("2", 2, 0, ""))
    assert (first.interface, first.direction, first.icmp) == ("eth0", 1, None)
    assert (first.agent_ip, first.agent_name) == ("192.0.2.9", "node-1")
    assert FlowEndReason(first.end_reason) is FlowEndReason.ACTIVE_TIMEOUT
    assert (second.source, second.ip_version, second.icmp) == ("2001:db8::1", 6, (128, 3))
    assert (second.duplicate, second.interface) == (True, "2")


def test_records_without_points() -> None:
    """Rows that were not deduplicated yet have no points and no interface."""
    (record,) = records(make_batch(Row()))
    assert (record.points, record.interface) == ((), "")


@pytest.mark.parametrize("address", [*IPV4, *IPV6])
def test_address_text(address: str) -> None:
    """Addresses come back as they were written."""
    (record,) = records(make_batch(Row(src_addr=address, dst_addr=address)))
    assert record.source == record.destination == str(ipaddress.ip_address(address))
    assert address_text(bytes(15) + b"\x01") == "::1"


def test_mac_numbers() -> None:
    """11:22:33:44:55:66 is 0x112233445566."""
    batch = make_batch(Row(src_mac="11:22:33:44:55:66", dst_mac="ff:ff:ff:ff:ff:ff"))
    assert mac_numbers(batch.src_mac).tolist() == [0x112233445566]
    assert mac_numbers(batch.dst_mac).tolist() == [0xFFFFFFFFFFFF]


def test_end_reason_texts() -> None:
    """The words of the IANA registry, lower case."""
    assert [reason.text for reason in FlowEndReason] == [
        "idle timeout",
        "active timeout",
        "end of flow detected",
        "forced end",
        "lack of resources",
    ]


def test_unix_offset() -> None:
    """CLOCK_MONOTONIC and the offset are the time of day, but for being preempted in between."""

    def error_ns() -> int:
        return abs(time.monotonic_ns() + unix_offset_ns() - time.time_ns())

    assert min(error_ns() for _ in range(50)) < 100_000
