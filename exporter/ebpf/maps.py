"""
A map in the kernel: single elements as bytes, whole maps in batches into arrays the caller owns.

Every call may block as long as the kernel takes; the interpreter lock is released meanwhile.
"""

from __future__ import annotations

import errno as errnos
import os
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from exporter.ebpf import _libbpf
from exporter.ebpf.cpus import possible_cpus, slot_size
from exporter.ebpf.errors import BpfError, map_error

#: BPF_MAP_TYPE_*, include/uapi/linux/bpf.h.
TYPES = {
    1: "hash",
    2: "array",
    5: "percpu_hash",
    6: "percpu_array",
    9: "lru_hash",
    10: "lru_percpu_hash",
    11: "lpm_trie",
    12: "array_of_maps",
    13: "hash_of_maps",
    27: "ringbuf",
}
PER_CPU = frozenset({"percpu_hash", "percpu_array", "lru_percpu_hash"})

BPF_ANY, BPF_NOEXIST, BPF_EXIST = 0, 1, 2


@dataclass(frozen=True)
class MapSpec:
    """What an object file, or the kernel, says of a map. Sizes in octets."""

    name: str
    type: str
    key_size: int
    value_size: int
    max_entries: int
    flags: int


class BatchCursor:
    """Where a batch operation goes on. ``done`` once the whole map has been visited."""

    def __init__(self) -> None:
        self.done = False
        self._in: Any = None
        # Hash maps keep a 32-bit bucket number here; other types use up to a key's size.
        self._positions = (_libbpf.u64(), _libbpf.u64())
        self._turn = 0

    def arguments(self) -> tuple[Any, Any]:
        """References for the call's in_batch and out_batch."""
        return self._in, _libbpf.ref(self._positions[self._turn])

    def advance(self) -> None:
        """The call's out_batch becomes the next call's in_batch."""
        self._in = _libbpf.ref(self._positions[self._turn])
        self._turn ^= 1


