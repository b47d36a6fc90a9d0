"""
Who holds which socket: the kernel's list of sockets, and the descriptors of all processes.

Slow: it reads every descriptor's name. For a thread that has time.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

from exporter.capture.cgroups import PROC, Process, process, processes
from exporter.ebpf.netns import entered, inode

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _DONE, _ERROR = 20, 3, 2
_FLAGS = 0x1 | 0x300  # NLM_F_REQUEST, NLM_F_DUMP
#: struct nlmsghdr; struct inet_diag_req_v2 with every state and no address.
_REQUEST = struct.Struct("=IHHIIBBBBI48x")
_HEADER = struct.Struct("=IH")
#: struct inet_diag_msg: idiag_cookie and idiag_inode.
_COOKIE, _INODE, _MESSAGE = struct.Struct("=Q"), struct.Struct("=I"), 72
_COOKIE_AT, _INODE_AT = 44, 68
_RECEIVE_OCTETS = 1 << 18


def holders(cookies: set[int]) -> dict[int, list[Process]]:
    """
    The processes that have sockets open.

    Args:
        cookies: Of the sockets.

    Returns:
        Those that were found; a process that came or went meanwhile is left out.
    """
    of_inode, namespaces = _descriptors()
    found: dict[int, list[Process]] = {}
    for path in namespaces.values():
        with contextlib.suppress(OSError), entered(path):
            for cookie, number in _sockets():
                if cookie in cookies and number in of_inode:
                    found[cookie] = of_inode[number]
    return found


def _descriptors() -> tuple[dict[int, list[Process]], dict[int, str]]:
    """Inode of each socket -> who holds it; inode of each network namespace -> a path to it."""
    of_inode: dict[int, list[Process]] = {}
    namespaces: dict[int, str] = {}
    for pid in processes():
        one = process(pid)
        numbers = set(_sockets_of(pid))
        if one is None or not numbers or process(pid) != one:
            continue
        path = f"{PROC}/{pid}/ns/net"
        with contextlib.suppress(OSError):
            namespaces.setdefault(inode(path), path)
        for number in numbers:
            of_inode.setdefault(number, []).append(one)
    return of_inode, namespaces


def _sockets_of(pid: int) -> Iterator[int]:
    directory = f"{PROC}/{pid}/fd"
    with contextlib.suppress(OSError):
        # Not by pathlib, which takes several times as long, and there may be a million.
        for name in os.listdir(directory):  # noqa: PTH208
            with contextlib.suppress(OSError):
                target = os.readlink(f"{directory}/{name}")  # noqa: PTH115
                if target.startswith("socket:["):
                    yield int(target[8:-1])


def _sockets() -> Iterator[tuple[int, int]]:
    """(cookie, inode) of every TCP and UDP socket of the calling thread's namespace."""
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
    ) as asks:
        asks.settimeout(10)
        for family in (socket.AF_INET, socket.AF_INET6):
            for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
                asks.send(
                    _REQUEST.pack(
                        *(72, _SOCK_DIAG_BY_FAMILY, _FLAGS, 1, 0),
                        *(family, protocol, 0, 0, 0xFFFFFFFF),
                    )
                )
                yield from _dumped(asks)


def _dumped(asks: socket.socket) -> Iterator[tuple[int, int]]:
    while True:
        data = asks.recv(_RECEIVE_OCTETS)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind = _HEADER.unpack_from(data, at)
            if kind in (_DONE, _ERROR):
                # ENOENT: the module for this protocol is not there; so are none of its sockets.
                return
            body = at + 16
            if kind == _SOCK_DIAG_BY_FAMILY and length >= 16 + _MESSAGE:
                yield (
                    _COOKIE.unpack_from(data, body + _COOKIE_AT)[0],
                    _INODE.unpack_from(data, body + _INODE_AT)[0],
                )
            at += max(length + 3 & ~3, 16)
