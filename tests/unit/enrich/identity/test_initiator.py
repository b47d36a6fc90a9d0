"""Who began is what SYNs prove, then what is remembered of them, then a guess that says so."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from exporter.batch.batch import FlowBatch, Window
from exporter.batch.record import records
from exporter.enrich.identity.initiator import BIFLOW_DIRECTION, INITIATOR, RULE, Initiator
from exporter.enrich.identity.memory import WAYS, Memory
from exporter.testing import Row, make_batch

FIN, SYN, RST, ACK = 1, 2, 4, 16
SYN_ACK = 1
SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND


def initiator(entries: int = 1024, seconds: int = 60) -> Initiator:
    return Initiator(entries, seconds * SECOND)


def batch(*rows: Row, at: int = 0) -> FlowBatch:
    end = NOW + at * SECOND
    return make_batch(*rows, window=Window(end - SECOND, end))


def said(batch: FlowBatch) -> list[tuple[object, object, object]]:
    found: list[tuple[object, object, object]] = []
    for record in records(batch):
        known = record.metadata
        found.append((known.get(INITIATOR), known.get(RULE), known.get(BIFLOW_DIRECTION)))
    return found


def there(bits: int = 0, sets: int = 0, **more: int) -> Row:
    """From a client that has a server's kind of port, to a server that has a client's."""
    row = Row("192.0.2.1", "198.51.100.2", 443, 50000, tcp_control_bits=bits, tcp_flag_sets=sets)
    return replace(row, **more)  # type: ignore[arg-type]


def back(bits: int = 0, sets: int = 0, **more: int) -> Row:
    return replace(
        there(bits, sets, **more),
        src_addr="198.51.100.2", dst_addr="192.0.2.1", src_port=50000, dst_port=443,
    )  # fmt: skip


SOURCE_SYN, DESTINATION_SYN = ("source", "syn", 1), ("destination", "syn", 2)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (there(SYN), SOURCE_SYN),
        (there(SYN | ACK | FIN), SOURCE_SYN),
        (back(SYN | ACK, SYN_ACK), DESTINATION_SYN),
        (back(SYN | ACK | FIN, SYN_ACK | 2), DESTINATION_SYN),
        (there(ACK), ("destination", "port", 2)),
        (back(ACK | RST), ("source", "port", 1)),
    ],
    ids=["syn", "syn, then acks", "syn+ack", "syn+ack, then fin+ack", "no syn", "no syn, back"],
)
def test_one_record(row: Row, expected: tuple[object, ...]) -> None:
    """A SYN in the bits is one without ACK unless some packet had both."""
    assert said(initiator().apply(batch(row))) == [expected]


def test_both_directions_in_one_drain() -> None:
    """They agree, also where only one has the SYN."""
    found = said(initiator().apply(batch(back(ACK), there(SYN | ACK))))
    assert found == [("destination", "remembered", 2), SOURCE_SYN]
    assert said(initiator().apply(batch(there(SYN), back(SYN | ACK, SYN_ACK)))) == [
        SOURCE_SYN,
        DESTINATION_SYN,
    ]


def test_simultaneous_open() -> None:
    """Two that both sent a SYN alone: the earlier one began, and both records say so."""
    early, late = there(SYN, flow_start_ns=NOW), back(SYN, flow_start_ns=NOW + 1)
    assert said(initiator().apply(batch(late, early))) == [DESTINATION_SYN, SOURCE_SYN]


def test_later_drains_remember() -> None:
    """As long as the connection is not quiet for too long; a new SYN the other way counts."""
    one = initiator()
    one.apply(batch(there(SYN)))
    for at in (50, 100, 150):
        found = said(one.apply(batch(there(ACK), back(ACK), at=at)))
        assert found == [("source", "remembered", 1), ("destination", "remembered", 2)]
    assert said(one.apply(batch(back(SYN), at=160))) == [SOURCE_SYN]
    assert said(one.apply(batch(there(ACK), at=170))) == [("destination", "remembered", 2)]
    assert said(one.apply(batch(there(ACK), at=231))) == [("destination", "port", 2)]
    assert (one.state().hits, one.state().misses) == (7, 1)


def test_other_connections_are_others() -> None:
    """Port, address and protocol tell them apart."""
    one = initiator()
    one.apply(batch(there(SYN)))
    others = [
        there(ACK, dst_port=50001),
        replace(there(ACK), dst_addr="198.51.100.3"),
        replace(there(ACK), ip_protocol=17),
    ]
    assert said(one.apply(batch(*others))) == [("destination", "port", 2)] * 3


@pytest.mark.parametrize(
    ("protocol", "source", "destination", "expected"),
    [
        (17, 40000, 53, ("source", "port", 1)),
        (17, 53, 40000, ("destination", "port", 2)),
        (17, 8080, 443, ("source", "port", 1)),
        (132, 8080, 9000, ("destination", "port", 2)),
        (17, 123, 123, (None, None, None)),
        (17, 40000, 50000, (None, None, None)),
        (47, 0, 0, (None, None, None)),
        (1, 0, 8 << 8, ("source", "icmp", 1)),
        (1, 0, 0, ("destination", "icmp", 2)),
        (1, 0, 3 << 8, (None, None, None)),
        (58, 0, 128 << 8, ("source", "icmp", 1)),
        (58, 0, 129 << 8 | 1, ("destination", "icmp", 2)),
        (58, 0, 8 << 8, (None, None, None)),
    ],
)
def test_without_tcp(
    protocol: int, source: int, destination: int, expected: tuple[object, ...]
) -> None:
    """Classes of ports, ICMP's types, or nothing."""
    row = Row(src_port=source, dst_port=destination, ip_protocol=protocol, tcp_control_bits=SYN)
    assert said(initiator().apply(batch(row))) == [expected]


