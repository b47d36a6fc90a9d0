"""
A map, a program and an object in memory, for tests of code that uses this library: no root, no
kernel, the same types and errors.

:class:`FakeMap` keeps the kernel's rules of hashes, arrays, LPM tries, queues, stacks and maps of
maps or programs, per-CPU or not; an LRU hash forgets the element that was used longest ago, where
the kernel approximates that. Order of keys is not the kernel's. Any other type is refused.
"""

from __future__ import annotations

import errno as errnos
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from exporter.ebpf.batches import Batch, Batches
from exporter.ebpf.contexts import SkbContext, XdpContext
from exporter.ebpf.errors import BpfError
from exporter.ebpf.maps import Map, MapInfo
from exporter.ebpf.mapspec import (
    ANY_ONLY,
    BPF_EXIST,
    BPF_NOEXIST,
    INDEXED,
    OF_MAPS,
    MapSpec,
)
from exporter.ebpf.object import Object, ObjectSpec
from exporter.ebpf.programs import Program, ProgramInfo, ProgramSpec, TestRun

_LRU = frozenset({"lru_hash", "lru_percpu_hash"})
_QUEUES = frozenset({"queue", "stack"})
_KEPT = frozenset({"hash", "percpu_hash", "array", "percpu_array", "lpm_trie"})
_PROGRAMS = frozenset({"prog_array"})
#: What can be faked.
TYPES = _KEPT | _LRU | _QUEUES | OF_MAPS | _PROGRAMS

_numbers = itertools.count(1)
#: Far from what the kernel gives, so that a fake's is never closed or used by mistake.
_FIRST_DESCRIPTOR = 1 << 24


class FakeKernel:
    """
    What fakes have in common: open descriptors, ids and pins. One for all unless a test makes its
    own.
    """

    def __init__(self) -> None:
        self.maps: dict[int, _Store] = {}
        self.pins: dict[Path, _Store] = {}
        self.open: dict[int, int] = {}

    def descriptor(self, number: int) -> int:
        """A new descriptor of a map or program."""
        fd = _FIRST_DESCRIPTOR + next(_numbers)
        self.open[fd] = number
        return fd


#: The one that fakes use.
KERNEL = FakeKernel()


class _Store:
    """What several handles of a map share."""

    def __init__(self, spec: MapSpec) -> None:
        self.number = next(_numbers)
        self.spec = spec
        self.elements: dict[bytes, bytes] = {}
        self.used: dict[bytes, int] = {}
        KERNEL.maps[self.number] = self


