"""
Put classifiers on an interface, and take them off again without a trace.

TCX links where the kernel has them, else filters on a clsact qdisc. Neither ends the chain, neither
removes or replaces what others put there: a qdisc is deleted only if it was made here and nobody
else uses it by then.
"""

from __future__ import annotations

import contextlib
import errno as errnos
import os
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from exporter.ebpf import _libbpf
from exporter.ebpf.errors import AttachRefused, BpfError
from exporter.ebpf.netns import entered
from exporter.ebpf.programs import Program

Direction = Literal["ingress", "egress"]
Hook = Literal["tcx", "tc"]

_TCX = {"ingress": 46, "egress": 47}  # BPF_TCX_INGRESS, BPF_TCX_EGRESS
_BEFORE, _AFTER = 1 << 3, 1 << 4  # BPF_F_BEFORE, BPF_F_AFTER
_TC: dict[Direction, int] = {"ingress": 1, "egress": 2}  # enum bpf_tc_attach_point
_CLSACT = 0xFFFF0000  # TC_H_CLSACT, the handle of ingress and clsact qdiscs
_PARENT = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}  # clsact minors
_GONE = (errnos.ENODEV, errnos.ENOENT, errnos.EINVAL)


class Attachment(Protocol):
    """Programs on the hooks of one interface. ``close`` takes them off."""

    def close(self) -> None:
        """Take the programs off. Again is fine, and so is an interface that is gone."""


def attach(
    programs: Mapping[Direction, Program], ifindex: int, hook: Hook, netns: str | None = None
) -> Attachment:
    """
    Put one program on each named hook of an interface: all of them or none.

    Args:
        programs: Of type sched_cls. Stay the caller's.
        ifindex: The interface, in that namespace.
        hook: ``tcx`` or ``tc``.
        netns: Path of a network namespace, as in /var/run/netns; ``None`` for the calling thread's.

    Raises:
        AttachRefused: If a qdisc of another kind holds the place of clsact.
        BpfError: ENODEV if the interface is gone; EINVAL where the kernel has no TCX.
        OSError: If the namespace is gone.
    """
    with entered(netns):
        if hook == "tcx":
            return _TcxLinks(programs, ifindex)
        return _ClsactFilters(programs, ifindex, netns)


def _failure(verb: str, direction: Direction, ifindex: int, err: OSError) -> BpfError:
    preposition = {"attach": "to", "detach": "from"}[verb]
    return BpfError(f"{verb} {preposition} {direction} of interface {ifindex}", err.errno or 0)


class _TcxLinks:
    """TCX links. The kernel removes them with their last descriptor: they cannot outlive us."""

    def __init__(self, programs: Mapping[Direction, Program], ifindex: int) -> None:
        self._links: list[int] = []
        for direction, program in programs.items():
            # At the head of ingress, where a program that redirects has not yet hidden the packet;
            # at the tail of egress, where what others dropped is already gone.
            place = _BEFORE if direction == "ingress" else _AFTER
            try:
                self._links.append(
                    _libbpf.link_create_tcx(program.fd, ifindex, _TCX[direction], place)
                )
            except OSError as err:
                self.close()
                raise _failure("attach", direction, ifindex, err) from err

    def close(self) -> None:
        while self._links:
            os.close(self._links.pop())


class _ClsactFilters:
    """Direct-action filters on a clsact qdisc, which is made if it is missing."""

    def __init__(
        self, programs: Mapping[Direction, Program], ifindex: int, netns: str | None
    ) -> None:
        self._lib = _libbpf.library()
        self._ifindex = ifindex
        self._netns = netns
        self._filters: dict[Direction, Any] = {}
        self._made_qdisc = self._ensure_qdisc()
        for direction, program in programs.items():
            options = _libbpf.sized(_libbpf.TcOptions)
            options.prog_fd = program.fd
            options.priority = _priority(ifindex, direction)
            try:
                self._lib.bpf_tc_attach(self._hook(direction), _libbpf.ref(options))
            except OSError as err:
                self._remove()
                raise _failure("attach", direction, ifindex, err) from err
            self._filters[direction] = options

    def close(self) -> None:
        # A namespace that is gone took its filters along.
        with contextlib.suppress(FileNotFoundError), entered(self._netns):
            self._remove()

    def _remove(self) -> None:
        while self._filters:
            direction, attached = self._filters.popitem()
            options = _libbpf.sized(_libbpf.TcOptions)
            options.handle = attached.handle
            options.priority = attached.priority
            try:
                self._lib.bpf_tc_detach(self._hook(direction), _libbpf.ref(options))
            except OSError as err:
                if err.errno not in _GONE:
                    raise _failure("detach", direction, self._ifindex, err) from err
        if self._made_qdisc:
            self._made_qdisc = False
            _delete_unused_clsact(self._ifindex)

    def _hook(self, direction: Direction) -> Any:
        hook = _libbpf.sized(_libbpf.TcHook)
        hook.ifindex = self._ifindex
        hook.attach_point = _TC[direction]
        return _libbpf.ref(hook)

    def _ensure_qdisc(self) -> bool:
        """Whether the clsact qdisc had to be made."""
        kind = _qdisc_kind(self._ifindex)
        if kind == "clsact":
            return False
        if kind is not None:
            raise AttachRefused(
                f"attach to interface {self._ifindex}",
                errnos.EEXIST,
                f"a qdisc of kind {kind} holds the place of clsact and is left alone",
            )
        try:
            self._lib.bpf_tc_hook_create(self._hook("ingress"))
        except OSError as err:
            if err.errno == errnos.EEXIST:
                return False
            raise BpfError(
                f"make a clsact qdisc on interface {self._ifindex}", err.errno or 0
            ) from err
        return True


def _netlink() -> Any:
    # Imported here: only hosts without TCX pay its memory.
    from pyroute2 import IPRoute

    return IPRoute()


def _qdisc_kind(ifindex: int) -> str | None:
    """Kind of the qdisc in clsact's place, if there is one."""
    with _netlink() as netlink:
        for qdisc in netlink.get_qdiscs(index=ifindex):
            if qdisc["handle"] == _CLSACT:
                return str(qdisc.get("kind"))
    return None


def _priorities(ifindex: int, direction: Direction) -> list[int]:
    """Of the filters on a hook."""
    with _netlink() as netlink:
        found = netlink.get_filters(index=ifindex, parent=_PARENT[direction])
        return [message["info"] >> 16 for message in found]


def _priority(ifindex: int, direction: Direction) -> int:
    """As with TCX: first on ingress, last on egress. 0 lets the kernel choose."""
    taken = _priorities(ifindex, direction)
    if not taken:
        return 0
    if direction == "ingress":
        return max(min(taken) - 1, 1)
    return min(max(taken) + 1, 0xFFFF)


def _delete_unused_clsact(ifindex: int) -> None:
    if _qdisc_kind(ifindex) != "clsact" or any(_priorities(ifindex, way) for way in _TC):
        return
    with _netlink() as netlink:
        netlink.tc("del", "clsact", ifindex)
