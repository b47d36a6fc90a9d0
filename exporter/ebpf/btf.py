"""
Read BTF, the type information that clang puts into an object: structs, enums and section variables.

No NumPy and no libbpf here: bytes in, frozen values out, equal on any machine.

Source: Documentation/bpf/btf.rst; include/uapi/linux/btf.h.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")

_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_FUNC_PROTO, _VAR, _DATASEC, _DECL_TAG, _ENUM64 = 13, 14, 15, 17, 19
_MODIFIERS = (8, 9, 10, 11, 18)  # typedef, volatile, const, restrict, type tag

#: Octets that follow the common header of a kind: (fixed, per element).
_TAIL = {
    _INT: (4, 0),
    _ARRAY: (12, 0),
    _STRUCT: (0, 12),
    _UNION: (0, 12),
    _ENUM: (0, 8),
    _FUNC_PROTO: (0, 8),
    _VAR: (4, 0),
    _DATASEC: (0, 12),
    _DECL_TAG: (4, 0),
    _ENUM64: (0, 12),
}


class BtfError(ValueError):
    """The bytes are not BTF, or use something that this reader does not know."""


@dataclass(frozen=True)
class Int:
    """A scalar: ``size`` in octets."""

    size: int
    signed: bool


@dataclass(frozen=True)
class Array:
    """``count`` elements of one type."""

    element: Type
    count: int


@dataclass(frozen=True)
class Member:
    """A member of a struct; ``offset`` in octets."""

    name: str
    offset: int
    type: Type


@dataclass(frozen=True)
class Struct:
    """A struct; ``size`` in octets."""

    name: str
    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Enum:
    """An enum; ``size`` in octets; ``values`` in the order of declaration."""

    name: str
    size: int
    values: tuple[tuple[str, int], ...]


Type = Int | Array | Struct | Enum


@dataclass(frozen=True)
class Variable:
    """A global variable: where it lies in its section. ``offset`` and ``size`` in octets."""

    name: str
    section: str
    offset: int
    size: int


@dataclass(frozen=True)
class _Raw:
    """One type record as it lies in the section."""

    name: str
    kind: int
    count: int
    flag: bool
    size_or_type: int
    tail: bytes


class Btf:
    """The types of one object."""

    def __init__(self, raw: list[_Raw], strings: bytes) -> None:
        self._raw = raw
        self._strings = strings
        self._resolved: dict[int, Type | None] = {}

    @classmethod
    def parse(cls, data: bytes) -> Btf:
        """
        Read a ``.BTF`` section.

        Args:
            data: The whole section, little-endian.

        Raises:
            BtfError: If it is not BTF, is cut short, or holds a kind unknown to this reader.
        """
        with _believing_nothing():
            return cls._parse(data)

    @classmethod
    def _parse(cls, data: bytes) -> Btf:
        magic, _, _, header, type_at, type_size, text_at, text_size = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise BtfError(f"not little-endian BTF: magic {magic:#06x}")
        strings = data[header + text_at : header + text_at + text_size]
        raw = [_Raw("", 0, 0, False, 0, b"")]
        at, end = header + type_at, header + type_at + type_size
        while at < end:
            name, info, size_or_type = _TYPE.unpack_from(data, at)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            fixed, each = _TAIL.get(kind, (0, 0))
            at += _TYPE.size
            length = fixed + each * count
            tail = data[at : at + length]
            raw.append(
                _Raw(_text(strings, name), kind, count, bool(info >> 31), size_or_type, tail)
            )
            at += length
        return cls(raw, strings)

    def struct(self, name: str) -> Struct:
        """The struct of that name. Raises KeyError if there is none, BtfError if it is damaged."""
        index = self._find(name, (_STRUCT, _UNION))
        with _believing_nothing():
            found = self._resolve(index)
        assert isinstance(found, Struct)
        return found

    def enum(self, name: str) -> Enum:
        """The enum of that name. Raises KeyError if there is none, BtfError if it is damaged."""
        index = self._find(name, (_ENUM,))
        with _believing_nothing():
            found = self._resolve(index)
        assert isinstance(found, Enum)
        return found

    def variables(self) -> list[Variable]:
        """
        Global variables of all data sections. Raises BtfError if they are damaged.

        Offsets are zero in a file as clang wrote it; libbpf fills them in when it opens the object.
        """
        with _believing_nothing():
            return [
                Variable(self._raw[type_id].name, raw.name, offset, size)
                for raw in self._raw
                if raw.kind == _DATASEC
                for type_id, offset, size in struct.iter_unpack("<III", raw.tail)
            ]

    def variable_type(self, name: str) -> Type | None:
        """
        The type of a global variable; ``None`` if it is one that has no layout here: a pointer, a
        floating-point number, a struct with bit fields.

        Raises:
            KeyError: If there is no such variable.
        """
        index = self._find(name, (_VAR,))
        try:
            with _believing_nothing():
                return self._resolve(self._raw[index].size_or_type)
        except BtfError:
            return None

    def _find(self, name: str, kinds: tuple[int, ...]) -> int:
        for index, raw in enumerate(self._raw):
            if raw.name == name and raw.kind in kinds:
                return index
        raise KeyError(name)

    def _resolve(self, index: int) -> Type:
        """A type once resolved is not resolved again, or a few octets could ask for ever more."""
        if index not in self._resolved:
            self._resolved[index] = None
            self._resolved[index] = self._read(index)
        found = self._resolved[index]
        if found is None:
            raise BtfError("a type contains itself")
        return found

    def _read(self, index: int) -> Type:
        raw = self._raw[index]
        if raw.kind in _MODIFIERS:
            return self._resolve(raw.size_or_type)
        if raw.kind == _INT:
            (encoding,) = struct.unpack("<I", raw.tail)
            return Int(raw.size_or_type, bool(encoding >> 24 & 1))
        if raw.kind == _ARRAY:
            element, _, count = struct.unpack("<III", raw.tail)
            return Array(self._resolve(element), count)
        if raw.kind in (_STRUCT, _UNION):
            return Struct(raw.name, raw.size_or_type, tuple(self._members(raw)))
        if raw.kind == _ENUM:
            return Enum(raw.name, raw.size_or_type, tuple(self._values(raw)))
        raise BtfError(f"type kind {raw.kind} has no place in a layout")

    def _members(self, raw: _Raw) -> Iterator[Member]:
        for name, type_id, offset in struct.iter_unpack("<III", raw.tail):
            if raw.flag and offset >> 24:
                raise BtfError(f"struct {raw.name} has a bit field: {_text(self._strings, name)}")
            yield Member(_text(self._strings, name), offset // 8, self._resolve(type_id))

    def _values(self, raw: _Raw) -> Iterator[tuple[str, int]]:
        for name, value in struct.iter_unpack("<Ii", raw.tail):
            yield _text(self._strings, name), value


@contextlib.contextmanager
def _believing_nothing() -> Iterator[None]:
    """Whatever damaged octets lead to while they are read is a BtfError."""
    try:
        yield
    except BtfError:
        raise
    except (struct.error, IndexError, ValueError, RecursionError) as err:
        raise BtfError(f"the type information is damaged: {err}") from err


def _text(strings: bytes, offset: int) -> str:
    return strings[offset : strings.index(b"\0", offset)].decode("ascii")