class FakeMap(Map):
    """
    A map in memory. Made by the same class methods as a live one; ``FakeMap(spec)`` is short for
    ``FakeMap.create(spec)``.

    Args:
        spec: What it shall be.
    """

    def __init__(self, spec: MapSpec, _store: _Store | None = None) -> None:
        complete = spec.complete() if _store is None else spec
        Batches.__init__(self, complete)
        if complete.type not in TYPES:
            raise _refused(f"create map {spec.name!r}", errnos.EINVAL, f"no fake {complete.type}")
        self._store = _store or _Store(complete)
        self.fd = KERNEL.descriptor(self._store.number)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """As :meth:`Map.from_fd`; of a fake's descriptor."""
        return cls._open(f"open descriptor {fd}", KERNEL.open.get(fd), errnos.EBADF)

    @classmethod
    def from_id(cls, map_id: int) -> Self:
        """As :meth:`Map.from_id`."""
        return cls._open(f"open map {map_id}", map_id, errnos.ENOENT)

    @classmethod
    def from_path(cls, path: Path) -> Self:
        """As :meth:`Map.from_path`; pins are in memory."""
        store = KERNEL.pins.get(path)
        return cls._open(f"open pin {path}", store.number if store else None, errnos.ENOENT)

    def close(self) -> None:
        """Give the descriptor back. Again is fine. What is pinned or in another map stays."""
        KERNEL.open.pop(self.fd, None)
        self.fd = -1

    def info(self) -> MapInfo:
        """As :meth:`Map.info`."""
        self._require_open(f"inspect map {self.spec.name}", errnos.EBADFD)
        return MapInfo(self._store.number, self._store.spec, 0, 0)

    def pin(self, path: Path) -> None:
        """As :meth:`Map.pin`; :meth:`unpin` ends it."""
        phase = f"pin map {self.spec.name} at {path}"
        self._require_open(phase)
        if path in KERNEL.pins:
            raise _refused(phase, errnos.EEXIST)
        KERNEL.pins[path] = self._store

    @staticmethod
    def unpin(path: Path) -> None:
        """
        What ``path.unlink()`` is for a live map.

        Raises:
            FileNotFoundError: If nothing is pinned there.
        """
        if KERNEL.pins.pop(path, None) is None:
            raise FileNotFoundError(errnos.ENOENT, os.strerror(errnos.ENOENT), str(path))

    def supports(self, operation: str) -> bool:
        """No batch operations: they are done element by element, as on an old kernel."""
        del operation
        return False

    @classmethod
    def _make(cls, spec: MapSpec, inner: Map | None) -> Self:
        del inner
        return cls(spec)

    @classmethod
    def _open(cls, phase: str, number: int | None, errno: int) -> Self:
        store = None if number is None else KERNEL.maps.get(number)
        if store is None:
            raise _refused(phase, errno)
        return cls(store.spec, store)

    def _require_open(self, phase: str, errno: int = errnos.EBADF) -> None:
        if self.fd < 0:
            raise _refused(phase, errno)

    @property
    def _elements(self) -> dict[bytes, bytes]:
        if self.fd < 0:
            raise _os_error(errnos.EBADF)
        return self._store.elements

    def _call_lookup(self, key: bytes) -> bytes:
        return self._elements[self._found(key)] if not self._is_zero(key) else self._zero()

    def _call_update(self, key: bytes, value: bytes, flags: int) -> None:
        elements = self._elements
        if flags not in (0, BPF_NOEXIST, BPF_EXIST) or (flags and self.spec.type in ANY_ONLY):
            raise _os_error(errnos.EINVAL)
        if self.spec.type in _QUEUES:
            self._push(value, flags)
            return
        place = self._place(key)
        if self.spec.type in INDEXED and int.from_bytes(key, "little") >= self.spec.max_entries:
            raise _os_error(errnos.E2BIG)
        exists = place in elements or self._is_zero(key)
        if flags == BPF_NOEXIST and exists:
            raise _os_error(errnos.EEXIST)
        if flags == BPF_EXIST and not exists:
            raise _os_error(errnos.ENOENT)
        if not exists:
            self._make_room()
        elements[place] = self._reference(value)
        if self.spec.type in _LRU:
            self._store.used[place] = next(_numbers)

    def _call_delete(self, key: bytes) -> None:
        if self.spec.type in _QUEUES or (self.spec.type in INDEXED and not self._of_references()):
            raise _os_error(errnos.EINVAL)
        place = self._place(key)
        if place not in self._elements:
            raise _os_error(errnos.ENOENT)
        del self._elements[place]

    def _call_take(self, key: bytes) -> bytes:
        if self.spec.type not in _QUEUES:
            raise _os_error(errnos.EOPNOTSUPP)
        return self._elements.pop(self._found(key))

    def _call_next_key(self, key: bytes | None) -> bytes | None:
        keys = list(self._elements)
        if self.spec.type in _QUEUES:
            raise _os_error(errnos.EINVAL)
        if self.spec.type in INDEXED:
            index = -1 if key is None else int.from_bytes(key, "little")
            if index == self.spec.max_entries - 1:
                return None
            following = index + 1 if index < self.spec.max_entries else 0
            return following.to_bytes(4, "little")
        place = None if key is None else self._place(key)
        at = keys.index(place) + 1 if place in self._elements else 0
        return keys[at] if at < len(keys) else None

    def _call_batch(self, batch: Batch) -> tuple[int, int]:
        del batch
        return errnos.EOPNOTSUPP, 0

    def _found(self, key: bytes) -> bytes:
        """Where the element of ``key`` is."""
        elements = self._elements
        if self.spec.type in _QUEUES:
            order = list(elements)
            if not order:
                raise _os_error(errnos.ENOENT)
            return order[0 if self.spec.type == "queue" else -1]
        if self.spec.type == "lpm_trie":
            return self._longest(key)
        if key not in elements:
            raise _os_error(errnos.ENOENT)
        if self.spec.type in _LRU:
            self._store.used[key] = next(_numbers)
        return key

    def _place(self, key: bytes) -> bytes:
        """Where ``key`` would be kept: bits beyond the prefix of an LPM trie do not count."""
        if self.spec.type != "lpm_trie":
            return key
        length, bits = int.from_bytes(key[:4], "little"), 8 * (len(key) - 4)
        if length > bits:
            raise _os_error(errnos.EINVAL)
        address = int.from_bytes(key[4:], "big") >> (bits - length) << (bits - length)
        return key[:4] + address.to_bytes(len(key) - 4, "big")

    def _longest(self, key: bytes) -> bytes:
        self._place(key)
        for length in range(int.from_bytes(key[:4], "little"), -1, -1):
            place = self._place(length.to_bytes(4, "little") + key[4:])
            if place in self._elements:
                return place
        raise _os_error(errnos.ENOENT)

    def _is_zero(self, key: bytes) -> bool:
        """An array has all of its elements: those never written are zero."""
        return (
            self.spec.type in INDEXED
            and not self._of_references()
            and key not in self._elements
            and int.from_bytes(key, "little") < self.spec.max_entries
        )

    def _zero(self) -> bytes:
        return bytes(self.value_octets)

    def _make_room(self) -> None:
        elements = self._elements
        if len(elements) < self.spec.max_entries:
            return
        if self.spec.type in _LRU:
            # Order of use is kept apart: a look-up does not move a key in the walk's order.
            del elements[min(elements, key=lambda key: self._store.used.get(key, 0))]
        elif self.spec.type not in INDEXED:
            raise _os_error(errnos.ENOSPC if self.spec.type == "lpm_trie" else errnos.E2BIG)

    def _push(self, value: bytes, flags: int) -> None:
        elements = self._elements
        if flags == BPF_NOEXIST:
            raise _os_error(errnos.EINVAL)
        if len(elements) >= self.spec.max_entries:
            if flags != BPF_EXIST:
                raise _os_error(errnos.E2BIG)
            del elements[next(iter(elements))]
        elements[next(_numbers).to_bytes(8, "big")] = value

    def _of_references(self) -> bool:
        return self.spec.type in OF_MAPS | _PROGRAMS

    def _reference(self, value: bytes) -> bytes:
        """Written is a descriptor, read an id."""
        if not self._of_references():
            return value
        number = KERNEL.open.get(int.from_bytes(value, "little"))
        if number is None:
            raise _os_error(errnos.EBADF)
        if (number in KERNEL.maps) != (self.spec.type in OF_MAPS):
            raise _os_error(errnos.EINVAL)
        return number.to_bytes(4, "little")


