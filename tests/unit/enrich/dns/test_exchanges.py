"""An answer counts if its query was seen, once, and in time."""

from __future__ import annotations

from typing import Any

import dns.message
import dns.rrset
import pytest

from exporter.capture.dns import DnsPacket
from exporter.enrich.dns.exchanges import Counts, Exchanges, Learned
from exporter.testing.batch import pack_address
from tests.packets.hostile_dns import VICTIM, good, hostile

CLIENT, SERVER, OTHER = map(pack_address, ("192.0.2.1", "192.0.2.2", "192.0.2.3"))
SECOND = 10**9
UDP, TCP, SYN = 17, 6, 2


def asked(name: str = "h.example.test", number: int = 7) -> bytes:
    made = dns.message.make_query(name, "A", use_edns=False, id=number)
    return made.to_wire()


def there(payload: bytes, at: float = 0, **fields: Any) -> DnsPacket:
    """From the client to the server."""
    plain = DnsPacket(int(at * SECOND), CLIENT, SERVER, 4000, 53, UDP, 0, 0, len(payload), payload)
    return plain._replace(**fields)


def back(payload: bytes, at: float = 0, **fields: Any) -> DnsPacket:
    """From the server to the client."""
    plain = DnsPacket(int(at * SECOND), SERVER, CLIENT, 53, 4000, UDP, 0, 0, len(payload), payload)
    return plain._replace(**fields)


def learned(exchanges: Exchanges, *packets: DnsPacket) -> list[Learned]:
    return list(exchanges.feed(packets))


EXPECTED = Learned("h.example.test", (pack_address(VICTIM),), 600, SECOND)


def test_an_answer() -> None:
    """The name that was asked for, the addresses, the TTL, and when."""
    exchanges = Exchanges([53])
    assert learned(exchanges, there(asked()), back(good(asked()), 1)) == [EXPECTED]
    assert exchanges.counts == Counts(queries=1, answers=1)


def test_copies() -> None:
    """The same packets at four observation points, and a query that is sent again."""
    exchanges = Exchanges([53])
    packets = [there(asked())] * 4 + [there(asked(), 1)] + [back(good(asked()), 1)] * 4
    assert learned(exchanges, *packets) == [EXPECTED]
    assert exchanges.counts == Counts(queries=5, answers=1, repeated=3)


@pytest.mark.parametrize(
    "packet",
    [
        back(good(asked()), 1, src=OTHER),
        back(good(asked()), 1, dst=OTHER),
        back(good(asked()), 1, dst_port=4001),
        back(good(asked()), 1, src_port=5353),
        back(good(asked()), 1, protocol=TCP),
        back(good(asked(number=8)), 1),
        back(good(asked("other.example.test")), 1),
        back(good(asked()), 10.1),
    ],
    ids=["server", "client", "port", "server port", "protocol", "number", "question", "late"],
)
def test_what_nobody_asked_for(packet: DnsPacket) -> None:
    """One thing differs from the query, or it is too late: nothing is learned."""
    exchanges = Exchanges([53, 5353])
    assert learned(exchanges, there(asked()), packet) == []
    assert exchanges.counts.answers == 0
    assert exchanges.counts.unsolicited + exchanges.streams.unknown == 1


def test_without_queries() -> None:
    """If it is configured so, an answer is enough; but one that is late is none."""
    exchanges = Exchanges([53], require_query=False)
    assert learned(exchanges, back(good(asked()), 1)) == [EXPECTED]
    assert exchanges.counts == Counts(answers=1)


def test_other_ports() -> None:
    """Queries to, and answers from, ports that are no server's."""
    exchanges = Exchanges([53])
    packets = [there(asked(), dst_port=54), back(good(asked()), src_port=54)]
    assert learned(exchanges, *packets) == []
    assert exchanges.counts == Counts()


def test_a_wrong_answer_does_not_stop_the_right_one() -> None:
    """A malformed one, or one that is not for this query, comes first."""
    exchanges = Exchanges([53])
    wrong = hostile(asked())
    packets = [there(asked())]
    packets += [back(wrong[what]) for what in ("no end", "another number", "two questions")]
    packets += [back(good(asked()), 1)]
    assert learned(exchanges, *packets) == [EXPECTED]
    assert exchanges.counts == Counts(queries=1, answers=1, malformed=1, unsolicited=2)


def test_all_hostile_ones() -> None:
    """Each to a query of its own: nothing is learned of addresses that hosts have."""
    exchanges = Exchanges([53])
    for what, octets in hostile(asked()).items():
        found = learned(exchanges, there(asked()), back(octets))
        assert not any(one.addresses for one in found), what
    assert exchanges.counts.refused == 3


def test_addresses_of_no_host() -> None:
    """Loopback, unspecified, multicast: refused and counted; the others of the answer stay."""
    query = dns.message.make_query("h.example.test", "AAAA", id=7)
    response = dns.message.make_response(query)
    refused = ["::", "::1", "ff02::1"]
    rrset = dns.rrset.from_text("h.example.test.", 5, "IN", "AAAA", *refused, "2001:db8::1")
    response.answer = [rrset]
    exchanges = Exchanges([53])
    (found,) = learned(exchanges, there(query.to_wire()), back(response.to_wire()))
    assert found.addresses == (pack_address("2001:db8::1"),)
    assert exchanges.counts.refused == 3


def test_datagrams_that_were_cut() -> None:
    """Longer than what is copied."""
    exchanges = Exchanges([53])
    assert learned(exchanges, there(asked()), back(good(asked()), octets=5000)) == []
    assert exchanges.counts == Counts(queries=1, cut=1)


def test_over_tcp() -> None:
    """Both directions of a connection; the answer in two segments."""
    exchanges = Exchanges([53])
    query = len(asked()).to_bytes(2, "big") + asked()
    answer = len(good(asked())).to_bytes(2, "big") + good(asked())
    packets = [
        there(b"", protocol=TCP, flags=SYN, sequence=100),
        back(b"", protocol=TCP, flags=SYN | 16, sequence=900),
        there(query, protocol=TCP, sequence=101),
        back(answer[:20], protocol=TCP, sequence=901),
        back(answer[20:], 1, protocol=TCP, sequence=921),
    ]
    assert learned(exchanges, *packets) == [EXPECTED]
    assert exchanges.counts == Counts(queries=1, answers=1)


def test_queries_are_bounded() -> None:
    """The oldest is forgotten, and counted if it might still have been answered."""
    exchanges = Exchanges([53], capacity=3)
    for number in range(5):
        assert learned(exchanges, there(asked(number=number), number)) == []
    assert len(exchanges) == 3
    assert exchanges.counts.forgotten == 2
    assert learned(exchanges, back(good(asked(number=0)), 5)) == []
    assert len(learned(exchanges, back(good(asked(number=4)), 5))) == 1
    # What is ten seconds old goes by itself.
    assert learned(exchanges, there(asked(number=9), 30)) == []
    assert len(exchanges) == 1
    assert exchanges.counts.forgotten == 2
