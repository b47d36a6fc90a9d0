"""
One XDP program on an interface: there is room for one, and somebody else's is not replaced.

A BPF link where the kernel has them (5.9), which goes with its last descriptor; netlink otherwise,
which outlives the process. By netlink, only a program that is still ours is taken off.
"""

from __future__ import annotations

import contextlib
import enum
import errno as errnos
import os
import socket
from dataclasses import dataclass
from typing import Literal, Self

from exporter.ebpf import _libbpf, _programs
from exporter.ebpf.errors import AttachRefused, BpfError, FeatureMissing
from exporter.ebpf.netns import entered
from exporter.ebpf.programs import Program

Mode = Literal["auto", "native", "generic", "offload"]
Means = Literal["auto", "link", "netlink"]

_XDP = 37  # BPF_XDP, enum bpf_attach_type
#: XDP_FLAGS_*, include/uapi/linux/if_link.h.
_IF_NOEXIST, _SKB, _DRV, _HW, _REPLACE = (1 << bit for bit in range(5))
_FLAGS: dict[Mode, int] = {"auto": 0, "generic": _SKB, "native": _DRV, "offload": _HW}
#: XDP_ATTACHED_*: what a query says of one program.
_MODES: dict[int, Mode] = {1: "native", 2: "generic", 3: "offload"}
#: Another program, or a link, is there.
_TAKEN = (errnos.EEXIST, errnos.EBUSY)
_GONE = (errnos.ENODEV, errnos.ENOENT, errnos.EINVAL, *_TAKEN)


class XdpAction(enum.IntEnum):
    """What an XDP program returns: XDP_*, include/uapi/linux/bpf.h."""

    ABORTED = 0
    DROP = 1
    PASS = 2
    TX = 3
    REDIRECT = 4

    @classmethod
    def name_of(cls, retval: int) -> str:
        """Its name, or ``unknown (N)``: the kernel treats that as ABORTED."""
        return cls(retval).name if retval in set(cls) else f"unknown ({retval})"


