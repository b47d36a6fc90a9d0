"""
C structures and bpf(2) commands of programs and the hooks they sit on; see ``_libbpf``.

Raw commands stand here where Debian's libbpf 1.1 is older than what is asked for: TCX.

Source: kernel include/uapi/linux/bpf.h; libbpf 1.1 src/{bpf,libbpf}.h.
"""

from __future__ import annotations

import ctypes as c
import errno as errnos
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.ebpf import _libbpf
from exporter.ebpf._libbpf import U32, U64, Int, ProgramInfo, Size

_PROG_QUERY, _LINK_CREATE = 16, 28
_F_ID, _F_LINK = 1 << 5, 1 << 13


class XdpContext(c.Structure):
    """struct xdp_md."""

    _fields_ = (
        ("data", U32),
        ("data_end", U32),
        ("data_meta", U32),
        ("ingress_ifindex", U32),
        ("rx_queue_index", U32),
        ("egress_ifindex", U32),
    )


class XdpAttachOptions(c.Structure):
    """struct bpf_xdp_attach_opts."""

    _fields_ = (("sz", Size), ("old_prog_fd", Int), ("_pad", U32))


class XdpQueryOptions(c.Structure):
    """struct bpf_xdp_query_opts as of libbpf 1.1."""

    _fields_ = (
        ("sz", Size),
        ("prog_id", U32),
        ("drv_prog_id", U32),
        ("hw_prog_id", U32),
        ("skb_prog_id", U32),
        ("attach_mode", c.c_uint8),
        ("_pad", c.c_uint8 * 7),
    )


class _LinkCreate(c.Structure):
    """union bpf_attr, command BPF_LINK_CREATE; the tail is TCX's, zero for others."""

    _fields_ = (
        ("prog_fd", U32),
        ("target", U32),
        ("attach_type", U32),
        ("flags", U32),
        ("relative", U32),
        ("_pad", U32),
        ("expected_revision", U64),
    )


class _Query(c.Structure):
    """union bpf_attr, command BPF_PROG_QUERY, as of 6.6."""

    _fields_ = (
        ("target", U32),
        ("attach_type", U32),
        ("query_flags", U32),
        ("attach_flags", U32),
        ("prog_ids", U64),
        ("count", U32),
        ("_pad", U32),
        ("prog_attach_flags", U64),
        ("link_ids", U64),
        ("link_attach_flags", U64),
        ("revision", U64),
    )


@dataclass(frozen=True)
class Relative:
    """What a TCX program is attached beside. ``flags`` are BPF_F_BEFORE or BPF_F_AFTER."""

    flags: int
    id: int = 0
    is_link: bool = False


def link_create(prog_fd: int, ifindex: int, attach_type: int, flags: int = 0) -> int:
    """
    BPF_LINK_CREATE on an interface of the calling thread's network namespace.

    Returns:
        The link's descriptor.

    Raises:
        OSError: With the kernel's errno.

    Source: net/core/dev.c bpf_xdp_link_attach() (5.9).
    """
    attr = _LinkCreate(prog_fd=prog_fd, target=ifindex, attach_type=attach_type, flags=flags)
    return _libbpf.command(_LINK_CREATE, attr, "BPF_LINK_CREATE")


def link_create_tcx(
    prog_fd: int, ifindex: int, attach_type: int, relative: Relative, revision: int = 0
) -> int:
    """
    BPF_LINK_CREATE for a TCX hook, in the calling thread's network namespace.

    Returns:
        The link's descriptor.

    Raises:
        OSError: With the kernel's errno: EINVAL where the kernel has no TCX, ENODEV where the
            interface is gone, ESTALE where the chain has another revision.

    Source: kernel/bpf/tcx.c tcx_link_attach(), kernel/bpf/mprog.c (6.6).
    """
    flags = relative.flags
    if relative.id:
        flags |= _F_ID | (_F_LINK if relative.is_link else 0)
    attr = _LinkCreate(
        prog_fd=prog_fd,
        target=ifindex,
        attach_type=attach_type,
        flags=flags,
        relative=relative.id,
        expected_revision=revision,
    )
    return _libbpf.command(_LINK_CREATE, attr, "BPF_LINK_CREATE")


def query_tcx(ifindex: int, attach_type: int) -> tuple[int, list[tuple[int, int]]]:
    """
    BPF_PROG_QUERY of a TCX hook, in the calling thread's network namespace.

    Returns:
        The chain's revision, and (program id, link id or 0) in the order in which they run.

    Raises:
        OSError: With the kernel's errno.

    Source: kernel/bpf/mprog.c bpf_mprog_query() (6.6).
    """
    room = 64  # BPF_MPROG_MAX: a chain has no more.
    programs, links = (U32 * room)(), (U32 * room)()
    attr = _Query(
        target=ifindex,
        attach_type=attach_type,
        count=room,
        prog_ids=c.addressof(programs),
        link_ids=c.addressof(links),
    )
    _libbpf.command(_PROG_QUERY, attr, "BPF_PROG_QUERY")
    return int(attr.revision), list(zip(programs, links, strict=True))[: attr.count]


def program_info(fd: int) -> tuple[Any, tuple[int, ...]]:
    """
    BPF_OBJ_GET_INFO_BY_FD of a program, and the ids of its maps. Raises OSError.
    """
    raw = _libbpf.info(ProgramInfo, fd)
    if not raw.nr_map_ids:
        return raw, ()
    ids = (U32 * raw.nr_map_ids)()
    again = ProgramInfo(nr_map_ids=raw.nr_map_ids, map_ids=c.addressof(ids))
    length = U32(c.sizeof(again))
    _libbpf.library().bpf_obj_get_info_by_fd(fd, c.byref(again), c.byref(length))
    return raw, tuple(ids[: again.nr_map_ids])


def next_id(kind: str, after: int) -> int | None:
    """
    The next id of the system's objects.

    Args:
        kind: ``prog``, ``map``, ``link`` or ``btf``.
        after: 0 to begin with.

    Returns:
        ``None`` after the last one.

    Raises:
        OSError: With the kernel's errno.
    """
    found = U32()
    try:
        getattr(_libbpf.library(), f"bpf_{kind}_get_next_id")(after, c.byref(found))
    except OSError as err:
        if err.errno == errnos.ENOENT:
            return None
        raise
    return int(found.value)


def kind_of(fd: int) -> str:
    """What a descriptor is: ``prog``, ``map``, ``link``, or what /proc says. Raises OSError."""
    target = str(Path(f"/proc/self/fd/{fd}").readlink())
    return target.removeprefix("anon_inode:").removeprefix("bpf-")
