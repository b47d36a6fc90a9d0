"""
A map in the kernel: single elements, and whole maps in batches into arrays the caller owns.

Every call may block as long as the kernel takes; the interpreter lock is released meanwhile.
"""

from __future__ import annotations

import errno as errnos
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from exporter.ebpf import _libbpf
from exporter.ebpf.batches import Batch, BatchCursor, Batches
from exporter.ebpf.errors import BpfError
from exporter.ebpf.mapspec import (
    BPF_ANY,
    BPF_EXIST,
    BPF_F_NO_PREALLOC,
    BPF_NOEXIST,
    NUMBERS,
    OF_MAPS,
    PER_CPU,
    STORAGE,
    TYPES,
    MapSpec,
    storage_types,
)
from exporter.ebpf.values import Value, integer

__all__ = [
    "BPF_ANY",
    "BPF_EXIST",
    "BPF_F_NO_PREALLOC",
    "BPF_NOEXIST",
    "PER_CPU",
    "TYPES",
    "BatchCursor",
    "Map",
    "MapInfo",
    "MapSpec",
]

_KERNEL_NAME_OCTETS = 15
_BATCH_CALLS = {
    "lookup": "bpf_map_lookup_batch",
    "take": "bpf_map_lookup_and_delete_batch",
    "update": "bpf_map_update_batch",
    "delete": "bpf_map_delete_batch",
}


@dataclass(frozen=True)
class MapInfo:
    """What the kernel says of a map. ``ifindex`` is 0 unless a network card holds it."""

    id: int
    spec: MapSpec
    ifindex: int
    btf_id: int


