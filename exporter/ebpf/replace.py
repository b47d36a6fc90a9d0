"""
Give a live hook another program, so that no packet passes without one or the other.

A TCX link outlives its process if it is pinned, and takes a new program in one step. A filter on a
clsact qdisc outlives it by itself, and is replaced under its own handle and priority. Both swaps
are one pointer that the kernel exchanges under RCU.

Source: kernel/bpf/tcx.c tcx_link_update(); net/sched/cls_bpf.c cls_bpf_change(), list_replace_rcu.
"""

from __future__ import annotations

import errno as errnos
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporter.ebpf import _libbpf
from exporter.ebpf.clsact import FIRST_HANDLE, free_priority
from exporter.ebpf.errors import BpfError, LinkDefunct, PinMissing
from exporter.ebpf.kinds import Direction
from exporter.ebpf.links import create_tcx
from exporter.ebpf.pinning import open_fd, pin_fd, unpin
from exporter.ebpf.programs import Program
from exporter.ebpf.qdisc import delete_unused_clsact, ensure_clsact, tc_hook

#: BPF_TC_F_REPLACE.
_REPLACE = 1
_ABSENT = (errnos.ENOENT, errnos.EINVAL, errnos.ENODEV)


@dataclass(frozen=True)
class FilterPlace:
    """
    Where a filter sits on a hook. ``made_qdisc`` says that the clsact qdisc was made for it.
    """

    priority: int
    handle: int
    made_qdisc: bool


def update_link(path: Path, program: Program) -> None:
    """
    Give a pinned link another program of the same type.

    Args:
        path: Of the link's pin.
        program: Stays the caller's.

    Raises:
        PinMissing: If nothing is pinned there.
        LinkDefunct: If the link's interface is gone (ENOLINK).
        BpfError: If the kernel refuses otherwise.
    """
    fd = open_fd(path)
    try:
        _libbpf.library().bpf_link_update(fd, program.fd, None)
    except OSError as err:
        kind = LinkDefunct if err.errno == errnos.ENOLINK else BpfError
        raise kind(f"update link {path}", err.errno or 0) from err
    finally:
        os.close(fd)


def unpin_link(path: Path) -> bool:
    """
    Take a link's name away. It detaches some time after its last descriptor is gone, too.

    Returns:
        Whether there was one. Raises BpfError.
    """
    return unpin(path)


def remove_link(path: Path) -> bool:
    """
    Detach a pinned link at once, whoever else holds it, and take its name away.

    Returns:
        Whether there was one.

    Raises:
        BpfError: If the kernel refuses.

    Source: kernel/bpf/inode.c bpf_free_inode(): an unlinked pin lets go of its link only after an
    RCU grace period, so an unlink alone would let more packets pass through the program.
    """
    try:
        fd = open_fd(path)
    except PinMissing:
        return False
    try:
        _libbpf.library().bpf_link_detach(fd)
    except OSError as err:
        if err.errno not in (errnos.ENOLINK, errnos.EOPNOTSUPP):
            raise BpfError(f"detach link {path}", err.errno or 0) from err
    finally:
        os.close(fd)
    return unpin(path)


def upsert_tcx(path: Path, program: Program, ifindex: int, direction: Direction) -> bool:
    """
    Have a program on a TCX hook by a pinned link: update the link, or make and pin one.

    Args:
        path: Of the link's pin, which stands for this interface and direction alone.
        program: Of type sched_cls. Stays the caller's.
        ifindex: The interface, in the calling thread's network namespace.
        direction: Which hook.

    Returns:
        Whether there was a link, which now has the program.

    Raises:
        BpfError: ENODEV if the interface is gone; EINVAL where the kernel has no TCX.
    """
    try:
        update_link(path, program)
    except PinMissing:
        pass
    except LinkDefunct:
        unpin_link(path)
    else:
        return True
    fd = create_tcx(program, ifindex, direction)
    try:
        pin_fd(fd, path)
    finally:
        os.close(fd)
    return False


def filter_program(ifindex: int, direction: Direction, place: FilterPlace) -> int | None:
    """
    Id of the program that a filter runs, in the calling thread's network namespace.

    Returns:
        ``None`` if there is no filter at that place, or no such interface.

    Raises:
        BpfError: If the kernel refuses otherwise.
    """
    options = _at(place)
    try:
        _libbpf.library().bpf_tc_query(tc_hook(ifindex, direction), _libbpf.ref(options))
    except OSError as err:
        if err.errno in _ABSENT:
            return None
        raise BpfError(f"look at {direction} of interface {ifindex}", err.errno or 0) from err
    return int(options.prog_id)


def choose_place(ifindex: int, direction: Direction) -> FilterPlace:
    """
    A free place for a filter, first on ingress and last on egress; makes the qdisc if need be.

    Raises:
        AttachRefused: If a qdisc of another kind holds the place of clsact.
        BpfError: If the kernel refuses otherwise.
    """
    made = ensure_clsact(ifindex)
    place = FilterPlace(free_priority(ifindex, direction), FIRST_HANDLE, made)
    while filter_program(ifindex, direction, place) is not None:
        place = replace(place, handle=place.handle + 1)
    return place


def upsert_filter(
    program: Program,
    ifindex: int,
    direction: Direction,
    place: FilterPlace,
    ours: Callable[[int], bool],
) -> bool:
    """
    Have a program in a filter: replace the program of the one that is there, or make one.

    Args:
        program: Of type sched_cls. Stays the caller's.
        ifindex: The interface, in the calling thread's network namespace.
        direction: Which hook.
        place: Where the filter is or shall be.
        ours: Whether a program, by its id, may be replaced.

    Returns:
        Whether a filter was there, which now has the program.

    Raises:
        BpfError: EEXIST if the place is somebody else's; ENODEV if the interface is gone.
    """
    there = filter_program(ifindex, direction, place)
    replaces = there is not None and ours(there)
    options = _at(place)
    options.prog_fd = program.fd
    options.flags = _REPLACE if replaces else 0
    try:
        _libbpf.library().bpf_tc_attach(tc_hook(ifindex, direction), _libbpf.ref(options))
    except OSError as err:
        raise BpfError(f"attach to {direction} of interface {ifindex}", err.errno or 0) from err
    return replaces


def remove_filter(
    ifindex: int, direction: Direction, place: FilterPlace, ours: Callable[[int], bool]
) -> bool:
    """
    Take a filter off, and its qdisc if that was made for it and nobody uses it.

    Returns:
        Whether there was a filter of ours.

    Raises:
        BpfError: If the kernel refuses.
    """
    there = filter_program(ifindex, direction, place)
    removes = there is not None and ours(there)
    if removes:
        try:
            _libbpf.library().bpf_tc_detach(tc_hook(ifindex, direction), _libbpf.ref(_at(place)))
        except OSError as err:
            if err.errno not in _ABSENT:
                raise BpfError(
                    f"detach from {direction} of interface {ifindex}", err.errno or 0
                ) from err
    if place.made_qdisc:
        delete_unused_clsact(ifindex)
    return removes


def _at(place: FilterPlace) -> Any:
    options = _libbpf.sized(_libbpf.TcOptions)
    options.priority = place.priority
    options.handle = place.handle
    return options
