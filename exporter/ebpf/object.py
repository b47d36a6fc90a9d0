"""
From an object file to maps and programs in the kernel, through libbpf.

Two things, kept apart: :class:`ObjectSpec` is what the file says, equal on any machine;
:class:`Object` is what the kernel holds after a load.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from exporter.ebpf import _libbpf
from exporter.ebpf.btf import Btf, Variable
from exporter.ebpf.errors import BpfError, FeatureMissing, VerifierError
from exporter.ebpf.kinds import program_type
from exporter.ebpf.maps import TYPES as MAP_TYPES
from exporter.ebpf.maps import Map, MapSpec
from exporter.ebpf.programs import Program, ProgramSpec
from exporter.ebpf.settings import Setting, SettingError, encode

#: Constants of the program: ``const volatile`` globals live here.
_RODATA = ".rodata"
#: The kernel takes no smaller and no larger log: kernel/bpf/log.c bpf_verifier_log_attr_valid().
_LOG_LEAST, _LOG_MOST = 128, (1 << 30) - 1


@dataclass(frozen=True)
class ObjectSpec:
    """
    What an object file says: its maps, programs and ``const volatile`` settings, and its types.
    """

    path: Path
    maps: tuple[MapSpec, ...]
    programs: tuple[ProgramSpec, ...]
    variables: tuple[Variable, ...]
    btf_bytes: bytes

    @classmethod
    def open(cls, path: Path) -> ObjectSpec:
        """
        Read an object file. Nothing enters the kernel.

        Raises:
            FeatureMissing: If libbpf is not installed.
            BpfError: If the file is missing, or not an object that libbpf understands.
        """
        with _Handle(path) as handle:
            btf_bytes = handle.btf_bytes()
            return cls(
                path=path,
                maps=tuple(spec for _, spec in handle.maps()),
                programs=tuple(spec for _, spec in handle.programs()),
                variables=tuple(
                    v for v in Btf.parse(btf_bytes).variables() if v.section == _RODATA
                ),
                btf_bytes=btf_bytes,
            )

    @property
    def btf(self) -> Btf:
        """The object's types."""
        return Btf.parse(self.btf_bytes)


@dataclass(frozen=True)
class Log:
    """
    The verifier's log. That of a refused program is always kept, whatever ``level`` is.

    Args:
        level: Of programs that are accepted: 0 nothing, 2 every instruction with its state; 1 and 4
            only statistics: 4 may be added to others, and 1 is what refused programs are given.
        octets: Room to begin with, for each program; grown until the log fits. At least 128.
    """

    level: int = 0
    octets: int = 1 << 16


