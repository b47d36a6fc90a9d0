"""
DNS over TCP, as packets show it: RFC 1035 section 4.2.2, RFC 7766.

Each direction of a connection is put together on its own, from its SYN on: where a message begins
is not known of one that was joined later. Segments may come twice (several observation points,
retransmission), overlap, and be out of order. Bounded: by connections, and by octets over all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from exporter.capture.dns import DnsPacket

_SYN = 0x02
_WORD, _HALF = 1 << 32, 1 << 31
_LENGTH_OCTETS = 2
#: A DNS header (RFC 1035 section 4.1.1), and the largest message that is put together.
_LEAST, _MOST = 12, 1 << 14
#: Segments of one direction that wait for one before them.
_HELD = 16

Key = tuple[bytes, bytes, int, int]


@dataclass
class Stream:
    """
    One direction of a connection.

    Args:
        first: Sequence number of its SYN.
        next: Sequence number that is expected.
        buffer: What came, but for whole messages.
        held: Segments that came too early, by sequence number.
    """

    first: int
    next: int
    buffer: bytearray = field(default_factory=bytearray)
    held: dict[int, bytes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.buffer) + sum(map(len, self.held.values()))

    def add(self, sequence: int, octets: bytes) -> bool:
        """Put a segment in its place. False if there is no room for it."""
        ahead = (sequence - self.next) % _WORD
        if 0 < ahead < _HALF:
            self.held.setdefault(sequence, octets)
            return len(self.held) <= _HELD and ahead <= _MOST
        self._append(sequence, octets)
        # Each held one is looked at once for each that goes away: at most 16 times 16.
        while early := [at for at in self.held if (self.next - at) % _WORD < _HALF]:
            for at in early:
                self._append(at, self.held.pop(at))
        return True

    def _append(self, sequence: int, octets: bytes) -> None:
        known = (self.next - sequence) % _WORD
        if known < len(octets):
            self.buffer += octets[known:]
            self.next = (sequence + len(octets)) % _WORD

    def _wanted(self) -> int:
        return _LENGTH_OCTETS + int.from_bytes(self.buffer[:_LENGTH_OCTETS], "big")

    def messages(self) -> Iterator[bytes]:
        """
        What is whole, taken out.

        Raises:
            ValueError: If a message's length cannot be one.
        """
        while len(self.buffer) >= _LENGTH_OCTETS:
            end = self._wanted()
            if not _LEAST <= end - _LENGTH_OCTETS <= _MOST:
                raise ValueError("a length that no message has")
            if len(self.buffer) < end:
                return
            yield bytes(self.buffer[_LENGTH_OCTETS:end])
            del self.buffer[:end]


class Streams:
    """
    Connections to DNS servers.

    Args:
        capacity: Directions of connections that are known at once; the oldest makes room.
        octets: That wait in all of them together.
    """

    def __init__(self, capacity: int = 1024, octets: int = 4 << 20) -> None:
        self._capacity = capacity
        self._room = octets
        self._streams: dict[Key, Stream] = {}
        self._waiting = 0
        #: Directions that could not be followed on: gaps, no room, lengths that cannot be.
        self.broken = 0
        #: Segments of connections whose beginning was not seen, or that are broken.
        self.unknown = 0

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def waiting(self) -> int:
        """Octets that wait for more."""
        return self._waiting

    def feed(self, packet: DnsPacket) -> list[bytes]:
        """The messages that are whole with this segment."""
        key = (packet.src, packet.dst, packet.src_port, packet.dst_port)
        sequence = packet.sequence
        if packet.flags & _SYN:
            self._begin(key, sequence)
            sequence = (sequence + 1) % _WORD
        if not packet.octets:
            return []
        stream = self._streams.get(key)
        if stream is None:
            self.unknown += 1
            return []
        before, found = len(stream), []
        intact = len(packet.payload) == packet.octets and stream.add(sequence, packet.payload)
        if intact:
            try:
                found = list(stream.messages())
            except ValueError:
                intact = False
        self._waiting += len(stream) - before
        if not intact:
            self._break(key)
        while self._waiting > self._room:
            self._break(next(iter(self._streams)))
        return found

    def _begin(self, key: Key, sequence: int) -> None:
        known = self._streams.get(key)
        if known is not None and known.first == sequence:
            return
        if known is not None:
            self._forget(key)
        elif len(self._streams) >= self._capacity:
            self._forget(next(iter(self._streams)))
        self._streams[key] = Stream(sequence, (sequence + 1) % _WORD)

    def _break(self, key: Key) -> None:
        self.broken += 1
        self._forget(key)

    def _forget(self, key: Key) -> None:
        self._waiting -= len(self._streams.pop(key))
