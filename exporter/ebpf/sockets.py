"""
Programs on sockets: one that filters what a socket receives, one that chooses among several.

They stay until they are detached or the socket is closed.

Source: include/uapi/asm-generic/socket.h; net/core/filter.c sk_attach_bpf(),
sk_reuseport_attach_bpf(); net/core/sock_reuseport.c reuseport_detach_prog().
"""

from __future__ import annotations

import enum
import errno as errnos
import socket
from typing import ClassVar, Self

from exporter.ebpf.errors import BpfError
from exporter.ebpf.programs import Program

_SO_ATTACH_BPF, _SO_DETACH_BPF = 50, 27
_SO_ATTACH_REUSEPORT_EBPF, _SO_DETACH_REUSEPORT_BPF = 52, 68

#: What a socket filter returns: how many octets of the packet to keep.
KEEP_NONE, KEEP_ALL = 0, 0xFFFFFFFF
_GONE = (errnos.EBADF, errnos.ENOENT)


class SkAction(enum.IntEnum):
    """What a program of type sk_reuseport, sk_skb, sk_msg or sk_lookup returns: SK_*."""

    DROP = 0
    PASS = 1


class _OnSocket:
    """A program on a socket. ``close`` it, or use it in a ``with`` block."""

    _what: ClassVar[str]
    _attach_option: ClassVar[int]
    _detach_option: ClassVar[int]

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._attached = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def _attach(cls, program: Program, sock: socket.socket) -> Self:
        try:
            sock.setsockopt(socket.SOL_SOCKET, cls._attach_option, program.fd)
        except OSError as err:
            raise BpfError(
                f"attach {program.spec.name} as {cls._what} of socket {sock.fileno()}",
                err.errno or 0,
            ) from err
        return cls(sock)

    def detach(self) -> None:
        """
        Take the program off the socket.

        Raises:
            BpfError: ENOENT if there is none any more, EBADF if the socket is closed, EPERM if its
                filter is locked (SO_LOCK_FILTER).
        """
        self._attached = False
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, self._detach_option, 0)
        except OSError as err:
            raise BpfError(
                f"detach {self._what} of socket {self._socket.fileno()}", err.errno or 0
            ) from err

    def close(self) -> None:
        """As :meth:`detach`, but again is fine, and so is a socket that is closed."""
        if self._attached:
            try:
                self.detach()
            except BpfError as err:
                if err.errno not in _GONE:
                    raise


class SocketFilter(_OnSocket):
    """
    A filter on one socket.

    Args:
        sock: A socket that has one. Stays the caller's.
    """

    _what = "filter"
    _attach_option, _detach_option = _SO_ATTACH_BPF, _SO_DETACH_BPF

    @classmethod
    def attach(cls, program: Program, sock: socket.socket) -> SocketFilter:
        """
        Let a program decide how much of each packet the socket gets: 0 drops it.

        A socket has one filter: the kernel replaces the one it has.

        Args:
            program: Of type socket_filter. Stays the caller's.
            sock: Of any family. Stays the caller's, and open as long as the filter is wanted.

        Raises:
            BpfError: EINVAL if the program is of another type, EBADF if the socket is closed, EPERM
                if its filter is locked.
        """
        return cls._attach(program, sock)


class Reuseport(_OnSocket):
    """
    A program that steers among the sockets of one port.

    Args:
        sock: A socket of the group that has one. Stays the caller's.
    """

    _what = "reuseport program"
    _attach_option, _detach_option = _SO_ATTACH_REUSEPORT_EBPF, _SO_DETACH_REUSEPORT_BPF

    @classmethod
    def attach(cls, program: Program, sock: socket.socket) -> Reuseport:
        """
        Let a program choose which socket of a group gets a datagram or a connection.

        Args:
            program: Of type socket_filter, which returns the index of a socket in the order in
                which they were bound; or of type sk_reuseport, which selects one from a map. Stays
                the caller's.
            sock: Any socket of the group: SO_REUSEPORT is set. It need not be bound yet. Stays the
                caller's.

        Raises:
            BpfError: EINVAL if the program is of another type or the socket has no SO_REUSEPORT,
                EBADF if the socket is closed.
        """
        return cls._attach(program, sock)
