"""
OpenTelemetry's attributes as octets, one at a time: for what is the same in many rows.

Source: opentelemetry-proto, opentelemetry/proto/common/v1/common.proto.
"""

from __future__ import annotations

from collections.abc import Sequence

from exporter.sinks.encodings.protobuf import LENGTH, VARINT, field, tag, varint

#: What an attribute can be here. Integers are those of 64 bits with a sign.
AnyValue = str | bool | int | Sequence[str] | Sequence[int]

#: Fields of AnyValue.
STRING, BOOL, INT, ARRAY = 1, 2, 3, 5
#: Fields of KeyValue.
KEY, VALUE = 1, 2

#: The largest integer that OpenTelemetry has. What is larger becomes this one.
LARGEST = (1 << 63) - 1
_U64 = (1 << 64) - 1


def any_value(value: AnyValue) -> bytes:
    """An ``AnyValue`` message."""
    if isinstance(value, str):
        return field(STRING, value.encode())
    if isinstance(value, bool):
        return tag(BOOL, VARINT) + varint(value)
    if isinstance(value, int):
        # What is negative is its complement, in 64 bits.
        return tag(INT, VARINT) + varint(min(value, LARGEST) & _U64)
    return field(ARRAY, b"".join(field(1, any_value(item)) for item in value))


def attribute(number: int, key: str, value: AnyValue) -> bytes:
    """A ``KeyValue`` as a field of a message."""
    return field(number, field(KEY, key.encode()) + field(VALUE, any_value(value)))


def attributes(number: int, key: str, values: Sequence[AnyValue | None]) -> list[bytes]:
    """As :func:`attribute` for each; nothing for those that are ``None`` or empty."""
    named = field(KEY, key.encode())
    heads = [_head(number, named, octets) for octets in range(_SHORT - len(named))]
    made = []
    for value in values:
        if isinstance(value, str):
            text = value.encode()
            short = 0 < len(text) < len(heads)
            made.append(heads[len(text)] + text if short else _one(number, key, value))
        else:
            made.append(_one(number, key, value))
    return made


#: Octets of text beside the key: all lengths are one octet then.
_SHORT = 120


def _head(number: int, named: bytes, octets: int) -> bytes:
    value = tag(VALUE, LENGTH) + varint(octets + 2) + tag(STRING, LENGTH) + varint(octets)
    return tag(number, LENGTH) + varint(len(named) + len(value) + octets) + named + value


def _one(number: int, key: str, value: AnyValue | None) -> bytes:
    return b"" if value is None or value == "" else attribute(number, key, value)


def before_number(number: int, key: str, octets: int) -> bytes:
    """An attribute up to its integer, whose varint has so many octets."""
    value = tag(INT, VARINT)
    named = field(KEY, key.encode()) + tag(VALUE, LENGTH) + varint(len(value) + octets) + value
    return tag(number, LENGTH) + varint(len(named) + octets) + named


def before_text(number: int, key: str, octets: int) -> bytes:
    """
    An attribute up to its text of so many octets, less than 128 with the key.

    The three lengths within it, at :func:`lengths_at`, are each one octet.
    """
    named = field(KEY, key.encode()) + tag(VALUE, LENGTH) + varint(octets + 2)
    text = tag(STRING, LENGTH) + varint(octets)
    before = tag(number, LENGTH) + varint(len(named) + len(text) + octets) + named + text
    assert len(before) + octets < 128, f"{key}: too long"
    return before


def lengths_at(number: int, key: str) -> tuple[int, int, int]:
    """Where in :func:`before_text` the lengths of attribute, value and text are."""
    whole = len(before_text(number, key, 0))
    return len(tag(number, LENGTH)), whole - 3, whole - 1
