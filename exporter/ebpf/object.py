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
from exporter.ebpf.maps import TYPES as MAP_TYPES
from exporter.ebpf.maps import Map, MapSpec
from exporter.ebpf.programs import TYPES as PROGRAM_TYPES
from exporter.ebpf.programs import Program, ProgramSpec

#: Constants of the program: ``const volatile`` globals live here.
_RODATA = ".rodata"
#: Grown until the verifier's log fits; the kernel's limit is UINT_MAX >> 2.
_LOG_OCTETS = (1 << 16, 1 << 24)


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
    def load(
        cls,
        spec: ObjectSpec,
        *,
        settings: Mapping[str, int] | None = None,
        max_entries: Mapping[str, int] | None = None,
        share: Mapping[str, Map] | None = None,
        programs: Sequence[str] | None = None,
    ) -> Object:
        """
        Bring an object into the kernel.

        Args:
            spec: What to load.
            settings: Values of ``const volatile`` globals; those not named keep the file's value.
            max_entries: Sizes of maps, by name, instead of the file's.
            share: Maps, by name, that are used instead of new ones. They stay their owner's.
            programs: Load only these; all if ``None``.

        Raises:
            VerifierError: If the kernel's verifier refuses a program.
            FeatureMissing: If libbpf is not installed.
            BpfError: If the kernel refuses otherwise, or a name is not in the object.
        """
        for log_octets in _LOG_OCTETS:
            with _Handle(spec.path) as handle:
                handle.set_variables(spec, settings or {})
                handle.size_maps(max_entries or {})
                handle.share_maps(share or {})
                handle.choose_programs(programs)
                if not handle.load(log_octets):
                    continue
                return cls(
                    handle.duplicate_maps(exclude=set(share or {})),
                    handle.duplicate_programs(programs),
                )
        raise VerifierError(f"load {spec.path.name}", errno.ENOSPC, "")


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
                    type=PROGRAM_TYPES.get(kind, str(kind)),
                    instructions=self._lib.bpf_program__insn_cnt(handle),
                ),
            )

    def set_variables(self, spec: ObjectSpec, settings: Mapping[str, int]) -> None:
        if not settings:
            return
        places = {variable.name: variable for variable in spec.variables}
        rodata = next(h for h, m in self.maps() if m.name == _RODATA)
        size = _libbpf.u64()
        pointer = self._lib.bpf_map__initial_value(rodata, _libbpf.ref(size))
        content = bytearray(_libbpf.copy(pointer, size.value))
        for name, value in settings.items():
            place = self._named(places, name, "setting")
            content[place.offset : place.offset + place.size] = value.to_bytes(place.size, "little")
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

    def load(self, log_octets: int) -> bool:
        """
        Load. libbpf fills the log buffers only if a program is refused.

        Returns:
            False if a program was refused and its log does not fit: try again with more.
        """
        logs = {}
        for handle, spec in self.programs():
            logs[spec.name] = bytearray(log_octets)
            log = _libbpf.address(logs[spec.name])
            self._lib.bpf_program__set_log_buf(handle, log, log_octets)
        try:
            self._lib.bpf_object__load(self._object)
        except OSError as err:
            refused = {name: log for name, log in logs.items() if log[0]}
            if not refused:
                raise BpfError(f"load {self._path.name}", err.errno or 0) from err
            if err.errno == errno.ENOSPC and log_octets < _LOG_OCTETS[-1]:
                return False
            name, log = refused.popitem()
            text = log.split(b"\0", 1)[0].decode(errors="replace")
            raise VerifierError(f"load program {name}", err.errno or 0, text) from err
        return True

    def duplicate_maps(self, exclude: set[str]) -> dict[str, Map]:
        # The object's own descriptors close with it.
        return {
            spec.name: Map(os.dup(self._lib.bpf_map__fd(handle)), spec)
            for handle, spec in self.maps()
            if spec.name not in exclude
        }

    def duplicate_programs(self, names: Sequence[str] | None) -> dict[str, Program]:
        return {
            spec.name: Program(os.dup(self._lib.bpf_program__fd(handle)), spec)
            for handle, spec in self.programs()
            if names is None or spec.name in names
        }

    def _named(self, table: Mapping[str, Any], name: str, kind: str) -> Any:
        try:
            return table[name]
        except KeyError:
            raise BpfError(f"load {self._path.name}", 0, f"it has no {kind} named {name}") from None


def _section_free(name: str) -> str:
    """Libbpf prefixes a section's map with the object's name, cut to fit: flow.rodata."""
    return name[name.rindex(".") :] if "." in name else name
