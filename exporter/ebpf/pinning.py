"""
Objects that outlive the process: names for maps, programs and links in a BPF file system.

A pin is a reference like a descriptor: the object stays until its last one is gone. A pin that does
not fit is never thrown away here: it is an error that says how it differs, and ``ebpf.migration``
is how to replace it. Names in bpffs may not contain a dot.

Source: kernel/bpf/inode.c; Documentation/filesystems/mount_api.rst; proc(5) on mountinfo.
"""

from __future__ import annotations

import enum
import errno as errnos
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from exporter.ebpf import _libbpf
from exporter.ebpf.errors import BpfError, PinIncompatible, PinMissing
from exporter.ebpf.maps import TYPES, Map, MapSpec
from exporter.ebpf.programs import Program

log = logging.getLogger(__name__)

#: Where distributions mount bpffs.
DEFAULT_ROOT = Path("/sys/fs/bpf")
#: Where it is mounted if something else sits at the default.
FALLBACK_ROOT = Path("/run/flow-exporter/bpffs")

_MOUNTINFO = Path("/proc/self/mountinfo")
_KIND = "bpf"
_NO_PREALLOC, _RDONLY_PROG = 1, 1 << 7
_ADJUSTABLE = frozenset({"hash", "percpu_hash", "hash_of_maps"})
#: The kernel itself adds BPF_F_RDONLY_PROG to them: kernel/bpf/devmap.c dev_map_init_map().
_DEVICE_MAPS = frozenset({"devmap", "devmap_hash", "14", "25"})


@dataclass(frozen=True)
class Mount:
    """A file system at its mount point. ``kind`` as in /proc/filesystems."""

    point: Path
    kind: str


class Preallocation(enum.Enum):
    """Whether a hash map's elements are allocated with the map, or one by one when inserted."""

    AT_CREATION = "at creation"
    ON_DEMAND = "on demand"


def map_flags(kind: str, policy: Preallocation) -> int:
    """
    The creation flags that a policy means for a type of map.

    LPM tries can only be allocated on demand; types other than hashes have no choice: 0.

    Source: kernel/bpf/lpm_trie.c trie_alloc(); kernel/bpf/hashtab.c htab_map_alloc_check().
    """
    if kind == "lpm_trie":
        return _NO_PREALLOC
    if kind not in _ADJUSTABLE:
        return 0
    return _NO_PREALLOC if policy is Preallocation.ON_DEMAND else 0


def mounts(table: Path = _MOUNTINFO) -> list[Mount]:
    """Every mount that this process sees, a later one on top of an earlier one. Raises OSError."""
    found = []
    for line in table.read_text().splitlines():
        words = line.split(" ")
        point = words[4].encode().decode("unicode_escape").encode("latin-1")
        found.append(Mount(Path(os.fsdecode(point)), words[words.index("-") + 1]))
    return found


def in_bpffs(path: Path) -> bool:
    """Whether what is, or would be, at an absolute path lies in a BPF file system."""
    real = path.resolve()
    holds = [mount for mount in mounts() if real.is_relative_to(mount.point)]
    # The deepest one, and of several at one point the last: it hides the others.
    deepest = max((len(mount.point.parts) for mount in holds), default=0)
    kinds = [mount.kind for mount in holds if len(mount.point.parts) == deepest]
    return kinds[-1:] == [_KIND]


def ensure_bpffs(root: Path | None = None) -> Path:
    """
    Have a BPF file system, mounting one if need be. Again is fine.

    Args:
        root: Its mount point; ``None`` is :data:`DEFAULT_ROOT`, or :data:`FALLBACK_ROOT` with a
            warning if another file system sits at the default.

    Returns:
        The mount point.

    Raises:
        BpfError: If another file system is mounted at the root, or more than one, or if mounting
            is not allowed.
    """
    if root is None:
        there = _kinds(DEFAULT_ROOT)
        if not there or there[-1] == _KIND:
            return _ensure(DEFAULT_ROOT)
        log.warning(
            "a file system of type %s is mounted at %s: using %s instead",
            there[-1],
            DEFAULT_ROOT,
            FALLBACK_ROOT,
        )
        return _ensure(FALLBACK_ROOT)
    return _ensure(root)


def local_name(name: str, number: int) -> str:
    """A pin's name for one of several: ``name`` and five digits."""
    return f"{name}{number:05d}"


def pin(owned: Map | Program, path: Path) -> None:
    """
    Give an object a name. The caller's handle stays the caller's.

    Raises:
        BpfError: EEXIST if the name is taken; ENOENT without its directory; EPERM if the name has
            a dot or the directory is not in bpffs.
    """
    pin_fd(owned.fd, path)


def pin_fd(fd: int, path: Path) -> None:
    """As :func:`pin`, for any BPF descriptor."""
    try:
        _libbpf.library().bpf_obj_pin(fd, os.fsencode(path))
    except OSError as err:
        raise BpfError(f"pin {path}", err.errno or 0) from err


def open_fd(path: Path) -> int:
    """
    A new descriptor of what is pinned.

    Raises:
        PinMissing: If nothing is.
        BpfError: If it may not be opened, or is no BPF object.
    """
    try:
        return int(_libbpf.library().bpf_obj_get(os.fsencode(path)))
    except OSError as err:
        if err.errno == errnos.ENOENT:
            raise PinMissing(f"open pin {path}", errnos.ENOENT) from err
        raise BpfError(f"open pin {path}", err.errno or 0) from err


def open_map(path: Path) -> Map:
    """The map that is pinned at a path; its spec is what the kernel says. Raises as open_fd."""
    fd = open_fd(path)
    try:
        return Map(fd, spec_of(fd))
    except OSError as err:
        os.close(fd)
        raise BpfError(f"inspect pin {path}", err.errno or 0, "is it a map?") from err


