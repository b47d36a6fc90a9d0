"""A map with kinds: what goes in as an integer, a text, a prefix or a record comes out as one."""

from __future__ import annotations

import errno as errnos
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from exporter.ebpf.cpus import slot_size
from exporter.ebpf.elements import Content, Descriptor, Elements
from exporter.ebpf.errors import BpfError, KeyNotFound
from exporter.ebpf.mapspec import PER_CPU
from exporter.ebpf.values import Network, Value, encode, integer, network, prefix_of, text

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Kind(Generic[V]):
    """
    How octets are read, and what is understood besides the kinds of ``values.encode``.

    Args:
        decode: From the octets of one key or value.
        prepare: Before ``encode``.
    """

    decode: Callable[[bytes], V]
    prepare: Callable[[Any], Any] = lambda value: value


def _prefix(value: Any) -> Any:
    return network(value) if isinstance(value, str) else value


#: Octets as they are.
OCTETS: Kind[bytes] = Kind(bytes)
#: Little-endian, 1 to 8 octets, not negative.
UNSIGNED: Kind[int] = Kind(integer)
#: Little-endian two's complement, 1 to 8 octets.
SIGNED: Kind[int] = Kind(lambda octets: integer(octets, signed=True))
#: UTF-8 up to the first NUL.
TEXT: Kind[str] = Kind(text)
#: Key of an LPM trie; accepts the text of a CIDR or address.
PREFIX: Kind[Network] = Kind(prefix_of, _prefix)


def record(dtype: np.dtype[Any]) -> Kind[Any]:
    """
    A NumPy scalar, structured or not. Accepts also what ``dtype`` itself does: a tuple of fields.

    Args:
        dtype: Its itemsize is the map's key or value size.
    """

    def prepare(value: Any) -> Any:
        if isinstance(value, (np.generic, np.ndarray, bytes, bytearray, memoryview)):
            return value
        return np.array(value, dtype)[()]

    return Kind(lambda octets: np.frombuffer(octets, dtype, 1)[0].copy(), prepare)


class TypedMap(Generic[K, V]):
    """
    A view of a map, which stays its owner's.

    Octets that are too short are zero padded here. Values of a per-CPU map are lists, one value for
    each possible CPU; a single value is written to the first slot and clears the others.

    Args:
        table: The map, live or fake.
        key: What keys are: :data:`OCTETS`, :data:`UNSIGNED`, :data:`SIGNED`, :data:`TEXT`,
            :data:`PREFIX` or :func:`record`.
        value: What values are, likewise.
    """

    def __init__(self, table: Elements, key: Kind[K], value: Kind[V]) -> None:
        self.table = table
        self._key = key
        self._value = value

    def lookup(self, key: K | Value) -> V:
        """
        The value of ``key``.

        Raises:
            KeyNotFound: If there is no such key.
            BpfError: If this is a per-CPU map, or the kernel refuses otherwise.
        """
        if self.table.spec.type in PER_CPU:
            name = self.table.spec.name
            raise BpfError(
                f"look up in map {name}", errnos.EINVAL, "it has a value for each CPU: per_cpu()"
            )
        return self._value.decode(self.table.lookup(self._key_octets(key)))

    def per_cpu(self, key: K | Value) -> list[V]:
        """
        The values of ``key``, one for each possible CPU; a list of one if this is no per-CPU map.

        Raises:
            KeyNotFound, BpfError: As :meth:`lookup`.
        """
        return self._slots(self.table.lookup(self._key_octets(key)))

    def insert(self, key: K | Value, value: V | Content) -> None:
        """Write an element that must be new. Raises KeyExists, MapFull, BpfError."""
        self.table.insert(self._key_octets(key), self._content(value))

    def replace(self, key: K | Value, value: V | Content) -> None:
        """Write an element that must be there. Raises KeyNotFound, BpfError."""
        self.table.replace(self._key_octets(key), self._content(value))

    def upsert(self, key: K | Value, value: V | Content) -> None:
        """Write an element, new or not. Raises MapFull, BpfError."""
        self.table.upsert(self._key_octets(key), self._content(value))

    def delete(self, key: K | Value) -> None:
        """Remove an element. Raises KeyNotFound, BpfError."""
        self.table.delete(self._key_octets(key))

    def next_key(self, key: K | Value | None = None) -> K | None:
        """As :meth:`Elements.next_key`, decoded by the size of a key."""
        found = self.table.next_key(None if key is None else self._key_octets(key))
        return None if found is None else self._key.decode(found)

    def keys(self) -> Iterator[K]:
        """As :meth:`Elements.keys`."""
        yield from map(self._key.decode, self.table)

    def __iter__(self) -> Iterator[K]:
        return self.keys()

    def items(self) -> Iterator[tuple[K, V]]:
        """As :meth:`Elements.items`. Raises BpfError if this is a per-CPU map."""
        for key in self:
            try:
                yield key, self.lookup(key)
            except KeyNotFound:
                continue

    def _key_octets(self, key: Any) -> bytes:
        prepared = self._key.prepare(key)
        if isinstance(prepared, (bytes, bytearray, memoryview)):
            return encode(prepared, self.table.spec.key_size)
        return self.table.key_octets(prepared)

    def _content(self, value: Any) -> Content:
        if isinstance(value, (Descriptor, np.ndarray)):
            return value
        size, room = self.table.spec.value_size, self.table.value_octets
        if isinstance(value, (bytes, bytearray, memoryview)):
            return encode(value, room)
        return encode(self._value.prepare(value), size).ljust(room, b"\0")

    def _slots(self, found: bytes) -> list[V]:
        size = self.table.spec.value_size
        stride = slot_size(size) if self.table.spec.type in PER_CPU else len(found)
        return [self._value.decode(found[at : at + size]) for at in range(0, len(found), stride)]
