"""
What rtnetlink says of interfaces: a dump, and news of changes.

The wire format is pyroute2's to parse; the sockets are plain ones, because they must be opened
inside another network namespace and stay readable by ``select``.
"""

from __future__ import annotations

import contextlib
import errno as errnos
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from exporter.ebpf.netns import entered

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_NLMSG_DONE, _NLMSG_ERROR = 3, 2
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_RTMGRP_LINK = 1
_RTM_GETNSID = 90
_NETNSA_NSID, _NETNSA_FD = 1, 3
_RECEIVE_OCTETS = 1 << 20
_RECEIVE_BUFFER = 4 << 20

#: struct nlmsghdr, then struct ifinfomsg, all zero: a dump of every interface.
_DUMP = struct.pack(
    "=IHHIIBxHiII", 32, _RTM_GETLINK, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0, 0, 0, 0, 0, 0
)

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_INT = struct.Struct("=i")
#: struct nlmsghdr, struct rtgenmsg, then NETNSA_FD.
_GET_NSID = struct.Struct("=IHHIIB3xHHI")


@dataclass(frozen=True)
class LinkNews:
    """
    An interface as netlink tells of it.

    ``arphrd`` is the link layer's ARPHRD number; ``gone`` says that the interface was deleted.
    ``kind`` is empty where the kernel has no word for it. ``link`` is the index of a veth's peer,
    or of what a vlan is on, 0 for none; it is of the namespace that has the number ``nsid`` in this
    one, ``None`` for this one itself.
    """

    index: int
    name: str
    arphrd: int
    gone: bool
    kind: str = ""
    mac: str = ""
    link: int = 0
    nsid: int | None = None


class LinkSocket:
    """
    Interfaces of one network namespace.

    Args:
        path: Of the namespace, as in /var/run/netns; ``None`` for the calling thread's.
        listen: Whether to ask for news; else there is only :meth:`dump`.

    Raises:
        OSError: If the namespace is gone; PermissionError if news may not be listened to.
    """

    def __init__(self, path: str | None, *, listen: bool) -> None:
        # Imported here: pyroute2 costs 25 MB, and `replay` and `doctor` need none of it.
        from pyroute2.netlink.rtnl.marshal import MarshalRtnl

        self._marshal: Any = MarshalRtnl()
        with entered(path):
            self._news = self._open(_RTMGRP_LINK if listen else 0)
            self._asks = self._open(0)
        self._news.setblocking(False)
        self._asks.settimeout(10)

    def fileno(self) -> int:
        """For ``select``: readable when there is news."""
        return self._news.fileno()

    def close(self) -> None:
        """Let go of the namespace. Again is fine."""
        self._news.close()
        self._asks.close()

    def dump(self) -> list[LinkNews]:
        """Every interface there is. Raises OSError."""
        self._asks.send(_DUMP)
        links: list[LinkNews] = []
        while True:
            for message in self._marshal.parse(self._asks.recv(_RECEIVE_OCTETS)):
                kind = message["header"]["type"]
                if kind == _NLMSG_DONE:
                    return links
                if kind == _NLMSG_ERROR:
                    raise OSError(errnos.EIO, "netlink refuses to list interfaces")
                links.extend(_news_of(message))

    def news(self) -> list[LinkNews] | None:
        """
        What changed since the last call, in order.

        Returns:
            ``None`` if the kernel dropped news because we were slow: dump again.
        """
        changes: list[LinkNews] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    data = self._news.recv(_RECEIVE_OCTETS)
                except OSError as err:
                    if err.errno == errnos.ENOBUFS:
                        return None
                    raise
                for message in self._marshal.parse(data):
                    changes.extend(_news_of(message))
        return changes

    @staticmethod
    def _open(groups: int) -> socket.socket:
        opened = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            opened.bind((0, groups))
        except OSError:
            opened.close()
            raise
        return opened


def number_of(fd: int) -> int | None:
    """
    The number that a namespace has in the calling thread's; ``None`` if it has none.

    Args:
        fd: Of the namespace.

    Raises:
        OSError: If the kernel refuses.

    Source: net/core/net_namespace.c rtnl_net_getid().
    """
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as asks:
        asks.settimeout(10)
        asks.send(_GET_NSID.pack(28, _RTM_GETNSID, _NLM_F_REQUEST, 1, 0, 0, 8, _NETNSA_FD, fd))
        answer = asks.recv(_RECEIVE_OCTETS)
    kind = _HEADER.unpack_from(answer)[1]
    if kind == _NLMSG_ERROR:
        raise OSError(-_INT.unpack_from(answer, _HEADER.size)[0], "which number has a namespace")
    at = _HEADER.size + 4
    while at + 4 <= len(answer):
        length, attribute = _ATTRIBUTE.unpack_from(answer, at)
        if attribute == _NETNSA_NSID:
            number: int = _INT.unpack_from(answer, at + 4)[0]
            return None if number < 0 else number
        at += max(length + 3 & ~3, 4)
    return None


def _news_of(message: Any) -> Iterator[LinkNews]:
    kind = message["header"]["type"]
    # A bridge port that leaves its bridge is an RTM_DELLINK of family AF_BRIDGE: it is not gone.
    if kind not in (_RTM_NEWLINK, _RTM_DELLINK) or message["family"] != socket.AF_UNSPEC:
        return
    name = message.get("ifname")
    if isinstance(name, bytes):  # what pyroute2 makes of a name that is not UTF-8
        name = name.rstrip(b"\0").decode(errors="replace")
    if name:
        info = message.get("linkinfo")
        yield LinkNews(
            message["index"],
            name,
            message["ifi_type"],
            kind == _RTM_DELLINK,
            (info.get("kind") if info is not None else None) or "",
            message.get("address") or "",
            message.get("link") or 0,
            message.get("link_netnsid"),
        )
