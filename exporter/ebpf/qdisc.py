"""
The clsact qdisc of an interface: what filters sit on, anybody's, and whether it is ours to delete.
"""

from __future__ import annotations

import errno as errnos
import logging
import socket
from dataclasses import dataclass
from typing import Any

from exporter.ebpf import _libbpf
from exporter.ebpf.errors import AttachRefused, BpfError
from exporter.ebpf.kinds import Direction
from exporter.ebpf.netns import entered, inode

log = logging.getLogger(__name__)

_CLSACT = 0xFFFF0000  # TC_H_CLSACT, the handle of ingress and clsact qdiscs
_POINT: dict[Direction, int] = {"ingress": 1, "egress": 2}  # enum bpf_tc_attach_point
PARENT: dict[Direction, int] = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}  # clsact minors


@dataclass(frozen=True)
class Filter:
    """
    A filter on a hook, anybody's.

    Args:
        priority: As in :class:`FilterOptions`, and so are the others.
        handle: Within the priority.
        kind: ``bpf`` for programs; what follows is of these only.
        protocol: Ethertype of the packets that it sees; 3 is all.
        name: Its name.
        program_id: The program's.
        direct_action: Whether the program's return value is the verdict.
    """

    priority: int
    handle: int
    kind: str
    protocol: int
    name: str = ""
    program_id: int = 0
    direct_action: bool = False


def filters(ifindex: int, direction: Direction, netns: str | None = None) -> list[Filter]:
    """
    The filters on a hook, in the order in which they run.

    Args:
        ifindex: The interface, in that namespace.
        direction: Which hook.
        netns: Path of a network namespace; ``None`` for the calling thread's.

    Returns:
        Nothing also where there is no such interface or no clsact qdisc.

    Raises:
        OSError: If the namespace is gone.
    """
    with entered(netns):
        with netlink() as route:
            messages = list(route.get_filters(index=ifindex, parent=PARENT[direction]))
        # Each priority also says its name, without a filter.
        return [_filter(m, ifindex, direction) for m in messages if m["handle"]]


#: The qdiscs that this process made: (inode of the namespace, interface).
_made: set[tuple[int, int]] = set()


class Qdisc:
    """
    The clsact qdisc of an interface. Made if it is missing. If it was made by this process, it goes
    with the first :meth:`close` that finds nobody using it.

    Make one with :meth:`ensure`.
    """

    def __init__(self, ifindex: int, replaced: str | None = None) -> None:
        self.ifindex = ifindex
        self.replaced = replaced

    @classmethod
    def ensure(cls, ifindex: int, *, clobber: bool = False) -> Qdisc:
        """
        Args:
            ifindex: An interface of the calling thread's network namespace.
            clobber: Delete a qdisc of another kind that holds the place, with all filters on it.
                ``replaced`` then says its kind, and so does a warning in the log.

        Raises:
            AttachRefused: If there is one and ``clobber`` is not set.
            BpfError: ENODEV if the interface is gone.
        """
        made, replaced = _ensure(ifindex, clobber=clobber)
        if made:
            _made.add((inode(), ifindex))
        return cls(ifindex, replaced)

    def close(self) -> None:
        """Delete it if it was made by this process and has no filters. Again is fine."""
        key = (inode(), self.ifindex)
        if key not in _made:
            return
        if delete_unused_clsact(self.ifindex):
            _made.discard(key)


def ensure_clsact(ifindex: int) -> bool:
    """
    Have a clsact qdisc on an interface of the calling thread's network namespace.

    Returns:
        Whether it had to be made.

    Raises:
        AttachRefused: If a qdisc of another kind holds its place.
        BpfError: If the kernel refuses otherwise.
    """
    return _ensure(ifindex, clobber=False)[0]


def delete_unused_clsact(ifindex: int) -> bool:
    """
    Remove the clsact qdisc of an interface unless a filter is on it.

    Returns:
        Whether there is none any more, or never was.

    Raises:
        BpfError: If the kernel refuses.
    """
    if _kind(ifindex) != "clsact":
        return True
    if any(filters(ifindex, direction) for direction in _POINT):
        return False
    _delete("clsact", ifindex)
    return True


def tc_hook(ifindex: int, direction: Direction) -> Any:
    """A struct bpf_tc_hook, by reference."""
    hook = _libbpf.sized(_libbpf.TcHook)
    hook.ifindex = ifindex
    hook.attach_point = _POINT[direction]
    return _libbpf.ref(hook)


def _ensure(ifindex: int, *, clobber: bool) -> tuple[bool, str | None]:
    """Whether it was made, and the kind of what it replaced."""
    kind = _kind(ifindex)
    if kind == "clsact":
        return False, None
    if kind is not None and not clobber:
        raise AttachRefused(
            f"attach to interface {ifindex}",
            errnos.EEXIST,
            f"a qdisc of kind {kind} holds the place of clsact and is left alone",
        )
    if kind is not None:
        _delete(kind, ifindex)
        log.warning("interface %d: the %s qdisc was replaced by clsact", ifindex, kind)
    try:
        _libbpf.library().bpf_tc_hook_create(tc_hook(ifindex, "ingress"))
    except OSError as err:
        if err.errno == errnos.EEXIST:
            return False, kind
        raise BpfError(f"make a clsact qdisc on interface {ifindex}", err.errno or 0) from err
    return True, kind


def _delete(kind: str, ifindex: int) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    with netlink() as route:
        try:
            route.tc("del", kind, ifindex)
        except NetlinkError as err:
            raise BpfError(f"delete the {kind} qdisc of interface {ifindex}", err.code) from err


def netlink() -> Any:
    """A route socket in the calling thread's namespace."""
    # Imported here: only hosts without TCX pay its memory.
    from pyroute2 import IPRoute

    return IPRoute()


def _kind(ifindex: int) -> str | None:
    """Kind of the qdisc in clsact's place, if there is one."""
    with netlink() as route:
        for qdisc in route.get_qdiscs(index=ifindex):
            if qdisc["handle"] == _CLSACT:
                return str(qdisc.get("kind"))
    return None


def _filter(message: Any, ifindex: int, direction: Direction) -> Filter:
    priority, protocol = message["info"] >> 16, socket.ntohs(message["info"] & 0xFFFF)
    kind, options = str(message.get_attr("TCA_KIND")), message.get_attr("TCA_OPTIONS")
    if kind != "bpf" or options is None:
        return Filter(priority, message["handle"], kind, protocol)
    return Filter(
        priority,
        message["handle"],
        kind,
        protocol,
        str(options.get_attr("TCA_BPF_NAME") or ""),
        _program_id(ifindex, direction, priority, message["handle"]),
        bool((options.get_attr("TCA_BPF_FLAGS") or 0) & 1),
    )


def _program_id(ifindex: int, direction: Direction, priority: int, handle: int) -> int:
    """0 if it is gone meanwhile, or sees only one protocol, which libbpf cannot ask for."""
    found = _libbpf.sized(_libbpf.TcOptions)
    found.handle, found.priority = handle, priority
    try:
        _libbpf.library().bpf_tc_query(tc_hook(ifindex, direction), _libbpf.ref(found))
    except OSError:
        return 0
    return int(found.prog_id)
