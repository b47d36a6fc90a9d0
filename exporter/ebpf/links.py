"""
Put classifiers on an interface, and take them off again without a trace.

TCX links where the kernel has them, else filters on a clsact qdisc. Neither ends the chain, neither
removes or replaces what others put there. See :mod:`exporter.ebpf.tcx` and
:mod:`exporter.ebpf.clsact` for single attachments and all that can be chosen.
"""

from __future__ import annotations

import errno as errnos
import socket
from collections.abc import Mapping
from typing import Literal, Protocol

from exporter.ebpf.clsact import ClsactFilter, free_priority
from exporter.ebpf.errors import BpfError
from exporter.ebpf.kinds import Direction
from exporter.ebpf.netns import entered
from exporter.ebpf.programs import Program
from exporter.ebpf.qdisc import delete_unused_clsact, ensure_clsact, tc_hook
from exporter.ebpf.tcx import Anchor, Place, TcxLink

__all__ = [
    "Attachment",
    "Direction",
    "Hook",
    "attach",
    "create_tcx",
    "delete_unused_clsact",
    "ensure_clsact",
    "free_priority",
    "interface_index",
    "tc_hook",
]

Hook = Literal["tcx", "tc"]

#: At the head of ingress, where a program that redirects has not yet hidden the packet; at the tail
#: of egress, where what others dropped is already gone. Filters choose their priority likewise.
_PLACES: dict[Direction, Place] = {"ingress": "head", "egress": "tail"}


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
    made = _Several()
    try:
        for direction, program in programs.items():
            made.add(_attach(program, ifindex, direction, hook, netns))
    except BaseException:
        made.close()
        raise
    return made


def interface_index(name: str, netns: str | None = None) -> int:
    """
    The number of an interface.

    Args:
        name: Such as ``eth0``.
        netns: Path of a network namespace; ``None`` for the calling thread's.

    Raises:
        BpfError: ENODEV if there is no interface of that name.
        OSError: If the namespace is gone.
    """
    with entered(netns):
        try:
            return socket.if_nametoindex(name)
        except OSError as err:
            raise BpfError(f"find interface {name}", errnos.ENODEV) from err


def create_tcx(program: Program, ifindex: int, direction: Direction) -> int:
    """
    A TCX link in the calling thread's network namespace, where :func:`attach` puts it.

    Returns:
        Its descriptor, the caller's: the kernel removes the link with the last one, or the pin.

    Raises:
        BpfError: ENODEV if the interface is gone; EINVAL where the kernel has no TCX.
    """
    anchor = Anchor(_PLACES[direction])
    return TcxLink.attach(program, ifindex, direction, anchor=anchor).fd


def _attach(
    program: Program, ifindex: int, direction: Direction, hook: Hook, netns: str | None
) -> Attachment:
    if hook == "tc":
        return ClsactFilter.attach(program, ifindex, direction, netns=netns)
    with entered(netns):
        fd = create_tcx(program, ifindex, direction)
    return TcxLink(fd, f"{direction} of interface {ifindex}")


class _Several:
    """Attachments, the last one first to go."""

    def __init__(self) -> None:
        self._attached: list[Attachment] = []

    def add(self, attached: Attachment) -> None:
        self._attached.append(attached)

    def close(self) -> None:
        """All of them, whatever happens to one. Raises what happened first."""
        first: Exception | None = None
        while self._attached:
            try:
                self._attached.pop().close()
            except Exception as err:  # noqa: BLE001 - raised when the others are off
                first = first or err
        if first is not None:
            raise first
