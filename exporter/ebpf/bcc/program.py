"""
From instructions that BCC compiled to maps and programs in the kernel.

What comes of it is an :class:`~exporter.ebpf.object.Object` like that of the other loader.
"""

from __future__ import annotations

import errno as errnos
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from exporter.ebpf import _libbpf, kinds
from exporter.ebpf.bcc.compiler import Compiled
from exporter.ebpf.btf import Int
from exporter.ebpf.errors import BpfError, FeatureMissing, VerifierError
from exporter.ebpf.instructions import OCTETS, replaced
from exporter.ebpf.maps import Map, MapSpec
from exporter.ebpf.object import Object
from exporter.ebpf.programs import Program, ProgramSpec
from exporter.ebpf.settings import SettingError, encode

_NAME_OCTETS = 15
#: Type of program by the first word of its section, for those that need nothing but a type.
#: Source: libbpf src/libbpf.c section_defs.
_SECTIONS = {
    "socket": "socket_filter",
    "tc": "sched_cls",
    "tcx": "sched_cls",
    "classifier": "sched_cls",
    "kprobe": "kprobe",
    "kretprobe": "kprobe",
    "uprobe": "kprobe",
    "uretprobe": "kprobe",
    "tracepoint": "tracepoint",
    "tp": "tracepoint",
    "xdp": "xdp",
}
_LOG_OCTETS = (1 << 16, 1 << 24)


def load(
    compiled: Compiled,
    *,
    settings: Mapping[str, int] | None = None,
    max_entries: Mapping[str, int] | None = None,
    share: Mapping[str, Map] | None = None,
    programs: Sequence[str] | None = None,
) -> Object:
    """
    Bring a compiled source into the kernel, as often as wanted.

    Args:
        compiled: What to load.
        settings: Values of settings, as unsigned numbers; those not named keep the source's.
        max_entries: Sizes of maps, by name, instead of the source's.
        share: Maps, by name, that are used instead of new ones. They stay their owner's.
        programs: Load only these; all if ``None``.

    Raises:
        VerifierError: If the kernel's verifier refuses a program.
        FeatureMissing: If libbpf is not installed.
        BpfError: If the kernel refuses otherwise, or a name is not in the source.
    """
    try:
        _libbpf.library()
    except _libbpf.MissingLibrary as err:
        raise FeatureMissing(
            "load libbpf", 0, f"{err}: install it (Debian: apt install libbpf1)"
        ) from err
    sections = dict(compiled.source.programs)
    sizes, shared = max_entries or {}, share or {}
    names = [spec.name for spec in compiled.maps]
    _require_known(compiled, "setting", settings or {}, [s.name for s in compiled.settings])
    _require_known(compiled, "map", [*sizes, *shared], names)
    _require_known(compiled, "program", programs or (), list(sections))
    with ExitStack() as undo:
        maps: dict[str, Map] = {}
        for spec in compiled.maps:
            if spec.name not in shared:
                size = sizes.get(spec.name, spec.max_entries)
                made = _create(spec, size, compiled.inner.get(spec.name))
                maps[spec.name] = undo.enter_context(made)
        _fill(compiled, {**shared, **maps})
        values = _values(compiled, {**shared, **maps}, settings or {})
        loaded = {
            name: undo.enter_context(_load(compiled, name, section, values))
            for name, section in sections.items()
            if programs is None or name in programs
        }
        undo.pop_all()
    return Object(maps, loaded)


def _require_known(
    compiled: Compiled, kind: str, wanted: Sequence[str] | Mapping[str, int], known: list[str]
) -> None:
    for name in wanted:
        if name not in known:
            raise BpfError(f"load {compiled.source.name}", 0, f"it has no {kind} named {name}")


def _create(spec: MapSpec, entries: int, inner: MapSpec | None) -> Map:
    """A new map in the kernel; of a map of maps, with elements that look like ``inner``."""
    short = spec.name.encode()[:_NAME_OCTETS].decode(errors="ignore")
    made = Map.create(replace(spec, name=short, max_entries=entries, inner=inner))
    made.spec = replace(spec, max_entries=entries)
    return made


def _fill(compiled: Compiled, maps: Mapping[str, Map]) -> None:
    """Put the maps that a map of maps begins with into its slots."""
    for declared in compiled.source.maps:
        for slot, name in declared.values:
            if name not in maps:
                raise BpfError(f"load {compiled.source.name}", 0, f"it has no map named {name}")
            maps[declared.name].update(
                slot.to_bytes(4, "little"), maps[name].fd.to_bytes(4, "little")
            )


def _values(
    compiled: Compiled, maps: Mapping[str, Map], settings: Mapping[str, int]
) -> dict[int, int]:
    """What belongs into the instructions, by what stands there."""
    places = compiled.source.places()
    values = {places[name]: owned.fd for name, owned in maps.items()}
    for setting in compiled.settings:
        value = settings.get(setting.name, setting.value)
        try:
            octets = encode(Int(setting.size, signed=False), setting.size, value)
        except SettingError as err:
            raise BpfError(f"set {setting.name}", errnos.EINVAL, str(err)) from err
        values[places[setting.name]] = int.from_bytes(octets, "little")
    return values


def _load(compiled: Compiled, name: str, section: str, values: Mapping[int, int]) -> Program:
    kind = _SECTIONS.get(section.partition("/")[0])
    if kind is None:
        raise BpfError(f"load program {name}", 0, f"BCC's loader knows no section {section}")
    code = replaced(compiled.programs[name], values)
    number = kinds.number_of(kinds.PROGRAM_TYPES, kind)
    spec = ProgramSpec(name, section, kind, len(code) // OCTETS)
    options = _libbpf.sized(_libbpf.ProgramLoadOptions)
    for octets in _LOG_OCTETS:
        log = bytearray(octets)
        # Filled only if the program is refused: libbpf then loads it again with a log.
        options.log_buf, options.log_size = _libbpf.address(log).value, octets
        try:
            fd = _libbpf.library().bpf_prog_load(
                number,
                name.encode()[:_NAME_OCTETS],
                compiled.source.licence.encode(),
                _libbpf.address(code),
                spec.instructions,
                _libbpf.ref(options),
            )
        except OSError as err:
            if err.errno == errnos.ENOSPC and octets < _LOG_OCTETS[-1]:
                continue
            text = log.split(b"\0", 1)[0].decode(errors="replace")
            if not text:
                raise BpfError(f"load program {name}", err.errno or 0) from err
            raise VerifierError(f"load program {name}", err.errno or 0, text) from err
        return Program(fd, spec)
    raise AssertionError("the last log is not tried again")