class Object:
    """
    An object in the kernel: owns its maps and programs, and gives them back on ``close``.

    Make one with :meth:`load`.
    """

    def __init__(self, maps: Mapping[str, Map], programs: Mapping[str, Program]) -> None:
        self.maps = dict(maps)
        self.programs = dict(programs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every program and map. Again is fine."""
        for program in self.programs.values():
            program.close()
        for owned in self.maps.values():
            owned.close()

    @classmethod
    def load(  # noqa: PLR0913 - one place for all that can be said before a load
        cls,
        spec: ObjectSpec,
        *,
        settings: Mapping[str, Setting] | None = None,
        max_entries: Mapping[str, int] | None = None,
        share: Mapping[str, Map] | None = None,
        programs: Sequence[str] | None = None,
        log: Log = Log(),
    ) -> Object:
        """
        Bring an object into the kernel. Each load is one of its own.

        Args:
            spec: What to load.
            settings: Values of ``const volatile`` globals, as
                :func:`exporter.ebpf.settings.encode` takes them; those not named keep the file's.
            max_entries: Sizes of maps, by name, instead of the file's.
            share: Maps, by name, that are used instead of new ones. They stay their owner's.
            programs: Load only these; all if ``None``.
            log: What the verifier writes down of programs that it accepts.

        Raises:
            VerifierError: If the kernel's verifier refuses a program.
            FeatureMissing: If libbpf is not installed.
            BpfError: If the kernel refuses otherwise, a name is not in the object, or a value does
                not fit its setting.
        """
        rooms: dict[str, int] = {}
        while True:
            with _Handle(spec.path) as handle:
                handle.set_variables(spec, settings or {})
                handle.size_maps(max_entries or {})
                handle.share_maps(share or {})
                handle.choose_programs(programs)
                logs = handle.load(log, rooms)
                if logs is None:
                    continue
                loaded = cls({}, {})
                try:
                    loaded.maps.update(handle.duplicate_maps(exclude=set(share or {})))
                    loaded.programs.update(handle.duplicate_programs(programs, logs))
                except OSError as err:
                    loaded.close()
                    raise BpfError(f"load {spec.path.name}", err.errno or 0) from err
                return loaded


class _Handle:
    """A ``struct bpf_object *`` for the length of a block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._object: Any = None
        try:
            self._lib = _libbpf.library()
        except _libbpf.MissingLibrary as err:
            raise FeatureMissing(
                "load libbpf", 0, f"{err}: install it (Debian: apt install libbpf1)"
            ) from err

    def __enter__(self) -> Self:
        try:
            self._object = self._lib.bpf_object__open_file(os.fsencode(self._path), None)
        except OSError as err:
            raise BpfError(f"open {self._path}", err.errno or 0) from err
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.bpf_object__close(self._object)

    def btf_bytes(self) -> bytes:
        size = _libbpf.u32()
        try:
            btf = self._lib.bpf_object__btf(self._object)
        except OSError as err:
            raise BpfError(
                f"read types of {self._path}", err.errno or 0, "compile it with -g"
            ) from err
        return _libbpf.copy(self._lib.btf__raw_data(btf, _libbpf.ref(size)), size.value)

    def maps(self) -> Iterator[tuple[Any, MapSpec]]:
        handle = None
        while handle := self._lib.bpf_object__next_map(self._object, handle):
            kind = self._lib.bpf_map__type(handle)
            yield (
                handle,
                MapSpec(
                    name=_section_free(self._lib.bpf_map__name(handle).decode()),
                    type=MAP_TYPES.get(kind, str(kind)),
                    key_size=self._lib.bpf_map__key_size(handle),
                    value_size=self._lib.bpf_map__value_size(handle),
                    max_entries=self._lib.bpf_map__max_entries(handle),
                    flags=self._lib.bpf_map__map_flags(handle),
                ),
            )

    def programs(self) -> Iterator[tuple[Any, ProgramSpec]]:
        handle = None
        while handle := self._lib.bpf_object__next_program(self._object, handle):
            kind = self._lib.bpf_program__type(handle)
            yield (
                handle,
                ProgramSpec(
                    name=self._lib.bpf_program__name(handle).decode(),
                    section=self._lib.bpf_program__section_name(handle).decode(),
                    type=program_type(kind),
                    instructions=self._lib.bpf_program__insn_cnt(handle),
                ),
            )

    def set_variables(self, spec: ObjectSpec, settings: Mapping[str, Setting]) -> None:
        if not settings:
            return
        places = {variable.name: variable for variable in spec.variables}
        for name in settings:
            self._named(places, name, "setting")
        rodata = next(h for h, m in self.maps() if m.name == _RODATA)
        size = _libbpf.u64()
        pointer = self._lib.bpf_map__initial_value(rodata, _libbpf.ref(size))
        content = bytearray(_libbpf.copy(pointer, size.value))
        for name, value in settings.items():
            place = slice(places[name].offset, places[name].offset + places[name].size)
            kind = spec.btf.variable_type(name)
            try:
                content[place] = encode(kind, places[name].size, value, bytes(content[place]))
            except SettingError as err:
                raise BpfError(f"set {name} of {self._path.name}", errno.EINVAL, str(err)) from err
        self._lib.bpf_map__set_initial_value(rodata, _libbpf.address(content), len(content))

    def size_maps(self, max_entries: Mapping[str, int]) -> None:
        handles = {spec.name: handle for handle, spec in self.maps()}
        for name, count in max_entries.items():
            self._lib.bpf_map__set_max_entries(self._named(handles, name, "map"), count)

    def share_maps(self, share: Mapping[str, Map]) -> None:
        handles = {spec.name: handle for handle, spec in self.maps()}
        for name, shared in share.items():
            try:
                self._lib.bpf_map__reuse_fd(self._named(handles, name, "map"), shared.fd)
            except OSError as err:
                raise BpfError(f"share map {name}", err.errno or 0) from err

    def choose_programs(self, names: Sequence[str] | None) -> None:
        if names is None:
            return
        handles = {spec.name: handle for handle, spec in self.programs()}
        for name in names:
            self._named(handles, name, "program")
        for name, handle in handles.items():
            self._lib.bpf_program__set_autoload(handle, name in names)

    def load(self, wanted: Log, rooms: dict[str, int]) -> dict[str, str] | None:
        """
        Load. Without a level, libbpf fills the log buffers only if a program is refused.

        Args:
            wanted: What is to be logged.
            rooms: Octets of log by program that did not suffice; corrected here.

        Returns:
            The logs; ``None`` if one does not fit: try again.
        """
        buffers: dict[str, bytearray] = {}
        for handle, spec in self.programs():
            room = rooms.get(spec.name, max(wanted.octets, _LOG_LEAST))
            buffers[spec.name] = bytearray(room)
            self._lib.bpf_program__set_log_buf(handle, _libbpf.address(buffers[spec.name]), room)
            self._lib.bpf_program__set_log_level(handle, wanted.level)
        try:
            self._lib.bpf_object__load(self._object)
        except OSError as err:
            # Programs are loaded in order: the last that left a log is the one that failed.
            written = [name for name, buffer in buffers.items() if buffer[0]]
            if not written:
                raise BpfError(f"load {self._path.name}", err.errno or 0) from err
            name, room = written[-1], len(buffers[written[-1]])
            if err.errno == errno.ENOSPC and room < _LOG_MOST:
                # log_true_size (6.4) would say how much; libbpf 1.1 does not ask for it.
                rooms[name] = min(room * 4, _LOG_MOST)
                return None
            text = _until_nul(buffers[name])
            raise VerifierError(f"load program {name}", err.errno or 0, text) from err
        return {name: _until_nul(buffer) for name, buffer in buffers.items()}

    def duplicate_maps(self, exclude: set[str]) -> Iterator[tuple[str, Map]]:
        # The object's own descriptors close with it.
        for handle, spec in self.maps():
            if spec.name not in exclude:
                yield spec.name, Map(os.dup(self._lib.bpf_map__fd(handle)), spec)

    def duplicate_programs(
        self, names: Sequence[str] | None, logs: Mapping[str, str]
    ) -> Iterator[tuple[str, Program]]:
        for handle, spec in self.programs():
            if names is None or spec.name in names:
                fd = os.dup(self._lib.bpf_program__fd(handle))
                yield spec.name, Program(fd, spec, logs[spec.name])

    def _named(self, table: Mapping[str, Any], name: str, kind: str) -> Any:
        try:
            return table[name]
        except KeyError:
            raise BpfError(f"load {self._path.name}", 0, f"it has no {kind} named {name}") from None


def _section_free(name: str) -> str:
    """Libbpf prefixes a section's map with the object's name, cut to fit: flow.rodata."""
    return name[name.rindex(".") :] if "." in name else name


def _until_nul(buffer: bytearray) -> str:
    return bytes(buffer).split(b"\0", 1)[0].decode(errors="replace")