def open_program(path: Path) -> Program:
    """The program that is pinned at a path. Raises as open_fd."""
    fd = open_fd(path)
    try:
        return Program.from_fd(fd)
    except BpfError as err:
        raise BpfError(f"inspect pin {path}", err.errno, "is it a program?") from err
    finally:
        os.close(fd)


def unpin(path: Path) -> bool:
    """
    Take a name away; the object lives on while somebody else refers to it.

    Returns:
        Whether there was one.

    Raises:
        BpfError: If it may not be removed.
    """
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as err:
        raise BpfError(f"unpin {path}", err.errno or 0) from err
    return True


def remove(directory: Path) -> None:
    """
    Take away a directory of pins with all that is in it. One that is not there is fine.

    Raises:
        BpfError: If something may not be removed.
    """
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except OSError as err:
        raise BpfError(f"remove {directory}", err.errno or 0) from err


def spec_of(fd: int) -> MapSpec:
    """What the kernel says of a map. Raises OSError if the descriptor is not of a map."""
    _require_kind(fd, "bpf-map")
    raw = _libbpf.info(_libbpf.MapInfo, fd)
    return MapSpec(
        name=raw.name.decode(),
        type=TYPES.get(raw.type, str(raw.type)),
        key_size=raw.key_size,
        value_size=raw.value_size,
        max_entries=raw.max_entries,
        flags=raw.map_flags,
    )


def create(spec: MapSpec) -> Map:
    """
    Make a map that nobody else knows. Its name is cut to the kernel's 15 octets.

    Raises:
        BpfError: If the kernel refuses it.
    """
    numbers = {name: number for number, name in TYPES.items()}
    options = _libbpf.sized(_libbpf.MapCreateOptions)
    options.map_flags = spec.flags
    try:
        fd = _libbpf.library().bpf_map_create(
            numbers[spec.type] if spec.type in numbers else int(spec.type),
            spec.name.encode()[:15],
            spec.key_size,
            spec.value_size,
            spec.max_entries,
            _libbpf.ref(options),
        )
    except OSError as err:
        raise BpfError(f"create map {spec.name}", err.errno or 0) from err
    return Map(int(fd), spec)


def differences(pinned: MapSpec, wanted: MapSpec) -> list[str]:
    """
    What keeps a pinned map from being used as the wanted one: type, sizes, flags.

    Returns:
        One text for each property that differs; empty if it fits.
    """
    tolerated = _RDONLY_PROG if wanted.type in _DEVICE_MAPS else 0
    found = []
    for name in ("type", "key_size", "value_size", "max_entries", "flags"):
        ours, theirs = getattr(wanted, name), getattr(pinned, name)
        if name == "flags":
            ours, theirs = ours & ~tolerated, theirs & ~tolerated
        if ours != theirs:
            found.append(f"{name}: pinned {theirs}, wanted {ours}")
    return found


def open_or_create(path: Path, spec: MapSpec) -> Map:
    """
    The map that is pinned at a path, or a new one that is pinned there.

    Args:
        path: Its directory is made if it is missing.
        spec: What the map must be, but for its name.

    Raises:
        PinIncompatible: If what is pinned is something else. It stays as it is.
        BpfError: If the kernel refuses.
    """
    try:
        found = open_map(path)
    except PinMissing:
        return _create_at(path, spec)
    differing = differences(found.spec, spec)
    if differing:
        found.close()
        raise PinIncompatible(f"use the map pinned at {path}", differing)
    return found


def recreate(path: Path, spec: MapSpec) -> Map:
    """
    A new, empty map pinned at a path, whatever was pinned there; who holds that keeps it.

    Raises:
        BpfError: If the kernel refuses; the old pin stays then.
    """
    beside = path.with_name(path.name + ":new")
    unpin(beside)
    made = _create_at(beside, spec)
    try:
        beside.replace(path)
    except OSError as err:
        made.close()
        unpin(beside)
        raise BpfError(f"pin {path}", err.errno or 0) from err
    return made


def _require_kind(fd: int, kind: str) -> None:
    """The kernel would describe any object: its structs begin alike."""
    if not Path(f"/proc/self/fd/{fd}").readlink().name.endswith(kind):
        raise OSError(errnos.EINVAL, f"not a {kind}")


def _create_at(path: Path, spec: MapSpec) -> Map:
    made = create(spec)
    try:
        _pin_at(path, made)
    except BpfError:
        made.close()
        raise
    return made


def _pin_at(path: Path, made: Map) -> None:
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as err:
        raise BpfError(f"make {path.parent}", err.errno or 0) from err
    pin(made, path)


def _kinds(point: Path) -> list[str]:
    return [mount.kind for mount in mounts() if mount.point == point]


def _ensure(root: Path) -> Path:
    there = _kinds(root)
    if not there:
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _libbpf.mount(_KIND, str(root), "mode=700")
        except OSError as err:
            advice = f"that needs CAP_SYS_ADMIN: run 'mount -t bpf bpf {root}' before"
            refused = err.errno == errnos.EPERM
            raise BpfError(
                f"mount a BPF file system at {root}", err.errno or 0, advice if refused else ""
            ) from err
        log.info("mounted a BPF file system at %s", root)
        there = _kinds(root)
    if there[-1:] != [_KIND]:
        kind = there[-1] if there else "none"
        raise BpfError(
            f"use {root}", 0, f"a file system of type {kind} is mounted there, not a BPF one"
        )
    if len(there) > 1:
        raise BpfError(
            f"use {root}", 0, f"{len(there)} file systems are mounted there: unmount all but one"
        )
    return root