class Map:
    """
    A live map. Owns its file descriptor: ``close`` it, or use it in a ``with`` block.

    Args:
        fd: The map's file descriptor; from now on this object's.
        spec: What the map is.
    """

    def __init__(self, fd: int, spec: MapSpec) -> None:
        self.fd = fd
        self.spec = spec
        self._lib = _libbpf.library()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back. Again is fine."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def value_octets(self) -> int:
        """Octets of one value as user space sees it: all CPUs' slots of a per-CPU map."""
        if self.spec.type in PER_CPU:
            return slot_size(self.spec.value_size) * possible_cpus()
        return self.spec.value_size

    def lookup(self, key: bytes) -> bytes:
        """
        The value of ``key``; of a per-CPU map all slots, one after the other.

        Raises:
            KeyNotFound: If there is no such key.
            BpfError: If the kernel refuses otherwise.
        """
        value = bytearray(self.value_octets)
        try:
            self._lib.bpf_map_lookup_elem(
                self.fd, _libbpf.address(self._key(key)), _libbpf.address(value)
            )
        except OSError as err:
            raise self._error("look up in", err) from err
        return bytes(value)

    def update(self, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
        """
        Write one element.

        Args:
            key: ``key_size`` octets.
            value: ``value_octets`` octets.
            flags: BPF_ANY, BPF_NOEXIST (must be new) or BPF_EXIST (must be there).

        Raises:
            KeyExists, KeyNotFound: As the flags say.
            MapFull: If there is no room.
            BpfError: If the kernel refuses otherwise, or a size is wrong.
        """
        if len(value) != self.value_octets:
            raise BpfError(
                f"update map {self.spec.name}",
                errnos.EINVAL,
                f"a value has {self.value_octets} octets, not {len(value)}",
            )
        try:
            self._lib.bpf_map_update_elem(
                self.fd, _libbpf.address(self._key(key)), _libbpf.address(value), flags
            )
        except OSError as err:
            raise self._error("update", err) from err

    def delete(self, key: bytes) -> None:
        """
        Remove one element.

        Raises:
            KeyNotFound: If there is no such key.
            BpfError: If the kernel refuses otherwise: EINVAL for an array.
        """
        try:
            self._lib.bpf_map_delete_elem(self.fd, _libbpf.address(self._key(key)))
        except OSError as err:
            raise self._error("delete from", err) from err

    def next_key(self, key: bytes | None = None) -> bytes | None:
        """
        The key after ``key`` in the kernel's order; the first one after ``None``, and after a key
        that is gone. ``None`` after the last one.

        Raises:
            BpfError: If the kernel refuses.
        """
        following = bytearray(self.spec.key_size)
        before = None if key is None else _libbpf.address(self._key(key))
        try:
            self._lib.bpf_map_get_next_key(self.fd, before, _libbpf.address(following))
        except OSError as err:
            if err.errno == errnos.ENOENT:
                return None
            raise self._error("walk", err) from err
        return bytes(following)

    def take_batch(self, keys: NDArray[Any], values: NDArray[Any], cursor: BatchCursor) -> int:
        """
        Look up and delete as many elements as the arrays hold.

        Args:
            keys: Shape (n,), C-contiguous, itemsize ``key_size``. Rows [0, result) are overwritten.
            values: First axis n, C-contiguous, ``value_octets`` octets a row. Likewise.
            cursor: A new one to begin with; ``cursor.done`` when the map has been walked through.

        Returns:
            Rows written. May be fewer than n although the map is not done: the kernel stops at the
            end of a hash bucket.

        Raises:
            BpfError: ENOSPC if a hash bucket has more elements than the arrays have rows; EINVAL
                where the kernel has no batch operations for this map type.

        Source: kernel/bpf/hashtab.c __htab_map_lookup_and_delete_batch() (5.6).
        """
        rows = len(keys)
        self._require_layout(keys, self.spec.key_size)
        self._require_layout(values, self.value_octets)
        if len(values) < rows:
            raise ValueError(f"values has {len(values)} rows, keys {rows}")
        count = _libbpf.u32(rows)
        position, next_position = cursor.arguments()
        result = int(
            self._lib.bpf_map_lookup_and_delete_batch(
                self.fd,
                position,
                next_position,
                keys.ctypes.data,
                values.ctypes.data,
                _libbpf.ref(count),
                None,
            )
        )
        if result == 0:
            cursor.advance()
            return int(count.value)
        if result == -errnos.ENOENT:
            cursor.done = True
            return int(count.value)
        raise map_error(f"drain map {self.spec.name}", -result)

    def update_batch(self, keys: NDArray[Any], values: NDArray[Any]) -> None:
        """
        Write many elements, new or not.

        Args:
            keys: Shape (n,), C-contiguous, itemsize ``key_size``.
            values: First axis n, C-contiguous, ``value_octets`` octets a row.

        Raises:
            MapFull: If there is no room for all of them; the first ones are written.
            BpfError: If the kernel refuses otherwise.
        """
        self._require_layout(keys, self.spec.key_size)
        self._require_layout(values, self.value_octets)
        count = _libbpf.u32(len(keys))
        try:
            self._lib.bpf_map_update_batch(
                self.fd, keys.ctypes.data, values.ctypes.data, _libbpf.ref(count), None
            )
        except OSError as err:
            raise self._error("update", err) from err

    def per_cpu(self, key: bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
        """
        The slots of ``key`` in a per-CPU map.

        Args:
            key: ``key_size`` octets.
            dtype: Of one value; itemsize ``value_size``, which must divide by 8.

        Returns:
            Shape (possible CPUs,), a copy.

        Raises:
            KeyNotFound, BpfError: As :meth:`lookup`.
        """
        return np.frombuffer(self.lookup(key), dtype)

    def _key(self, key: bytes) -> bytes:
        if len(key) != self.spec.key_size:
            raise BpfError(
                f"use map {self.spec.name}",
                errnos.EINVAL,
                f"a key has {self.spec.key_size} octets, not {len(key)}",
            )
        return key

    def _require_layout(self, array: NDArray[Any], octets: int) -> None:
        row = array.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
        if row != octets or not array.flags.c_contiguous:
            raise ValueError(
                f"map {self.spec.name} wants contiguous rows of {octets} octets, not {row}"
            )

    def _error(self, verb: str, err: OSError) -> BpfError:
        return map_error(f"{verb} map {self.spec.name}", err.errno or 0)
