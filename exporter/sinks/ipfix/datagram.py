"""
IPFIX over UDP: at most once.

No datagram is sent twice. What the kernel does not take stays with the sender and is sent when it
does; what the network or the collector loses is lost, and only the collector can tell, by the
sequence numbers. If the collector's host says that nobody listens, records wait until somebody
does: a new Transport Session begins with the templates, and only when no such word comes back do
records follow.

Source: RFC 7011 sections 8.4 and 10.3.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections.abc import Iterator

from exporter.sinks.ipfix.config import LARGEST_FRAME, LONGEST, IpfixConfig
from exporter.sinks.ipfix.deliver import connect
from exporter.sinks.ipfix.encode import (
    HEADER_OCTETS,
    SET_OCTETS,
    Flows,
    data_set,
)
from exporter.sinks.ipfix.session import Session
from exporter.sinks.ipfix.template import Template
from exporter.sinks.ipfix.transport import Transport, left

# linux/in.h, linux/in6.h; Python's socket module does not have them all.
_IP_MTU_DISCOVER, _IP_MTU, _IPV6_MTU_DISCOVER, _IPV6_MTU, _PMTUDISC_DO = 10, 14, 23, 24, 2
_UDP_HEADER, _IPV4_HEADER, _IPV6_HEADER = 8, 20, 40
#: Seconds in which a host that has no collector says so.
_REFUSAL = 0.05
#: Seconds that sending may be ahead of its pace before it waits.
_AHEAD = 0.002


class DatagramTransport(Transport):
    """
    One collector over UDP.

    Args:
        config: Where to. Nothing is opened before :meth:`send`.
        templates: Of flow records.
    """

    def __init__(self, config: IpfixConfig, templates: tuple[Template, ...]) -> None:
        super().__init__(config, templates)
        self._limit = 0
        #: A message that was sent in part, and how many of its rows were.
        self._part: tuple[Flows | None, int] = (None, 0)
        self._free_at = 0.0

    def _send(self, flows: Flows, domain: int, deadline: float) -> None:
        """Records of the same message that were sent by an earlier call are not sent again."""
        link, session = self._opened(flows, domain, left(deadline))
        self._send_all(link, session, flows)

    def _opened(self, flows: Flows, domain: int, timeout: float) -> tuple[socket.socket, Session]:
        if self._socket is None or self._session is None:
            self._socket = connect(self._config.target, socket.SOCK_DGRAM, timeout, _never_fragment)
            # Blocking with a kernel's timeout: Python's own costs a poll for each datagram.
            self._socket.setblocking(True)
            self._socket.setsockopt(
                socket.SOL_SOCKET,
                socket.SO_SNDTIMEO,
                struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6)),
            )
            self._session = Session(domain, self._templates, self._config.template_interval)
            self._announce(self._socket, self._session, flows)
            _await_refusal(self._socket)
        else:
            self._announce(self._socket, self._session, flows)
        return self._socket, self._session

    def _announce(self, link: socket.socket, session: Session, flows: Flows) -> None:
        # A path that took less for a while may take more again.
        self._limit = self._longest(link)
        for octets, _ in session.due(flows, self._limit):
            self._wait_for_pace(len(octets))
            link.send(octets)

    def _send_all(self, link: socket.socket, session: Session, flows: Flows) -> None:
        message, sent = self._part
        if message is not flows:
            sent = 0
        while sent < len(flows.rows):
            try:
                for count in self._datagrams(link, session, flows, sent):
                    sent += count
            except OSError as err:
                self._part = flows, sent
                if err.errno != errno.EMSGSIZE or not self._shrink(link):
                    raise
        self._part = None, 0

    def _datagrams(
        self, link: socket.socket, session: Session, flows: Flows, first: int
    ) -> Iterator[int]:
        """Send rows from one on; yields how many went with each datagram."""
        octets = flows.template.octets
        step = max((self._limit - HEADER_OCTETS - SET_OCTETS) // octets, 1) * octets
        records, now = memoryview(flows.payload), int(time.time())
        for start in range(first * octets, len(records), step):
            part = records[start : start + step]
            count = len(part) // octets
            if self._config.pace:
                self._wait_for_pace(HEADER_OCTETS + SET_OCTETS + len(part))
            before = session.sequence
            head = session.header(SET_OCTETS + len(part), count, now)
            try:
                link.sendmsg((head, data_set(flows.template, len(part)), part))
            except OSError:
                session.sequence = before
                raise
            yield count

    def _shrink(self, link: socket.socket) -> bool:
        """The path takes less than it did. Returns whether there is something smaller to try."""
        limit = self._longest(link)
        smaller, self._limit = limit < self._limit, limit
        return smaller

    def _longest(self, link: socket.socket) -> int:
        """Octets of a message that go in one packet, as the kernel knows the path now."""
        if link.family == socket.AF_INET6:
            mtu, head = link.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU), _IPV6_HEADER
        else:
            mtu, head = link.getsockopt(socket.IPPROTO_IP, _IP_MTU), _IPV4_HEADER
        room = mtu - head - _UDP_HEADER
        return min(room, self._config.max_octets or LARGEST_FRAME - head - _UDP_HEADER, LONGEST)

    def _wait_for_pace(self, octets: int) -> None:
        if not self._config.pace:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + octets / self._config.pace
        if self._free_at - now > _AHEAD:
            time.sleep(self._free_at - now)


def _never_fragment(link: socket.socket) -> None:
    if link.family == socket.AF_INET6:
        link.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
    else:
        link.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)


def _await_refusal(link: socket.socket) -> None:
    """Raises the OSError that comes back from a host where nobody listens."""
    poll = select.poll()
    poll.register(link, 0)
    if poll.poll(1000 * _REFUSAL):
        error = link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, "nobody listens there")
