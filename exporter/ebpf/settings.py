"""
Values of a program's ``const volatile`` globals, from Python to octets.

Pure: types from BTF and values in, octets out. The layout is the target's, which is little-endian.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from exporter.ebpf.btf import Array, Enum, Int, Member, Struct, Type

#: What a setting may be given as: see :func:`encode`.
Setting = Any


class SettingError(ValueError):
    """The value does not fit the global's type. The message names the place within it."""


def encode(kind: Type | None, size: int, value: Setting, current: bytes = b"") -> bytes:
    """
    The octets of a global.

    Args:
        kind: Its type; ``None`` if BTF cannot say: then only octets are taken.
        size: Of the global, in octets.
        value: A number for a number, a truth value or an enum; the name for an enum; a string for
            an array of characters, which is filled up with zeros; a sequence as long as the array;
            a mapping for a struct, whose members that are not named keep their octets. For any
            type: octets, or what has the buffer protocol, such as a NumPy array, of the same size.
        current: The octets that it has; zeros if empty.

    Raises:
        SettingError: If a number is out of range, a length differs, or the value is of a kind that
            the type does not take.
    """
    octets = _octets(value)
    if octets is None and kind is None:
        raise SettingError(f"its type has no Python value: give it as {size} octets")
    if octets is None:
        assert kind is not None
        return _encode(kind, value, current or bytes(size), "")
    if len(octets) != size:
        raise SettingError(f"it has {size} octets, not {len(octets)}")
    return octets


def _octets(value: Setting) -> bytes | None:
    """What a buffer holds; of a NumPy number ``None``: it is a number and may change its width."""
    if isinstance(value, Integral):
        return None
    try:
        return bytes(memoryview(value))
    except TypeError:
        return None


def _encode(kind: Type, value: Setting, current: bytes, place: str) -> bytes:
    octets = _octets(value)
    if octets is not None:
        if len(octets) != len(current):
            raise SettingError(f"{_at(place)}has {len(current)} octets, not {len(octets)}")
        return octets
    if isinstance(kind, Int):
        return _number(value, kind.size, place, signed=kind.signed)
    if isinstance(kind, Enum):
        return _enumerator(kind, value, place)
    if isinstance(kind, Array):
        return _array(kind, value, current, place)
    return _struct(kind, value, current, place)


def _number(value: Setting, size: int, place: str, *, signed: bool) -> bytes:
    try:
        number = operator.index(value)
    except TypeError:
        raise SettingError(f"{_at(place)}is a number, not {_kind(value)}") from None
    try:
        return number.to_bytes(size, "little", signed=signed)
    except OverflowError:
        sign = "signed" if signed else "unsigned"
        raise SettingError(
            f"{_at(place)}is {sign} and has {8 * size} bits: {number} does not fit"
        ) from None


def _enumerator(kind: Enum, value: Setting, place: str) -> bytes:
    if isinstance(value, str):
        known = dict(kind.values)
        if value not in known:
            raise SettingError(f"{_at(place)}is one of {', '.join(known)}, not {value}")
        value = known[value]
    signed = any(number < 0 for _, number in kind.values)
    return _number(value, kind.size, place, signed=signed)


def _array(kind: Array, value: Setting, current: bytes, place: str) -> bytes:
    width = len(current) // kind.count if kind.count else 0
    if isinstance(value, str):
        text = value.encode()
        if kind.element != Int(1, signed=True) and kind.element != Int(1, signed=False):
            raise SettingError(f"{_at(place)}is no array of characters")
        if len(text) >= kind.count:
            raise SettingError(
                f"{_at(place)}has room for {kind.count - 1} octets of text, not {len(text)}"
            )
        return text.ljust(kind.count, b"\0")
    if not isinstance(value, Sequence):
        raise SettingError(f"{_at(place)}is an array, not {_kind(value)}")
    if len(value) != kind.count:
        raise SettingError(f"{_at(place)}has {kind.count} elements, not {len(value)}")
    return b"".join(
        _encode(kind.element, one, current[i * width : (i + 1) * width], f"{place}[{i}]")
        for i, one in enumerate(value)
    )


def _struct(kind: Struct, value: Setting, current: bytes, place: str) -> bytes:
    if not isinstance(value, Mapping):
        raise SettingError(f"{_at(place)}is a struct, not {_kind(value)}")
    result = bytearray(current)
    members = {member.name: member for member in kind.members}
    for name, one in value.items():
        if name not in members:
            raise SettingError(f"{_at(place)}has no member {name}: {', '.join(members)}")
        start, end = _extent(kind, members[name])
        result[start:end] = _encode(
            members[name].type, one, bytes(result[start:end]), f"{place}.{name}"
        )
    return bytes(result)


def _extent(kind: Struct, member: Member) -> tuple[int, int]:
    return member.offset, min(member.offset + size_of(member.type), kind.size)


def size_of(kind: Type) -> int:
    """Octets of a value of a type."""
    if isinstance(kind, Array):
        return kind.count * size_of(kind.element)
    return kind.size


def _at(place: str) -> str:
    return f"{place} " if place else "it "


def _kind(value: object) -> str:
    return type(value).__name__
