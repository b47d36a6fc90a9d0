"""The fakes and builders that are shipped do what they say."""

from __future__ import annotations

import threading
import time
from dataclasses import fields

import numpy as np
import pytest

from exporter.batch.batch import ROW_COLUMNS, FlowBatch, Interface, Observer, Point, Totals, Window
from exporter.batch.build import empty_batch
from exporter.errors import SinkError
from exporter.fanout.contract import Message, Sink
from exporter.testing import Misbehaviour, RecordingSink, Row, make_batch
from exporter.testing.batch import pack_address

A, B = Point(0, 2, 0), Point(0, 3, 1)


def test_make_batch_has_the_types_of_a_drain() -> None:
    """Every column has the dtype and shape that a drained batch has."""
    made, drained = make_batch(Row(), Row()), empty_batch()
    for name in ROW_COLUMNS:
        ours, theirs = getattr(made, name), getattr(drained, name)
        assert ours.dtype == theirs.dtype, name
        assert ours.shape[1:] == theirs.shape[1:], name
        assert len(ours) == 2, name


def test_make_batch_without_rows() -> None:
    """No rows are an empty batch."""
    assert len(make_batch()) == 0
    assert make_batch().totals == Totals()


def test_make_batch_keeps_every_value() -> None:
    """Each value of a row is in its column."""
    row = Row(
        *("2001:db8::1", "2001:db8::2", 1, 2, 3, 4, 5, 1, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16),
        *("02:00:00:00:00:0a", "02:00:00:00:00:0b", 5, True, (B, A)),
    )
    batch = make_batch(Row(points=(A,)), row)
    for field in fields(Row):
        value = getattr(row, field.name)
        if field.name in ("src_addr", "dst_addr"):
            assert getattr(batch, field.name)[1].tobytes() == pack_address(value)
        elif field.name in ("src_mac", "dst_mac"):
            assert getattr(batch, field.name)[1].tobytes().hex(":") == value
        elif field.name == "points":
            assert batch.point_lists[batch.points[1]] == value
        elif field.name == "direction":
            assert batch.flow_direction[1] == value
        else:
            assert getattr(batch, field.name)[1] == value, field.name


def test_make_batch_shares_equal_lists() -> None:
    """Equal lists of points are one list; rows without any have number 0 of no list."""
    batch = make_batch(Row(points=(A,)), Row(points=(B, A)), Row(points=(A,)))
    assert batch.point_lists == ((A,), (B, A))
    assert batch.points.tolist() == [0, 1, 0]
    assert make_batch(Row()).point_lists == ()


def test_make_batch_takes_what_enrichment_adds() -> None:
    """Window, names and observer."""
    batch = make_batch(
        interfaces={A: Interface("eth0")}, observer=Observer("192.0.2.1"), window=Window(1, 2)
    )
    assert (batch.interfaces, batch.observer.address, batch.window.end_ns) == (
        {A: Interface("eth0")},
        "192.0.2.1",
        2,
    )


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (Row(src_port=1 << 16), OverflowError),
        (Row(ifindex=-1), OverflowError),
        (Row(vlan_id=1 << 16), OverflowError),
        (Row(packet_count=1 << 64), OverflowError),
        (Row(dscp=256), OverflowError),
        (Row(src_addr="eth0"), ValueError),
        (Row(dst_mac="02:00"), ValueError),
        (Row(dst_mac="02:00:00:00:00:0g"), ValueError),
    ],
)
def test_make_batch_refuses_what_does_not_fit(row: Row, error: type[Exception]) -> None:
    """A value that its column cannot hold is an error, not another value."""
    with pytest.raises(error):
        make_batch(row)


def test_make_batch_refuses_points_of_some_rows() -> None:
    """A batch is deduplicated or it is not."""
    with pytest.raises(ValueError, match="either all rows have points or none has"):
        make_batch(Row(points=(A,)), Row())


def one_message(sink: Sink, batch: FlowBatch) -> Message:
    (message,) = sink.encode(batch)
    return message


def test_recording_sink_is_a_sink() -> None:
    """It keeps what it is given; nothing is wrong with it unless asked for."""
    sink = RecordingSink("mine", rows_per_message=2)
    sink.open()
    batch = make_batch(*(Row(src_port=n) for n in range(5)))
    for message in sink.encode(batch):
        sink.deliver(message, 1)
    assert [message.rows.src_port.tolist() for message in sink.messages] == [[0, 1], [2, 3], [4]]
    assert sink.totals == batch.totals
    assert (sink.name, sink.opened, sink.attempts, sink.closed) == ("mine", 1, 3, 0)


def test_recording_sink_fails_as_often_as_told() -> None:
    """Twice, for the reason given; then it works."""
    sink = RecordingSink(misbehaviour=Misbehaviour(failures=2, reason="odd", retryable=False))
    message = one_message(sink, make_batch(Row()))
    for _ in range(2):
        with pytest.raises(SinkError, match="odd") as caught:
            sink.deliver(message, 1)
        assert not caught.value.retryable
    sink.deliver(message, 1)
    assert sink.attempts == 3
    assert sink.messages == [message]


def test_recording_sink_refuses_what_is_too_large() -> None:
    """More rows than told are too large; halves have all rows; a single row has no halves."""
    sink = RecordingSink(misbehaviour=Misbehaviour(largest=2))
    message = one_message(sink, make_batch(*(Row(src_port=n) for n in range(3))))
    with pytest.raises(SinkError, match="too_large"):
        sink.deliver(message, 1)
    halves = list(sink.split(message))
    assert [half.rows.src_port.tolist() for half in halves] == [[0, 1], [2]]
    assert list(sink.split(halves[1])) == []
    for half in halves:
        sink.deliver(half, 1)
    assert sink.totals.flows == 3


def test_recording_sink_takes_its_time() -> None:
    """A delivery takes the delay; more than the timeout is a deadline that passed."""
    sink = RecordingSink(misbehaviour=Misbehaviour(delay=0.05))
    message = one_message(sink, make_batch(Row()))
    began = time.monotonic()
    sink.deliver(message, 1)
    assert time.monotonic() - began >= 0.05
    with pytest.raises(SinkError, match="deadline") as caught:
        sink.deliver(message, 0.01)
    assert caught.value.retryable


def test_recording_sink_can_be_closed_while_it_delivers() -> None:
    """Closing makes a delivery that waits fail at once, as the contract wants it."""
    sink = RecordingSink(misbehaviour=Misbehaviour(delay=30))
    threading.Timer(0.05, sink.close).start()
    began = time.monotonic()
    with pytest.raises(SinkError, match="cancelled"):
        sink.deliver(one_message(sink, make_batch(Row())), 30)
    assert time.monotonic() - began < 5


def test_waiting_for_flows() -> None:
    """Whether so many flows have come, in time."""
    sink = RecordingSink()
    message = one_message(sink, make_batch(Row(), Row()))
    assert not sink.wait_for(1, timeout=0.01)
    threading.Timer(0.05, sink.deliver, (message, 1)).start()
    assert sink.wait_for(2)
    assert not sink.wait_for(3, timeout=0.01)


def test_columns_are_independent() -> None:
    """What a test changes in one batch is not in another."""
    first, second = make_batch(Row()), make_batch(Row())
    assert not np.shares_memory(first.src_mac, second.src_mac)
    first.packet_count[0] = 99
    first.src_mac[0] = 0
    assert second.packet_count[0] == Row().packet_count
