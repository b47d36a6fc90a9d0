"""
One classifier on a TCX hook (Linux 6.6): where in the chain it runs, and what else is there.

A link holds the program on the hook. The kernel takes it off with the link's last descriptor, so
that a link which is not pinned cannot outlive its process.
"""

from __future__ import annotations

import errno as errnos
import os
from dataclasses import dataclass
from typing import Literal, Self

from exporter.ebpf import _libbpf, _programs
from exporter.ebpf.errors import BpfError
from exporter.ebpf.kinds import Direction
from exporter.ebpf.netns import entered
from exporter.ebpf.programs import Program

Place = Literal["head", "tail", "before", "after"]

_HOOK: dict[Direction, int] = {"ingress": 46, "egress": 47}  # BPF_TCX_INGRESS, BPF_TCX_EGRESS
_BEFORE, _AFTER = 1 << 3, 1 << 4  # BPF_F_BEFORE, BPF_F_AFTER
_FLAGS: dict[Place, int] = {"head": _BEFORE, "before": _BEFORE, "tail": _AFTER, "after": _AFTER}


@dataclass(frozen=True)
class Anchor:
    """
    A place in the chain.

    Args:
        place: ``head``, ``tail``, or ``before`` or ``after`` another.
        link_id: The other one, by its link; see :func:`query`.
        program_id: The other one, by its program.

    Raises:
        ValueError: If ``before`` and ``after`` do not name exactly one, or ``head`` and ``tail``
            name any.
    """

    place: Place = "tail"
    link_id: int = 0
    program_id: int = 0

    def __post_init__(self) -> None:
        named = bool(self.link_id) + bool(self.program_id)
        if named != (self.place in ("before", "after")):
            raise ValueError(f"{self.place} wants {1 - named} link or program, not {named}")

    @property
    def relative(self) -> _programs.Relative:
        """For the kernel."""
        other = self.link_id or self.program_id
        return _programs.Relative(_FLAGS[self.place], other, bool(self.link_id))


@dataclass(frozen=True)
class Attached:
    """A program in the chain. ``link_id`` is 0 if it was attached without a link."""

    program_id: int
    link_id: int


@dataclass(frozen=True)
class Chain:
    """What is on a hook, in the order in which it runs. The revision grows with every change."""

    revision: int
    programs: tuple[Attached, ...]


def query(ifindex: int, direction: Direction, netns: str | None = None) -> Chain:
    """
    What is attached to a hook, by anybody.

    Args:
        ifindex: The interface, in that namespace.
        direction: Which hook.
        netns: Path of a network namespace; ``None`` for the calling thread's.

    Raises:
        BpfError: ENODEV if the interface is gone; EINVAL where the kernel has no TCX.
        OSError: If the namespace is gone.
    """
    with entered(netns):
        try:
            revision, programs = _programs.query_tcx(ifindex, _HOOK[direction])
        except OSError as err:
            raise BpfError(f"query {direction} of interface {ifindex}", err.errno or 0) from err
    return Chain(revision, tuple(Attached(*one) for one in programs))


class TcxLink:
    """
    A program on a TCX hook. Owns the link's descriptor: ``close`` it, or use ``with``.

    Args:
        fd: The link's descriptor; from now on this object's.
        where: For messages.
    """

    def __init__(self, fd: int, where: str = "a TCX hook") -> None:
        self.fd = fd
        self._where = where

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def attach(  # noqa: PLR0913 - what the kernel's call takes
        cls,
        program: Program,
        ifindex: int,
        direction: Direction,
        *,
        anchor: Anchor | None = None,
        expected_revision: int = 0,
        netns: str | None = None,
    ) -> TcxLink:
        """
        Put a program on a hook, beside those that are there.

        Args:
            program: Of type sched_cls. Stays the caller's.
            ifindex: The interface, in that namespace.
            direction: Which hook.
            anchor: Where in the chain; at the tail if ``None``.
            expected_revision: Only if the chain has this revision; 0 is any.
            netns: Path of a network namespace; ``None`` for the calling thread's.

        Raises:
            BpfError: ENODEV if the interface is gone; EINVAL where the kernel has no TCX or the
                program is no classifier; ESTALE if the revision is another; ENOENT if what the
                anchor names is not there; EEXIST if this program is there already; ERANGE if the
                chain is full.
            OSError: If the namespace is gone.
        """
        where = f"{direction} of interface {ifindex}"
        wanted = anchor or Anchor()
        with entered(netns):
            try:
                fd = _programs.link_create_tcx(
                    program.fd, ifindex, _HOOK[direction], wanted.relative, expected_revision
                )
            except OSError as err:
                errno = err.errno or 0
                raise BpfError(f"attach to {where}", errno, _reason(errno, wanted)) from err
        return cls(fd, where)

    @property
    def id(self) -> int:
        """The kernel's number for the link. Raises BpfError."""
        try:
            return int(_libbpf.info(_libbpf.LinkInfo, self.fd).id)
        except OSError as err:
            raise BpfError(f"inspect the link to {self._where}", err.errno or 0) from err

    def detach(self) -> None:
        """
        Take the program off the hook, even if somebody else holds the link or it is pinned.

        Raises:
            BpfError: ENOLINK if it is off already, as when the interface is gone; EBADF if closed.
        """
        phase = f"detach from {self._where}"
        try:
            # The kernel has no word for a link that is off already but this.
            attached = _libbpf.info(_libbpf.LinkInfo, self.fd).ifindex
            _libbpf.library().bpf_link_detach(self.fd)
        except OSError as err:
            raise BpfError(phase, err.errno or 0) from err
        if not attached:
            raise BpfError(phase, errnos.ENOLINK, "it is off already")

    def close(self) -> None:
        """
        Give the descriptor back. The last one takes the program off. Again is fine, and so is an
        interface that is gone.
        """
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _reason(errno: int, anchor: Anchor) -> str:
    if errno == errnos.ESTALE:
        return "the chain has changed: it has another revision"
    if errno == errnos.ENOENT:
        kind = "link" if anchor.link_id else "program"
        return f"{kind} {anchor.link_id or anchor.program_id} is not there"
    if errno == errnos.EEXIST:
        return "this program is there already"
    return ""
