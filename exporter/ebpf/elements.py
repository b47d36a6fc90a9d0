"""
Single elements of a map, live or fake: look up, insert, replace, delete, walk.

Keys and values may be given in two ways. Octets (``bytes``, ``bytearray``, ``memoryview``) are
taken as they are and must be whole: a short key is a mistake more often than a wish. Everything
else that :func:`exporter.ebpf.values.encode` knows is converted.
:class:`exporter.ebpf.typed.TypedMap` pads octets too, and gives back what it was given.
"""

from __future__ import annotations

import errno as errnos
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from exporter.ebpf.cpus import possible_cpus, slot_size
from exporter.ebpf.errors import BpfError, DumpIncomplete, KeyNotFound, MapFull, map_error
from exporter.ebpf.mapspec import ANY_ONLY, BPF_ANY, BPF_EXIST, BPF_NOEXIST, PER_CPU, MapSpec
from exporter.ebpf.values import Value, encode, integer, network, prefix_octets, text

#: A walk may be thrown back to the beginning; it makes at most this many look-ups per entry.
LOOKUPS_PER_ENTRY = 4
#: Not in the errno module: the kernel's own, for an operation that a map type does not have.
ENOTSUPP = 524


@runtime_checkable
class Descriptor(Protocol):
    """What may be stored in an array of maps or programs: something open in this process."""

    fd: int


#: A value as it may be written: also an open map or program, or one value for each CPU.
Content = Value | Descriptor | NDArray[Any]


