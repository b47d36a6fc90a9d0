"""
Read a DNS message as far as it names addresses: RFC 1035 section 4.1.

Whoever sends packets writes what is read here, so nothing of it is believed: every length is
checked, a pointer leads only backwards (no loops), a name is at most 255 octets long, and the work
on a message is bounded by its length. Names are lower-case, of letters, digits, ``-`` and ``_``:
what has other octets in it names nothing.

Pure: octets in, values out. Ours and not dnspython's, which takes 4 to 11 times as long
(docs/decisions/0020-names.md); the tests read messages with both.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

A, CNAME, PTR, AAAA, IN = 1, 5, 12, 28, 1
_QUERY_RESPONSE, _OPCODE, _TRUNCATED, _RCODE = 0x8000, 0x7800, 0x0200, 0x000F
_HEADER = struct.Struct("!6H")
_QUESTION = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")
_LABEL_OCTETS, _NAME_OCTETS, _POINTER = 63, 255, 0xC0
_TTL_SIGN = 1 << 31
#: CNAMEs from the question to the addresses; resolvers give up sooner (unbound: 11).
_CHAIN = 16
#: Records that are read of a message; the most that a hostile one makes us do.
_RECORDS = 512
_ORDINARY = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")
#: 16 octets of an IPv4 address: RFC 4291 section 2.5.5.2.
_MAPPED = bytes(10) + b"\xff\xff"


class Malformed(ValueError):
    """Not a DNS message, or one that ends too early. The text says why."""


class Question(NamedTuple):
    """
    Args:
        name: Lower-case, without the last dot; ``None`` if it has octets that no name has.
        type: A, AAAA, ...
        class_: IN.
    """

    name: str | None
    type: int
    class_: int


@dataclass(frozen=True)
class Message:
    """
    Args:
        id: As the query had it.
        response: Else a query.
        opcode: 0 is a query and its answer.
        rcode: 0 is no error.
        truncated: It says that something is missing.
        question: The one question; ``None`` if there are others, or none.
        body: For :func:`answers`.
    """

    id: int
    response: bool
    opcode: int
    rcode: int
    truncated: bool
    question: Question | None
    body: Body = field(repr=False)


@dataclass(frozen=True)
class Body:
    """What is not read yet: the octets, where the answers begin, and how many there shall be."""

    octets: bytes
    at: int
    count: int


@dataclass(frozen=True)
class Answer:
    """
    What answers a question.

    Args:
        values: Addresses as 16 octets (A, AAAA) or names (PTR), in the message's order.
        ttl: Seconds: the least of all records that led to them.
    """

    values: tuple[bytes | str, ...]
    ttl: int


def parse(octets: bytes) -> Message:
    """
    The header and the question.

    Args:
        octets: Of a UDP datagram, or of one message of a TCP stream.

    Raises:
        Malformed: If it has no whole header, or no whole question where it says it has one.
    """
    if len(octets) < _HEADER.size:
        raise Malformed("no header")
    identifier, flags, questions, count, _, _ = _HEADER.unpack_from(octets)
    question, at = None, _HEADER.size
    if questions == 1:
        name, at = _name(octets, at)
        if at + _QUESTION.size > len(octets):
            raise Malformed("the question ends early")
        question = Question(name, *_QUESTION.unpack_from(octets, at))
        at += _QUESTION.size
    return Message(
        id=identifier,
        response=bool(flags & _QUERY_RESPONSE),
        opcode=(flags & _OPCODE) >> 11,
        rcode=flags & _RCODE,
        truncated=bool(flags & _TRUNCATED),
        question=question,
        body=Body(octets, at, count),
    )


def answers(message: Message, *types: int) -> Answer:
    """
    What a response says of its question, and of nothing else: records whose owner is the name in
    question, or one that CNAMEs lead to from there.

    Args:
        message: With one question.
        types: Of records: A, AAAA, PTR.

    Raises:
        Malformed: If a record ends early.
    """
    assert message.question is not None, "a message without a question has no answers"
    aliases: dict[str, tuple[str | None, int]] = {}
    found: dict[str, list[tuple[bytes | str | None, int]]] = {}
    for owner, kind, ttl, value in _records(message.body, types):
        if kind == CNAME:
            assert not isinstance(value, bytes)
            aliases.setdefault(owner, (value, ttl))
        else:
            found.setdefault(owner, []).append((value, ttl))
    name, least = message.question.name, _TTL_SIGN
    for _ in range(_CHAIN):
        if name is None or name in found or name not in aliases:
            break
        name, ttl = aliases[name]
        least = min(least, ttl)
    records = found.get(name or "", [])
    values = tuple(value for value, _ in records if value is not None)
    return Answer(values, min([least, *(ttl for _, ttl in records)]) if values else 0)


def _records(
    body: Body, types: tuple[int, ...]
) -> Iterator[tuple[str, int, int, bytes | str | None]]:
    """Owner, type, TTL and value of the answers that matter."""
    octets, at = body.octets, body.at
    for _ in range(min(body.count, _RECORDS)):
        owner, at = _name(octets, at)
        begin = at + _RECORD.size
        if begin > len(octets):
            raise Malformed("a record ends early")
        kind, class_, ttl, length = _RECORD.unpack_from(octets, at)
        at = begin + length
        if at > len(octets):
            raise Malformed("a record's data ends early")
        if class_ != IN or owner is None or (kind != CNAME and kind not in types):
            continue
        # RFC 2181 section 8: with the first bit set, zero.
        yield owner, kind, 0 if ttl & _TTL_SIGN else ttl, _value(octets, kind, begin, at)


def _value(octets: bytes, kind: int, begin: int, end: int) -> bytes | str | None:
    if kind in (CNAME, PTR):
        name, after = _name(octets, begin)
        if after != end:
            raise Malformed("a name is not as long as its record")
        return name
    if end - begin != (4 if kind == A else 16):
        raise Malformed("an address of another length")
    return _MAPPED + octets[begin:end] if kind == A else octets[begin:end]


def _name(octets: bytes, at: int) -> tuple[str | None, int]:
    """
    The name at a place, and where what follows it begins.

    Source: RFC 1035 section 4.1.4: a pointer is to a prior occurrence. Each leads before the one
    that it follows, so there are no loops, and at most as many as there are octets in a name.
    """
    labels: list[bytes] = []
    end, limit, total = 0, at, 1
    size = len(octets)
    while True:
        if at >= size:
            raise Malformed("a name ends early")
        length = octets[at]
        if not length:
            break
        if length > _LABEL_OCTETS:
            if length < _POINTER or at + 1 >= size:
                raise Malformed("no label and no pointer")
            end = end or at + 2
            at = (length & ~_POINTER) << 8 | octets[at + 1]
            if at >= limit:
                raise Malformed("a pointer that does not lead back")
            limit = at
            continue
        total += length + 1
        if total > _NAME_OCTETS:
            raise Malformed("a name is too long")
        labels.append(octets[at + 1 : at + 1 + length])
        at += length + 1
    name = b".".join(labels).lower()
    ordinary = name and all(label and _ORDINARY.issuperset(label.lower()) for label in labels)
    return name.decode("ascii") if ordinary else None, end or at + 1


def query(identifier: int, name: str, kind: int) -> bytes:
    """
    A question for a resolver that recurses.

    Args:
        identifier: 16 bits.
        name: Of ordinary labels.
        kind: PTR, ...
    """
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    recursion_desired = 0x0100
    header = _HEADER.pack(identifier, recursion_desired, 1, 0, 0, 0)
    return header + labels + b"\0" + _QUESTION.pack(kind, IN)