@dataclass(frozen=True)
class XdpStatus:
    """
    What is on an interface. Ids are 0 where there is none.

    Args:
        native: Id of the program in the driver.
        generic: Id of the program behind the driver.
        offload: Id of the program in the device.
    """

    native: int = 0
    generic: int = 0
    offload: int = 0

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that have a program."""
        modes: tuple[Mode, ...] = ("native", "generic", "offload")
        return tuple(mode for mode in modes if getattr(self, mode))

    def ids(self) -> tuple[int, ...]:
        """The programs."""
        return tuple(getattr(self, mode) for mode in self.modes)


def query(ifindex: int, netns: str | None = None) -> XdpStatus:
    """
    Which programs are on an interface, whoever put them there.

    Args:
        ifindex: The interface, in that namespace.
        netns: Path of a network namespace; ``None`` for the calling thread's.

    Raises:
        BpfError: ENODEV if there is no such interface.
        OSError: If the namespace is gone.
    """
    with entered(netns):
        return _query(ifindex)


class XdpAttachment:
    """
    A program on an interface. ``close`` it, or use it in a ``with`` block.

    Make one with :meth:`attach`.

    Args:
        ifindex: The interface.
        program_fd: A descriptor of the program; from now on this object's.
        flags: XDP_FLAGS_* of the mode.
        link_fd: The link's descriptor; from now on this object's. -1 if there is none.
        netns: Path of the interface's namespace; ``None`` for the calling thread's.
    """

    def __init__(
        self,
        ifindex: int,
        program_fd: int,
        flags: int,
        link_fd: int = -1,
        netns: str | None = None,
    ) -> None:
        self.ifindex = ifindex
        self.link_fd = link_fd
        self._program_fd = program_fd
        self._flags = flags
        self._netns = netns

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def attach(  # noqa: PLR0913 - each is a choice of its own
        cls,
        program: Program,
        ifindex: int,
        mode: Mode = "auto",
        *,
        replace: bool = False,
        means: Means = "auto",
        netns: str | None = None,
    ) -> XdpAttachment:
        """
        Put a program on an interface.

        Args:
            program: Of type xdp. Stays the caller's.
            ifindex: The interface, in that namespace.
            mode: ``native`` in the driver, ``generic`` behind it, ``offload`` in the device;
                ``auto`` is native where the driver can, else generic. See :attr:`mode`.
            replace: Take the place of a program that somebody put there by netlink, at once and
                without a packet unseen. One that a link holds is not replaced: it is its owner's.
            means: ``link``, which replaces nothing; ``netlink``; or a link where the kernel has
                them and the place is free.
            netns: Path of a network namespace; ``None`` for the calling thread's.

        Raises:
            AttachRefused: If another program is there.
            FeatureMissing: If the interface's driver does not have the mode.
            BpfError: ENODEV if there is no such interface; EINVAL if the program is not XDP.
            OSError: If the namespace is gone.
        """
        flags = _FLAGS[mode]
        with entered(netns):
            there = _query(ifindex)
            if there.ids() and (means == "link" or not replace):
                raise _refused(ifindex, there)
            try:
                own = os.dup(program.fd)
            except OSError as err:
                raise _failure(ifindex, mode, err) from err
            try:
                link_fd = -1
                # A link takes no place that netlink holds.
                if means != "netlink" and not there.ids():
                    link_fd = _link(program, ifindex, flags, must=means == "link")
                if link_fd < 0:
                    _set(program.fd, ifindex, flags | (0 if replace else _IF_NOEXIST))
            except OSError as err:
                os.close(own)
                raise _failure(ifindex, mode, err) from err
        return cls(ifindex, own, flags, link_fd, netns)

    @property
    def means(self) -> Means:
        """``link`` or ``netlink``."""
        return "link" if self.link_fd >= 0 else "netlink"

    @property
    def mode(self) -> Mode:
        """
        The mode that it came to run in.

        Raises:
            BpfError: ENOENT if it is not on the interface any more, ENODEV if that is gone.
        """
        phase = f"look for XDP on interface {self.ifindex}"
        try:
            program_id = _programs.program_info(self._program_fd)[0].id
        except OSError as err:
            raise BpfError(phase, err.errno or 0) from err
        there = query(self.ifindex, self._netns)
        for mode in there.modes:
            if getattr(there, mode) == program_id:
                return mode
        raise BpfError(phase, errnos.ENOENT, f"program {program_id} is not there")

    def detach(self) -> None:
        """
        Take our program off.

        Raises:
            AttachRefused: If another program has replaced it, which is left alone.
            BpfError: ENOLINK, ENODEV if the interface is gone; EBADF if it is detached already.
            OSError: If the namespace is gone.
        """
        phase = f"detach XDP from interface {self.ifindex}"
        if self._program_fd < 0:
            raise BpfError(phase, errnos.EBADF, "it is detached already")
        try:
            if self.link_fd >= 0:
                _libbpf.library().bpf_link_detach(self.link_fd)
            else:
                self._unset(phase)
        except OSError as err:
            raise BpfError(phase, err.errno or 0) from err
        finally:
            self._forget()

    def close(self) -> None:
        """
        Take our program off. Again is fine, and so is an interface, a namespace or a program that
        is gone or has been replaced. A link that is pinned stays.
        """
        if self._program_fd < 0:
            return
        try:
            if self.link_fd < 0:
                # A namespace that is gone took the interface along.
                with contextlib.suppress(FileNotFoundError):
                    self._unset(f"detach XDP from interface {self.ifindex}")
        except BpfError as err:
            if err.errno not in _GONE:
                raise
        finally:
            self._forget()

    def _unset(self, phase: str) -> None:
        """By netlink, if it is still ours."""
        options = _libbpf.sized(_programs.XdpAttachOptions)
        options.old_prog_fd = self._program_fd
        with entered(self._netns):
            try:
                _set(-1, self.ifindex, self._flags | _REPLACE, options)
            except OSError as err:
                if err.errno not in _TAKEN:
                    raise BpfError(phase, err.errno or 0) from err
                raise AttachRefused(
                    phase, err.errno, "another program has taken its place and is left alone"
                ) from err

    def _forget(self) -> None:
        """Close the descriptors."""
        for fd in (self.link_fd, self._program_fd):
            if fd >= 0:
                os.close(fd)
        self.link_fd = self._program_fd = -1


def _query(ifindex: int) -> XdpStatus:
    """In the calling thread's namespace."""
    phase = f"look for XDP on interface {ifindex}"
    try:
        socket.if_indextoname(ifindex)
    except OSError as err:
        raise BpfError(phase, errnos.ENODEV) from err
    found = _libbpf.sized(_programs.XdpQueryOptions)
    try:
        _libbpf.library().bpf_xdp_query(ifindex, 0, _libbpf.ref(found))
    except OSError as err:
        raise BpfError(phase, err.errno or 0) from err
    only = _MODES.get(found.attach_mode)
    if only is not None:
        return XdpStatus(**{only: found.prog_id})
    return XdpStatus(found.drv_prog_id, found.skb_prog_id, found.hw_prog_id)


def _link(program: Program, ifindex: int, flags: int, *, must: bool) -> int:
    """A link's descriptor; -1 if the kernel has no XDP links. Raises OSError."""
    try:
        return _programs.link_create(program.fd, ifindex, _XDP, flags)
    except OSError as err:
        # Older kernels do not know the command for XDP. What else is wrong, netlink will say.
        if must or err.errno != errnos.EINVAL:
            raise
        return -1


def _set(
    program_fd: int, ifindex: int, flags: int, options: _programs.XdpAttachOptions | None = None
) -> None:
    """By netlink. Raises OSError."""
    given = None if options is None else _libbpf.ref(options)
    _libbpf.library().bpf_xdp_attach(ifindex, program_fd, flags, given)


def _refused(ifindex: int, there: XdpStatus) -> AttachRefused:
    programs = ", ".join(f"program {getattr(there, mode)} ({mode})" for mode in there.modes)
    return AttachRefused(
        f"attach XDP to interface {ifindex}", errnos.EEXIST, f"{programs} is there and stays"
    )


def _failure(ifindex: int, mode: Mode, err: OSError) -> BpfError:
    phase, errno = f"attach XDP to interface {ifindex}", err.errno or 0
    if errno == errnos.EOPNOTSUPP or (mode == "offload" and errno == errnos.EINVAL):
        return FeatureMissing(
            phase, errnos.EOPNOTSUPP, f"its driver has no {mode} mode: auto or generic always work"
        )
    if errno in _TAKEN:
        return AttachRefused(phase, errno, "another program is there, or a link holds the place")
    return BpfError(phase, errno)