class Elements(ABC):
    """
    What can be done with single elements, whoever keeps them.

    Args:
        spec: What the map is.
    """

    def __init__(self, spec: MapSpec) -> None:
        self.spec = spec

    @functools.cached_property
    def value_octets(self) -> int:
        """Octets of one value as user space sees it: all CPUs' slots of a per-CPU map."""
        if self.spec.type in PER_CPU:
            return slot_size(self.spec.value_size) * possible_cpus()
        return self.spec.value_size

    def lookup(self, key: Value) -> bytes:
        """
        The value of ``key``; of a per-CPU map all slots, one after the other; of an LPM trie that
        of the longest prefix that holds ``key``; of a map of maps or programs, an id.

        Args:
            key: See the module; the text of an LPM trie is a CIDR. ``b""`` where there is no key:
                what a queue would give next.

        Raises:
            KeyNotFound: If there is no such key.
            BpfError: If the kernel refuses otherwise.
        """
        octets = self.key_octets(key)
        try:
            return self._call_lookup(octets)
        except OSError as err:
            raise self._error("look up in", err) from err

    def lookup_int(self, key: Value, *, signed: bool = False) -> int:
        """
        The value of ``key`` as a little-endian integer; of a per-CPU map the sum of its slots.

        Raises:
            KeyNotFound: If there is no such key.
            BpfError: If a value has more than 8 octets, or the kernel refuses.
        """
        size = self.spec.value_size
        found = self.lookup(key)
        stride = slot_size(size) if self.spec.type in PER_CPU else len(found)
        return sum(
            integer(found[at : at + size], signed=signed) for at in range(0, len(found), stride)
        )

    def lookup_text(self, key: Value) -> str:
        """
        The value of ``key`` up to its first NUL.

        Raises:
            KeyNotFound: If there is no such key.
            BpfError: EINVAL for a per-CPU map; or as the kernel refuses.
        """
        if self.spec.type in PER_CPU:
            raise self._invalid("a per-CPU map has a text for each CPU: use per_cpu()")
        return text(self.lookup(key))

    def per_cpu(self, key: Value, dtype: np.dtype[Any]) -> NDArray[Any]:
        """
        The slots of ``key`` in a per-CPU map.

        Args:
            key: See the module.
            dtype: Of one value; itemsize ``value_size``.

        Returns:
            Shape (possible CPUs,), a copy.

        Raises:
            KeyNotFound, BpfError: As :meth:`lookup`.
        """
        if dtype.itemsize != self.spec.value_size:
            raise self._invalid(f"a value has {self.spec.value_size} octets, not {dtype.itemsize}")
        stride = slot_size(self.spec.value_size)
        found = self.lookup(key)
        view: NDArray[Any] = np.ndarray((len(found) // stride,), dtype, found, 0, (stride,))
        return view.copy()

    def update(self, key: Value, value: Content, flags: int = BPF_ANY) -> None:
        """
        Write one element.

        Args:
            key: See the module. ``b""`` where there is none: a queue takes one more value.
            value: See the module. A value that is not octets goes to the first slot of a per-CPU
                map and clears the others, so that the sum is that value; an array has one for each.
            flags: BPF_ANY, BPF_NOEXIST (must be new) or BPF_EXIST (must be there).

        Raises:
            KeyExists, KeyNotFound: As the flags say.
            MapFull: If there is no room.
            BpfError: If the kernel refuses otherwise, or a size is wrong.
        """
        octets, content = self.key_octets(key), self.content_octets(value)
        try:
            self._call_update(octets, content, flags)
        except OSError as err:
            raise self._error("update", err) from err

    def insert(self, key: Value, value: Content) -> None:
        """
        Write an element that must be new. An array has all of its elements from the beginning; one
        of maps, programs or perf events takes every write.

        Raises:
            KeyExists: If the key is there.
            MapFull, BpfError: As :meth:`update`.
        """
        self.update(key, value, self._flag(BPF_NOEXIST))

    def replace(self, key: Value, value: Content) -> None:
        """
        Write an element that must be there. One of maps, programs or perf events need not.

        Raises:
            KeyNotFound: If the key is not there.
            BpfError: As :meth:`update`.
        """
        self.update(key, value, self._flag(BPF_EXIST))

    def upsert(self, key: Value, value: Content) -> None:
        """Write an element, new or not. Raises as :meth:`update`."""
        self.update(key, value, BPF_ANY)

    def delete(self, key: Value) -> None:
        """
        Remove one element.

        Raises:
            KeyNotFound: If there is no such key.
            BpfError: If the kernel refuses otherwise: EINVAL for an array.
        """
        octets = self.key_octets(key)
        try:
            self._call_delete(octets)
        except OSError as err:
            raise self._error("delete from", err) from err

    def take(self, key: Value = b"") -> bytes:
        """
        Look up and delete one element in one step: the next value of a queue or stack (whose key
        is ``b""``), or that of a key where the kernel can (hashes: 5.14); elsewhere in two steps,
        and what is written between them is lost.

        Raises:
            KeyNotFound: If there is none.
            BpfError: If the kernel refuses otherwise.
        """
        octets = self.key_octets(key)
        try:
            return self._take(octets)
        except OSError as err:
            raise self._error("take from", err) from err

    def next_key(self, key: Value | None = None) -> bytes | None:
        """
        The key after ``key`` in the kernel's order; the first one after ``None``, and after a key
        that is gone. ``None`` after the last one.

        Raises:
            BpfError: If the kernel refuses.
        """
        octets = None if key is None else self.key_octets(key)
        try:
            return self._call_next_key(octets)
        except OSError as err:
            if err.errno == errnos.ENOENT:
                return None
            raise self._error("walk", err) from err

    def keys(self) -> Iterator[bytes]:
        """
        Every key, in the kernel's order. What is yielded may be deleted at once. Under change by
        others keys may come twice; see :mod:`exporter.ebpf.dump` for a walk that counts that.

        Raises:
            DumpIncomplete: If others change the map faster than it can be walked.
            BpfError: If the kernel refuses.
        """
        following = self.next_key()
        for _ in range(LOOKUPS_PER_ENTRY * self.spec.max_entries):
            if following is None:
                return
            key, following = following, self.next_key(following)
            yield key
        if following is not None:
            raise DumpIncomplete(f"walk map {self.spec.name}")

    def __iter__(self) -> Iterator[bytes]:
        return self.keys()

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key and its value, as :meth:`keys`; one that is gone by then is left out."""
        for key in self:
            try:
                yield key, self.lookup(key)
            except KeyNotFound:
                continue

    def key_octets(self, key: Value) -> bytes:
        """
        A key as the kernel gets it.

        Raises:
            BpfError: EINVAL if octets are not whole; EOVERFLOW if it does not fit.
        """
        if type(key) is bytes and len(key) == self.spec.key_size:
            return key  # nearly always
        if isinstance(key, (bytes, bytearray, memoryview)):
            return self._whole("key", bytes(key), self.spec.key_size)
        if self.spec.type == "lpm_trie":
            key = network(key) if isinstance(key, str) else key
            if isinstance(key, (IPv4Network, IPv6Network, IPv4Address, IPv6Address)):
                # Not padded: 10.0.0.0/8 in a trie of IPv6 would be a00::/8.
                return self._whole("key", prefix_octets(ip_network(key)), self.spec.key_size)
        return encode(key, self.spec.key_size)

    def content_octets(self, value: Content) -> bytes:
        """
        A value as the kernel gets it.

        Raises:
            BpfError: EINVAL if octets are not whole; EOVERFLOW if it does not fit.
        """
        if type(value) is bytes and len(value) == self.value_octets:
            return value  # nearly always
        size = self.spec.value_size
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._whole("value", bytes(value), self.value_octets)
        if isinstance(value, np.ndarray):
            return self._array_octets(value)
        if isinstance(value, Descriptor):
            return value.fd.to_bytes(size, "little", signed=True)
        return encode(value, size).ljust(self.value_octets, b"\0")

    def _array_octets(self, value: NDArray[Any]) -> bytes:
        if self.spec.type not in PER_CPU:
            return self._whole("value", value.tobytes(), self.value_octets)
        if value.shape != (possible_cpus(),) or value.itemsize != self.spec.value_size:
            raise self._invalid(
                f"a value has {possible_cpus()} slots of {self.spec.value_size} octets, "
                f"not {value.shape} of {value.itemsize}"
            )
        return b"".join(encode(slot, slot_size(self.spec.value_size)) for slot in value)

    def _take(self, key: bytes) -> bytes:
        try:
            return self._call_take(key)
        except OSError as err:
            if err.errno not in (errnos.EINVAL, errnos.EOPNOTSUPP, ENOTSUPP) or not key:
                raise
        found = self._call_lookup(key)
        self._call_delete(key)
        return found

    def _flag(self, flag: int) -> int:
        return BPF_ANY if self.spec.type in ANY_ONLY else flag

    def _whole(self, what: str, octets: bytes, size: int) -> bytes:
        if len(octets) != size:
            raise self._invalid(f"a {what} has {size} octets, not {len(octets)}")
        return octets

    def _invalid(self, detail: str) -> BpfError:
        return BpfError(f"use map {self.spec.name}", errnos.EINVAL, detail)

    def _error(self, verb: str, err: OSError, detail: str = "") -> BpfError:
        phase = f"{verb} map {self.spec.name}"
        if verb == "update" and err.errno == errnos.ENOSPC:
            return MapFull(phase, errnos.ENOSPC, detail)  # what an LPM trie says instead of E2BIG
        return map_error(phase, err.errno or 0, detail)

    # What the kernel, or its stand-in, does. All take whole octets and raise OSError.

    @abstractmethod
    def _call_lookup(self, key: bytes) -> bytes: ...

    @abstractmethod
    def _call_update(self, key: bytes, value: bytes, flags: int) -> None: ...

    @abstractmethod
    def _call_delete(self, key: bytes) -> None: ...

    @abstractmethod
    def _call_take(self, key: bytes) -> bytes: ...

    @abstractmethod
    def _call_next_key(self, key: bytes | None) -> bytes | None: ...