class FakeProgram(Program):
    """
    A program in memory: a Python function of a packet.

    Args:
        spec: What it is called.
        run: Takes a frame, gives the return value.
    """

    def __init__(self, spec: ProgramSpec, run: Callable[[bytes], int] = lambda _: 0) -> None:
        self.number = next(_numbers)
        self.runs = 0
        self._run = run
        super().__init__(KERNEL.descriptor(self.number), spec)

    def close(self) -> None:
        """Give the descriptor back. Again is fine."""
        KERNEL.open.pop(self.fd, None)
        self.fd = -1

    def info(self) -> ProgramInfo:
        """As :meth:`Program.info`. What only a kernel has is zero."""
        self._require_open("inspect")
        return ProgramInfo(self.number, self.spec.name[:15], self.spec.type, "0" * 16, 0, 0, 0, 0)

    def test_run(
        self,
        packet: bytes,
        repeat: int = 1,
        cb: Sequence[int] = (),
        *,
        context: SkbContext | XdpContext | None = None,
    ) -> TestRun:
        """
        As :meth:`Program.test_run`: packet and context come back as they were, and ``cb`` is
        ignored. A frame has at least 14 octets.
        """
        del cb
        self._require_open("test-run")
        if len(packet) < 14:
            raise _refused(f"test-run program {self.spec.name}", errnos.EINVAL)
        retval = 0
        for _ in range(repeat):
            retval = self._run(packet)
            self.runs += 1
        return TestRun(retval, 0, packet, len(packet), context)

    def pin(self, path: Path) -> None:
        """Not faked: a program's pin is for other processes. Raises BpfError, EPERM."""
        raise _refused(f"pin program {self.spec.name} at {path}", errnos.EPERM)

    def maps(self) -> tuple[Map, ...]:
        """None: a function of the packet names no maps."""
        return ()

    def _require_open(self, verb: str) -> None:
        if self.fd < 0:
            raise _refused(f"{verb} program {self.spec.name}", errnos.EBADF)


class FakeObject(Object):
    """
    An object in memory: its maps and programs by name, closed with it.

    Make one of an object file's specification with :meth:`of`, or of fakes.
    """

    @classmethod
    def of(
        cls,
        spec: ObjectSpec,
        *,
        max_entries: Mapping[str, int] | None = None,
        run: Mapping[str, Callable[[bytes], int]] | None = None,
    ) -> FakeObject:
        """
        What loading ``spec`` would give, as far as it can be faked; its other maps are left out.

        Args:
            spec: An object file's.
            max_entries: Sizes of maps, by name, instead of the file's.
            run: What programs do, by name; the others return 0.

        Raises:
            BpfError: If a name is not in the object.
        """
        sizes, functions = max_entries or {}, run or {}
        known = {m.name for m in spec.maps} | {p.name for p in spec.programs}
        for name in (*sizes, *functions):
            if name not in known:
                raise _refused(f"load {spec.path.name}", 0, f"it has nothing named {name}")
        return cls(
            {
                found.name: FakeMap(
                    MapSpec(
                        found.name[:15],
                        found.type,
                        found.key_size,
                        found.value_size,
                        sizes.get(found.name, found.max_entries),
                        found.flags,
                    )
                )
                for found in spec.maps
                if found.type in TYPES - OF_MAPS
            },
            {
                found.name: FakeProgram(found, functions.get(found.name, lambda _: 0))
                for found in spec.programs
            },
        )


def _os_error(errno: int) -> OSError:
    return OSError(errno, os.strerror(errno))


def _refused(phase: str, errno: int, detail: str = "") -> BpfError:
    return BpfError(phase, errno, detail)