def test_no_rows() -> None:
    """Nothing is added to nothing."""
    assert initiator().apply(batch()).entities == ()


def test_many_connections_against_a_dictionary() -> None:
    """Thousands over some drains: as a table in plain Python remembers them."""
    chance, one = random.Random(5), initiator(1 << 14, 1000)
    began: dict[frozenset[tuple[str, int]], tuple[str, int]] = {}
    for drain in range(6):
        rows: list[Row] = []
        for _ in range(1500):
            ends = [(f"10.0.0.{chance.randrange(9)}", 40_000 + chance.randrange(90)) for _ in "ab"]
            if ends[0] == ends[1]:
                continue
            bits = chance.choice((SYN, ACK, ACK, ACK))
            (source, port), (destination, other) = ends
            start = NOW + drain * SECOND - len(rows)
            rows.append(Row(source, destination, port, other, tcp_control_bits=bits,
                            flow_start_ns=start))  # fmt: skip
        for row in rows:  # those that began later come first
            if row.tcp_control_bits == SYN:
                ends_ = frozenset({(row.src_addr, row.src_port), (row.dst_addr, row.dst_port)})
                began[ends_] = (row.src_addr, row.src_port)
        expected = []
        for row in rows:
            source_end = (row.src_addr, row.src_port)
            who = began.get(frozenset({source_end, (row.dst_addr, row.dst_port)}))
            began_it = "source" if who == source_end else "destination"
            expected.append(began_it if who else None)
        assert [who for who, _, _ in said(one.apply(batch(*rows, at=drain)))] == expected
    assert one.state().evictions == 0
    assert one.state().entries == len(began)


def test_memory_is_bounded() -> None:
    """Of more than it holds the quietest are forgotten, and counted; expired ones are no loss."""
    memory = Memory(WAYS * 2, 10)
    count = 100
    hashes = np.zeros(count, np.uint64)
    tags = np.arange(1, 2 * count, 2, dtype=np.uint64)
    values = (tags % 3).astype(np.uint8)
    alone, nothing = np.zeros(1, np.int64), np.empty(0, np.int64)
    for number in range(count):
        some = slice(number, number + 1)
        found, known = memory.exchange(hashes[some], tags[some], values[some], alone, number)
        assert (found.tolist(), known.tolist()) == ([values[number]], [True])
    assert memory.evictions == count - WAYS
    assert len(memory) == WAYS
    found, known = memory.exchange(hashes, tags, values * 0, nothing, count)
    assert known.tolist() == [number >= count - WAYS for number in range(count)]
    assert (found[known] == values[known]).all()
    memory.exchange(hashes, tags, values, np.arange(count), count + 11)
    assert memory.evictions == 2 * (count - WAYS)
    assert len(memory) == WAYS
