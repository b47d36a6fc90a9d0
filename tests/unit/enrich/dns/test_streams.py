"""DNS over TCP is put together from segments in any order, and within bounds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.capture.dns import DnsPacket
from exporter.enrich.dns.streams import Streams

SYN = 0x02


def segment(sequence: int, payload: bytes = b"", *, flags: int = 0, port: int = 1) -> DnsPacket:
    octets = len(payload)
    number = sequence % (1 << 32)
    return DnsPacket(0, b"s" * 16, b"c" * 16, 53, port, 6, flags, number, octets, payload)


def framed(*messages: bytes) -> bytes:
    return b"".join(len(one).to_bytes(2, "big") + one for one in messages)


def message(number: int, octets: int = 40) -> bytes:
    return number.to_bytes(2, "big") + random.Random(number).randbytes(octets)


@given(
    st.lists(st.integers(12, 600), min_size=1, max_size=8),
    st.lists(st.integers(1, 300), min_size=1, max_size=30),
    st.integers(0, (1 << 32) - 1),
    st.randoms(use_true_random=False),
)
def test_any_segments(sizes: list[int], cuts: list[int], first: int, order: random.Random) -> None:
    """
    Messages cut anywhere, segments doubled and up to four places late: each message once, in its
    order, and nothing is left.
    """
    messages = [message(number, size) for number, size in enumerate(sizes)]
    stream = framed(*messages)
    pieces, at, number = [], 0, 0
    while at < len(stream):
        size = max(cuts[number % len(cuts)], len(stream) // 200)
        pieces.append(segment(first + 1 + at, stream[at : at + size]))
        at, number = at + size, number + 1
    shuffled = sorted(enumerate(pieces), key=lambda pair: pair[0] + order.uniform(0, 4))
    streams = Streams()
    assert streams.feed(segment(first, flags=SYN)) == []
    found = []
    for _, piece in shuffled:
        for _ in range(order.choice((1, 1, 2))):
            found += streams.feed(piece)
        streams.feed(segment(first, flags=SYN))
    assert found == messages
    assert streams.waiting == streams.broken == streams.unknown == 0


def test_overlapping_segments() -> None:
    """A retransmission that brings new octets with old ones; data on the SYN itself."""
    stream = framed(message(1), message(2))
    streams = Streams()
    assert streams.feed(segment(9, stream[:10], flags=SYN)) == []
    assert streams.feed(segment(10, stream[:50])) == [message(1)]
    assert streams.feed(segment(30, stream[20:])) == [message(2)]
    assert streams.feed(segment(10, stream)) == []
    assert streams.waiting == streams.broken == 0


def test_a_connection_that_was_joined_later() -> None:
    """Where its messages begin is not known: nothing is read. A new one at the same ends is."""
    streams = Streams()
    assert streams.feed(segment(10, framed(message(1)))) == []
    assert streams.unknown == 1
    streams.feed(segment(500, flags=SYN))
    assert streams.feed(segment(501, framed(message(2)))) == [message(2)]
    streams.feed(segment(90_000, flags=SYN))
    assert streams.feed(segment(90_001, framed(message(3)))) == [message(3)]
    assert len(streams) == 1


@pytest.mark.parametrize("octets", [b"\0\0", b"\0\x0b", b"\x40\x01", b"\xff\xff"])
def test_lengths_that_no_message_has(octets: bytes) -> None:
    """Shorter than a header, longer than is put together: the rest of the connection is left."""
    streams = Streams()
    streams.feed(segment(0, flags=SYN))
    assert streams.feed(segment(1, framed(message(1)) + octets)) == []
    assert streams.feed(segment(1, framed(message(1)))) == []
    assert (streams.broken, streams.unknown, streams.waiting, len(streams)) == (1, 1, 0, 0)


def test_a_segment_that_was_cut() -> None:
    """What was not copied is a gap."""
    streams = Streams()
    streams.feed(segment(0, flags=SYN))
    assert streams.feed(segment(1, framed(message(1)))._replace(octets=8000)) == []
    assert (streams.broken, streams.waiting) == (1, 0)


def test_gaps_are_bounded() -> None:
    """Sixteen segments wait for one that is missing, and none beyond the largest message."""
    streams = Streams()
    streams.feed(segment(0, flags=SYN))
    for number in range(16):
        streams.feed(segment(2 + number, b"x"))
        assert (streams.broken, streams.waiting) == (0, number + 1)
    streams.feed(segment(2 + 16, b"x"))
    assert (streams.broken, streams.waiting) == (1, 0)
    streams.feed(segment(0, flags=SYN))
    streams.feed(segment(1 + (1 << 14) + 1, b"x"))
    assert (streams.broken, streams.waiting) == (2, 0)


def test_connections_are_bounded() -> None:
    """The oldest makes room, by number and by octets."""
    streams = Streams(capacity=4, octets=100)
    for port in range(6):
        streams.feed(segment(0, flags=SYN, port=port))
    assert len(streams) == 4
    for port in range(2, 6):
        streams.feed(segment(1, framed(message(port, 60))[:30], port=port))
    assert (len(streams), streams.waiting, streams.broken) == (3, 90, 1)
    assert streams.feed(segment(31, framed(message(2, 60))[30:], port=2)) == []
    assert streams.feed(segment(31, framed(message(5, 60))[30:], port=5)) == [message(5, 60)]
    assert streams.waiting == 60