class Map(Batches):
    """
    A live map. Owns its file descriptor: ``close`` it, or use it in a ``with`` block.

    Args:
        fd: The map's file descriptor; from now on this object's.
        spec: What the map is.
    """

    def __init__(self, fd: int, spec: MapSpec) -> None:
        super().__init__(spec)
        self.fd = fd
        self._lib = _libbpf.library()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def create(cls, spec: MapSpec, *, inner: Map | None = None) -> Self:
        """
        Make a new map.

        Args:
            spec: What it shall be; see :meth:`MapSpec.complete` for what may be left out.
            inner: What maps within it shall be like, for a map of maps whose ``spec.inner`` does
                not say.

        Returns:
            The map; its ``spec`` is complete.

        Raises:
            BpfError: EINVAL naming the rules that ``spec`` breaks; or as the kernel refuses.
        """
        if inner is not None:
            spec = replace(spec, inner=inner.spec)
        spec = spec.complete()
        if spec.type in OF_MAPS and spec.inner is None:
            raise BpfError(
                f"create map {spec.name!r}", errnos.EINVAL, "give the specification of inner maps"
            )
        return cls._make(spec, inner)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """
        The map that a descriptor of this process is open on.

        Args:
            fd: From now on the new object's; on failure still the caller's.

        Raises:
            BpfError: If it is no map, or the kernel refuses.
        """
        try:
            if os.readlink(f"/proc/self/fd/{fd}") != "anon_inode:bpf-map":  # noqa: PTH115
                raise BpfError(f"open descriptor {fd}", errnos.EINVAL, "it is not a map")
            return cls(fd, _inspect(fd).spec)
        except OSError as err:
            raise BpfError(f"open descriptor {fd}", err.errno or 0) from err

    @classmethod
    def from_id(cls, map_id: int) -> Self:
        """
        Any map of this host, by the kernel's number.

        Raises:
            BpfError: ENOENT if there is none, EPERM without CAP_SYS_ADMIN.
        """
        with _phase(f"open map {map_id}"):
            return cls._adopt(_libbpf.library().bpf_map_get_fd_by_id(map_id))

    @classmethod
    def from_path(cls, path: Path) -> Self:
        """
        The map that is pinned at ``path``. Compare its ``spec`` with what is wanted before use.

        Raises:
            BpfError: ENOENT if nothing is; EINVAL if it is not a map; or as the kernel refuses.
        """
        with _phase(f"open pin {path}"):
            return cls._adopt(_libbpf.library().bpf_obj_get(os.fsencode(path)))

    def clone(self, name: str | None = None) -> Self:
        """
        A new, empty map that is like this one.

        Args:
            name: Its name; this one's, as the kernel keeps it, if ``None``.

        Raises:
            BpfError: As :meth:`create`.
        """
        kept = self.spec.name.encode()[:_KERNEL_NAME_OCTETS].decode(errors="ignore")
        return self.create(replace(self.spec, name=kept if name is None else name))

    def close(self) -> None:
        """Give the descriptor back. Again is fine."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def info(self) -> MapInfo:
        """What the kernel says of it. Raises BpfError."""
        with _phase(f"inspect map {self.spec.name}"):
            return _inspect(self.fd)

    def pin(self, path: Path) -> None:
        """
        Give it a name in a BPF file system, which keeps it alive. ``path.unlink()`` ends that.

        Raises:
            BpfError: EEXIST if the name is taken, EPERM if that is no BPF file system; or as the
                kernel refuses.
        """
        with _phase(f"pin map {self.spec.name} at {path}"):
            self._lib.bpf_obj_pin(self.fd, os.fsencode(path))

    def lookup_map(self, key: Value) -> Self:
        """
        The map within a map of maps, opened: close it.

        Raises:
            KeyNotFound: If there is none at ``key``.
            BpfError: If the kernel refuses otherwise.
        """
        return self.from_id(integer(self.lookup(key)))

    @classmethod
    def _make(cls, spec: MapSpec, inner: Map | None) -> Self:
        """Ask the kernel. An inner map is only looked at, and may go afterwards."""
        options = _libbpf.sized(_libbpf.MapCreateOptions)
        options.map_flags = spec.flags
        owned = -1
        try:
            if spec.inner is not None and inner is None:
                with Map.create(spec.inner) as template:
                    return cls._make(spec, template)
            if inner is not None:
                options.inner_map_fd = inner.fd
            with _phase(f"create map {spec.name!r}"):
                if spec.type in STORAGE:
                    types = storage_types(spec.value_size)
                    owned = _libbpf.library().bpf_btf_load(_libbpf.address(types), len(types), None)
                    options.btf_fd, options.btf_key_type_id, options.btf_value_type_id = owned, 1, 3
                fd = _libbpf.library().bpf_map_create(
                    NUMBERS[spec.type], spec.name.encode(), spec.key_size, spec.value_size,
                    spec.max_entries, _libbpf.ref(options),
                )  # fmt: skip
        finally:
            if owned >= 0:
                os.close(owned)
        return cls(fd, spec)

    @classmethod
    def _adopt(cls, fd: int) -> Self:
        try:
            return cls.from_fd(fd)
        except BpfError:
            os.close(fd)
            raise

    # A map without keys wants a null pointer for one.

    def _call_lookup(self, key: bytes) -> bytes:
        value = _libbpf.room(self.value_octets)
        self._lib.bpf_map_lookup_elem(self.fd, key or None, value)
        return bytes(value.raw)

    def _call_update(self, key: bytes, value: bytes, flags: int) -> None:
        self._lib.bpf_map_update_elem(self.fd, key or None, value, flags)

    def _call_delete(self, key: bytes) -> None:
        self._lib.bpf_map_delete_elem(self.fd, key or None)

    def _call_take(self, key: bytes) -> bytes:
        value = _libbpf.room(self.value_octets)
        self._lib.bpf_map_lookup_and_delete_elem(self.fd, key or None, value)
        return bytes(value.raw)

    def _call_next_key(self, key: bytes | None) -> bytes | None:
        following = _libbpf.room(self.spec.key_size)
        self._lib.bpf_map_get_next_key(self.fd, key, following)
        return bytes(following.raw)

    def _call_batch(self, batch: Batch) -> tuple[int, int]:
        count = _libbpf.u32(len(batch.keys))
        arguments: list[Any] = [batch.keys.ctypes.data]
        if batch.cursor is not None:
            arguments[:0] = batch.cursor.arguments(self.spec.key_size)
        if batch.values is not None and batch.operation != "delete":
            arguments.append(batch.values.ctypes.data)
        call = getattr(self._lib, _BATCH_CALLS[batch.operation])
        result = int(call(self.fd, *arguments, _libbpf.ref(count), None))
        return max(0, -result), int(count.value)


@contextmanager
def _phase(phase: str) -> Iterator[None]:
    """Kernel errors within are of this phase."""
    try:
        yield
    except OSError as err:
        raise BpfError(phase, err.errno or 0) from err


def _inspect(fd: int) -> MapInfo:
    raw = _libbpf.info(_libbpf.MapInfo, fd)
    spec = MapSpec(
        name=raw.name.decode(),
        type=TYPES.get(raw.type, str(raw.type)),
        key_size=raw.key_size,
        value_size=raw.value_size,
        max_entries=raw.max_entries,
        flags=raw.map_flags,
    )
    return MapInfo(raw.id, spec, raw.ifindex, raw.btf_id)
