"""Answers to a query that must name nothing, whatever they try. Built octet by octet."""

from __future__ import annotations

import struct

#: The address that they try to name.
VICTIM = "192.0.2.66"
_ADDRESS = bytes((192, 0, 2, 66))
_A, _CNAME, _IN, _CHAOS = 1, 5, 1, 3
_RESPONSE, _TRUNCATED, _NAME_ERROR, _UPDATE = 0x8180, 0x0200, 0x0003, 0x2800
#: Where the question's name is, as a pointer.
_QUESTION = b"\xc0\x0c"


def wire_name(text: str) -> bytes:
    """Labels, not compressed."""
    labels = [label.encode() for label in text.split(".")]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def record(
    owner: bytes = _QUESTION, data: bytes = _ADDRESS, *, kind: int = _A, class_: int = _IN,
    ttl: int = 600, length: int | None = None,
) -> bytes:  # fmt: skip
    """A resource record; its length may lie."""
    octets = len(data) if length is None else length
    return owner + struct.pack("!HHIH", kind, class_, ttl, octets) + data


def reply(
    query: bytes, *records: bytes, flags: int = _RESPONSE, counts: tuple[int, ...] = (),
    number: int | None = None,
) -> bytes:  # fmt: skip
    """The query's question, and records in the answer section unless ``counts`` says otherwise."""
    identifier = int.from_bytes(query[:2], "big") if number is None else number
    numbers = counts or (1, len(records), 0, 0)
    return struct.pack("!6H", identifier, flags, *numbers) + query[12:] + b"".join(records)


def good(query: bytes, address: bytes = _ADDRESS, ttl: int = 600) -> bytes:
    """The answer that the others pretend to be."""
    return reply(query, record(data=address, ttl=ttl))


def hostile(query: bytes) -> dict[str, bytes]:
    """
    By what is wrong with it.

    Args:
        query: With one question, without EDNS.
    """
    end = len(query)
    number = int.from_bytes(query[:2], "big")
    other = wire_name("other.example.test")
    elsewhere = record(other)
    long = b"".join(bytes((63,)) + b"x" * 63 for _ in range(4))
    return {
        **_names(query, end),
        "too long a name": reply(query, record(long + b"\0")),
        "too long by pointers": reply(
            query, record(wire_name("a" * 63) [:-1] + long[:128] + _QUESTION + b""),
            record(b"\x3f" + b"y" * 63 + (0xC000 | end).to_bytes(2, "big")),
        ),
        "another name": reply(query, elsewhere),
        "a chain from another name": reply(query, record(other, _QUESTION, kind=_CNAME), elsewhere),
        "a chain in a circle": reply(
            query, record(data=other, kind=_CNAME), record(other, _QUESTION, kind=_CNAME),
        ),
        "another class": reply(query, record(class_=_CHAOS)),
        "in the authority section": reply(query, record(), counts=(1, 0, 1, 0)),
        "in the additional section": reply(query, record(), counts=(1, 0, 0, 1)),
        "more records than there are": reply(query, record(), counts=(1, 0xFFFF, 0, 0)),
        "fewer records than there are": reply(query, record(), counts=(1, 0, 0, 0)),
        "two questions": reply(query, query[12:], record(), counts=(2, 1, 0, 0)),
        "no question": reply(query[:12], record(wire_name("h.test")), counts=(0, 1, 0, 0)),
        "data beyond the end": reply(query, record(length=400)),
        "an address of three octets": reply(query, record(data=_ADDRESS[:3])),
        "an address of five octets": reply(query, record(data=_ADDRESS + b"\0")),
        "truncated": reply(query, record(), flags=_RESPONSE | _TRUNCATED),
        "no such name": reply(query, record(), flags=_RESPONSE | _NAME_ERROR),
        "an update": reply(query, record(), flags=_RESPONSE | _UPDATE),
        "another number": reply(query, record(), number=number ^ 1),
        "a query": reply(query, record(), flags=0x0100),
        "loopback": reply(query, record(data=b"\x7f\0\0\1")),
        "nowhere": reply(query, record(data=bytes(4))),
        "everybody": reply(query, record(data=b"\xe0\0\0\1")),
        "a header": query[:2] + b"\x81\x80" + query[4:12],
        "nothing": b"",
        "half a question": reply(query)[: end - 3],
        "half a record": reply(query, record())[:-2],
    }  # fmt: skip


def _names(query: bytes, end: int) -> dict[str, bytes]:
    """Owners that are no names; the record begins at ``end``."""
    here = (0xC000 | end).to_bytes(2, "big")
    ahead = (0xC000 | end + 40).to_bytes(2, "big")
    owners = {
        "a pointer to itself": here,
        "a label and a pointer back to it": b"\x01a" + here,
        "a pointer ahead": ahead,
        "a pointer beyond the end": b"\xff\xff",
        "half a pointer": b"\xc0",
        "a label of a kind that there is not": b"\x41a\0",
        "a label of another kind": b"\x80a\0",
        "no end": b"\x3fa",
    }
    return {what: reply(query, record(owner)) for what, owner in owners.items()}
