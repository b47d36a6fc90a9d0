"""Messages are read as dnspython reads them, and what is hostile names nothing."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from itertools import pairwise

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.enrich.dns.message import (
    AAAA,
    IN,
    PTR,
    A,
    Answer,
    Malformed,
    Question,
    answers,
    parse,
    query,
)
from exporter.testing.batch import pack_address
from tests.packets.hostile_dns import VICTIM, good, hostile

_TYPES = {"A": A, "AAAA": AAAA}
ORDINARY = re.compile(r"([\w-]+\.)+", re.ASCII)
labels = st.text("abcxyz019-_", min_size=1, max_size=12)
hosts = st.lists(labels, min_size=1, max_size=5).map(".".join)
ttls = st.integers(0, (1 << 31) - 1)
fours = st.integers(0, (1 << 32) - 1).map(lambda n: str(ip_address(n)))
sixes = st.integers(0, (1 << 128) - 1).map(lambda n: str(IPv6Address(n)))


def asked(name: str = "h.example.test", kind: str = "A", number: int = 7) -> bytes:
    made = dns.message.make_query(name, kind, use_edns=False)
    made.id = number
    return made.to_wire()


@st.composite
def responses(draw: st.DrawFn) -> dns.message.Message:
    """A question, a chain of aliases, addresses at its end or elsewhere; in any order."""
    kind = draw(st.sampled_from(["A", "AAAA"]))
    chain = draw(st.lists(hosts, min_size=1, max_size=6, unique=True))
    response = dns.message.make_response(dns.message.make_query(chain[0], kind, id=7))
    records = [
        dns.rrset.from_text(f"{owner}.", draw(ttls), "IN", "CNAME", f"{target}.")
        for owner, target in pairwise(chain)
    ]
    addresses = draw(st.lists(fours if kind == "A" else sixes, max_size=8, unique=True))
    if addresses:
        owner = draw(st.sampled_from([chain[-1], chain[-1].upper(), "elsewhere"]))
        records.append(dns.rrset.from_text(f"{owner}.", draw(ttls), "IN", kind, *addresses))
    response.answer = draw(st.permutations(records))
    return response


def theirs(octets: bytes) -> tuple[set[bytes], int] | None:
    """
    dnspython's reading: addresses and the least TTL; ``None`` if it refuses the message. A chain
    through a name that no host has leads nowhere.
    """
    try:
        message = dns.message.from_wire(octets, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError):
        return None
    if not isinstance(message, dns.message.QueryMessage) or not message.flags & dns.flags.QR:
        return None
    if message.rcode():
        return set(), 0
    try:
        chain = message.resolve_chaining()
    except dns.exception.DNSException:
        return set(), 0
    targets = [str(item.target) for rrset in chain.cnames for item in rrset]
    if chain.answer is None or not all(map(ORDINARY.fullmatch, targets)):
        return set(), 0
    return {pack_address(item.address) for item in chain.answer}, chain.minimum_ttl


def ours(octets: bytes) -> tuple[set[bytes], int]:
    message = parse(octets)
    if message.question is None or message.rcode:
        return set(), 0
    answer = answers(message, message.question.type)
    return {value for value in answer.values if isinstance(value, bytes)}, answer.ttl


@given(responses())
def test_as_dnspython_reads_them(response: dns.message.Message) -> None:
    """The question, the addresses at the end of the chain, and the least TTL of it all."""
    octets = response.to_wire(max_size=65535)
    message, reference = parse(octets), dns.message.from_wire(octets)
    (question,) = reference.question
    assert message.question == Question(
        question.name.to_text(omit_final_dot=True).lower(), question.rdtype, IN
    )
    assert (message.id, message.response, message.rcode) == (reference.id, True, 0)
    assert ours(octets) == theirs(octets)


@given(responses(), st.data())
def test_mutilated_ones(response: dns.message.Message, data: st.DataObject) -> None:
    """
    Some octets changed, left out or doubled: what dnspython still reads is read the same, and
    nothing but Malformed is raised.
    """
    mutilated = bytearray(response.to_wire(max_size=65535))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutilated) - 1))
        how = data.draw(st.sampled_from(["change", "cut", "leave out", "double"]))
        if how == "change":
            mutilated[at] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del mutilated[max(at, 1) :]
        elif how == "leave out" and len(mutilated) > 1:
            del mutilated[at]
        else:
            mutilated[at:at] = mutilated[at : at + 20]
    compare(bytes(mutilated))


@given(st.binary(max_size=80))
@example(bytes(12))
def test_noise(octets: bytes) -> None:
    """Octets of any kind behind a header that says it is an answer."""
    compare(octets)
    compare(b"\0\7\x81\x80\0\1\0\2\0\0\0\0" + octets)


def compare(octets: bytes) -> None:
    expected = theirs(octets)
    try:
        found = ours(octets)
    except Malformed:
        found = None
    if expected is None:
        return
    question = parse(octets).question
    if question is None or question.name is None or question.type not in _TYPES.values():
        return
    if question.class_ == IN:
        assert found == expected


HOSTILE = hostile(asked())
#: What is right in itself: not for the one who asked, or of no host.
_ELSEWHERE = ("another number", "a query", "loopback", "nowhere", "everybody", "truncated")


@pytest.mark.parametrize("what", [what for what in HOSTILE if what not in _ELSEWHERE])
def test_hostile(what: str) -> None:
    """Nothing comes of it."""
    try:
        message = parse(HOSTILE[what])
        named = message.question and not message.rcode and not message.opcode
        found = answers(message, A, AAAA) if named else Answer((), 0)
    except Malformed:
        return
    assert found == Answer((), 0)


def test_the_good_one() -> None:
    """What the hostile ones pretend to be is read: the tests above can fail."""
    whole = good(asked(), ttl=77)
    assert answers(parse(whole), A) == Answer((pack_address(VICTIM),), 77)
    assert answers(parse(whole), AAAA) == Answer((), 0)
    assert answers(parse(good(asked(), ttl=1 << 31)), A).ttl == 0


def test_every_beginning_of_an_answer() -> None:
    """However little of it came, nothing is made up."""
    whole = good(asked())
    for octets in range(len(whole)):
        try:
            message = parse(whole[:octets])
            assert message.question is not None
            answers(message, A)
        except Malformed:
            continue
        pytest.fail(f"{octets} octets of {len(whole)} were enough")


@pytest.mark.parametrize("label", [b"a b", b"a.b", b"\0", b"\xc3\xa9", b'"', b"\x1b[2J"])
def test_odd_names(label: bytes) -> None:
    """Names of octets that no host's name has name nothing."""
    wire = dns.message.make_query(dns.name.Name([label, b"test", b""]), "A", use_edns=False)
    message = parse(good(wire.to_wire()))
    assert message.question is not None
    assert message.question.name is None
    assert answers(message, A) == Answer((), 0)


def test_the_work_is_bounded() -> None:
    """As many records as fit into the largest message over TCP: 512 of them are read."""
    wire = asked()
    address = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4"
    many = b"".join(address + number.to_bytes(4, "big") for number in range(1, 1001))
    octets = wire[:2] + b"\x81\x80\0\1\x03\xe8\0\0\0\0" + wire[12:] + many
    assert len(answers(parse(octets), A).values) == 512


@given(hosts, st.integers(0, 65535))
def test_queries(name: str, number: int) -> None:
    """As dnspython reads them."""
    read = dns.message.from_wire(query(number, name, PTR))
    (question,) = read.question
    assert (read.id, read.flags) == (number, dns.flags.RD)
    assert question.name == dns.name.from_text(name)
    assert question.rdtype == dns.rdatatype.PTR
