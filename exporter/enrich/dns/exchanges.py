"""
Queries and their answers, as packets show them.

An answer counts if its query was seen: from the same client and port, to the same server and port,
with the same number and the same question, within ten seconds. Who cannot see the query cannot
name an address by sending packets. The same packets are seen at several observation points: the
first copy of an answer counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from exporter.capture.dns import DnsPacket
from exporter.enrich.dns.message import (
    AAAA,
    IN,
    A,
    Answer,
    Malformed,
    Message,
    Question,
    answers,
    parse,
)
from exporter.enrich.dns.streams import Streams

_UDP = 17
#: Resolvers give up sooner: glibc after 5 s, unbound and dnsmasq after at most as much.
_PATIENCE_NS = 10 * 10**9
_MAPPED = bytes(10) + b"\xff\xff"

#: Client, its port, server, its port, number, protocol.
Key = tuple[bytes, int, bytes, int, int, int]


class Learned(NamedTuple):
    """
    A name for addresses.

    Args:
        name: That was asked for.
        addresses: 16 octets each.
        ttl: Seconds.
        time_ns: Of the answer, Unix.
    """

    name: str
    addresses: tuple[bytes, ...]
    ttl: int
    time_ns: int


@dataclass
class Counts:
    """
    What became of DNS messages and packets.

    Args:
        queries: Seen, each as often as it was.
        answers: That named something.
        empty: Answers that name nothing: errors, no addresses, truncated ones, names that no host
            has.
        repeated: Further copies of answers.
        unsolicited: Answers whose query was not seen.
        malformed: Messages that are none, or end early.
        cut: Datagrams longer than what is copied.
        refused: Addresses that no answer may name: loopback, multicast, unspecified.
        forgotten: Queries that had to make room before their answers came.
    """

    queries: int = 0
    answers: int = 0
    empty: int = 0
    repeated: int = 0
    unsolicited: int = 0
    malformed: int = 0
    cut: int = 0
    refused: int = 0
    forgotten: int = 0


@dataclass
class _Query:
    question: Question
    time_ns: int
    answered: bool = False


class Exchanges:
    """
    Queries that wait for their answers.

    Args:
        ports: Of servers.
        capacity: Queries that are known at once.
        require_query: Else answers count without one.
    """

    def __init__(
        self, ports: Iterable[int], capacity: int = 1 << 14, *, require_query: bool = True
    ) -> None:
        self._ports = frozenset(ports)
        self._capacity = capacity
        self._require = require_query
        self._queries: dict[Key, _Query] = {}
        self.streams = Streams()
        self.counts = Counts()

    def __len__(self) -> int:
        return len(self._queries)

    def feed(self, packets: Iterable[DnsPacket]) -> Iterator[Learned]:
        """What packets teach, in their order."""
        for packet in packets:
            for octets in self._messages(packet):
                try:
                    learned = self._read(packet, parse(octets))
                except Malformed:
                    self.counts.malformed += 1
                    continue
                if learned is not None:
                    yield learned

    def _messages(self, packet: DnsPacket) -> list[bytes]:
        if packet.protocol != _UDP:
            return self.streams.feed(packet)
        if len(packet.payload) != packet.octets:
            self.counts.cut += 1
            return []
        return [packet.payload]

    def _read(self, packet: DnsPacket, message: Message) -> Learned | None:
        if not message.response:
            if packet.dst_port in self._ports:
                self._ask(packet, message)
            return None
        if packet.src_port not in self._ports or not self._expected(packet, message):
            return None
        question = message.question
        # A truncated answer is asked for again over TCP: RFC 2181 section 9.
        found = not message.opcode and not message.rcode and not message.truncated
        answer = Answer((), 0)
        if found and question is not None and question.class_ == IN:
            answer = answers(message, A, AAAA)
        self._note_answered(packet, message)
        if question is None or question.name is None or not answer.values:
            self.counts.empty += 1
            return None
        self.counts.answers += 1
        fit = tuple(one for one in answer.values if isinstance(one, bytes) and _is_host(one))
        self.counts.refused += len(answer.values) - len(fit)
        return Learned(question.name, fit, answer.ttl, packet.time_ns)

    def _ask(self, packet: DnsPacket, message: Message) -> None:
        self.counts.queries += 1
        if message.question is None or message.opcode:
            return
        ends = (packet.src, packet.src_port, packet.dst, packet.dst_port)
        key = (*ends, message.id, packet.protocol)
        # Behind all others, so that the first is the oldest.
        self._queries.pop(key, None)
        self._make_room(packet.time_ns)
        self._queries[key] = _Query(message.question, packet.time_ns)

    def _make_room(self, now_ns: int) -> None:
        while self._queries:
            key = next(iter(self._queries))
            oldest = self._queries[key]
            late = oldest.time_ns + _PATIENCE_NS < now_ns
            if not late and len(self._queries) < self._capacity:
                return
            self.counts.forgotten += not late and not oldest.answered
            del self._queries[key]

    def _expected(self, packet: DnsPacket, message: Message) -> bool:
        """Whether an answer is one, and the first copy of it."""
        query = self._queries.get(_answered(packet, message))
        if query is None or query.question != message.question:
            self.counts.unsolicited += self._require
            return not self._require
        if query.time_ns + _PATIENCE_NS < packet.time_ns:
            self.counts.unsolicited += 1
            return False
        self.counts.repeated += query.answered
        return not query.answered

    def _note_answered(self, packet: DnsPacket, message: Message) -> None:
        query = self._queries.get(_answered(packet, message))
        if query is not None:
            query.answered = True


def _answered(packet: DnsPacket, message: Message) -> Key:
    """The query that an answer is for."""
    ends = (packet.dst, packet.dst_port, packet.src, packet.src_port)
    return (*ends, message.id, packet.protocol)


def _is_host(address: bytes) -> bool:
    """An address that can be of one host: RFC 6890. Blocklists answer with 0.0.0.0 and ::."""
    if address.startswith(_MAPPED):
        return address[12] not in (0, 127) and address[12] < 224
    return address[0] != 0xFF and address[:15] != bytes(15)
