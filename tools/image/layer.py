"""A directory as a layer of an OCI image: the same octets wherever and whenever it is written."""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: include/uapi/linux/capability.h
_CAPABILITIES = {
    "dac_read_search": 2,
    "net_admin": 12,
    "sys_ptrace": 19,
    "sys_admin": 21,
    "sys_resource": 24,
    "perfmon": 38,
    "bpf": 39,
}
_REVISION_2 = 0x02000000


@dataclass(frozen=True)
class Special:
    """
    What a directory of an ordinary user cannot hold.

    Args:
        owners: Path in the image -> uid and gid; others are root's.
        capabilities: Path in the image -> names that it may have (permitted, not effective).
        modes: Path in the image -> mode.
    """

    owners: Mapping[str, int] = field(default_factory=dict)
    capabilities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    modes: Mapping[str, int] = field(default_factory=dict)


def write(root: Path, target: Path, special: Special, modified: int = 0) -> None:
    """
    Write everything below a directory into a tar archive.

    Args:
        root: The directory; who owns its files and when they changed does not matter.
        target: The archive.
        special: What some of them have.
        modified: The time of every file, in Unix seconds.
    """
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            entry = archive.gettarinfo(path, name)
            entry.uid = entry.gid = special.owners.get(name, 0)
            entry.uname = entry.gname = ""
            entry.mtime = modified
            # No set-user-ID, and nobody but root writes; what may be run may be run by all.
            entry.mode = special.modes.get(name, 0o755 if _runs(entry) else 0o644)
            # Hard links would depend on the order of the inodes.
            if entry.islnk():
                entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", path.stat().st_size
            if name in special.capabilities:
                value = _capability(special.capabilities[name])
                entry.pax_headers["SCHILY.xattr.security.capability"] = value
            if entry.isreg():
                with path.open("rb") as content:
                    archive.addfile(entry, content)
            else:
                archive.addfile(entry)


def _runs(entry: tarfile.TarInfo) -> bool:
    return entry.isdir() or entry.issym() or bool(entry.mode & 0o100)


def _capability(names: tuple[str, ...]) -> str:
    """Struct vfs_cap_data: permitted and not effective, so that what the pod lacks is no error."""
    permitted = sum(1 << _CAPABILITIES[name] for name in names)
    low, high = permitted & 0xFFFFFFFF, permitted >> 32
    # tarfile writes headers as UTF-8, with octets that are none escaped as surrogates.
    return struct.pack("<5I", _REVISION_2, low, 0, high, 0).decode("utf-8", "surrogateescape")
