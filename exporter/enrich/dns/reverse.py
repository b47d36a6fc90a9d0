"""
Names that DNS servers give for addresses: PTR queries, RFC 1035 section 3.5, RFC 3596 section 2.5.

Asked by a thread of its own, never faster than configured. Each query has a random number and a
socket of its own, so a random port; an answer counts if it comes from the asked server to that
socket with that number and that question. Bounded: what waits, what is under way, what is kept.
"""

from __future__ import annotations

import logging
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_network
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporter.enrich.base import Addresses, State
from exporter.enrich.dns.config import ReverseConfig, split_resolver
from exporter.enrich.dns.message import IN, PTR, Malformed, Message, answers, parse, query
from exporter.enrich.dns.table import Lifetime, NameTable
from exporter.errors import ConfigError

log = logging.getLogger(__name__)

#: Addresses that wait or are asked for, and queries under way.
_UNSETTLED, _UNDER_WAY = 10_000, 64
#: Queries in a row without an answer, after which a resolver counts as away.
_AWAY = 5
_NO_ERROR, _NO_NAME = 0, 3
_LARGEST = 65_535
_RESOLV_CONF = Path("/etc/resolv.conf")


class Networks:
    """
    Some networks.

    Args:
        cidrs: Of both families.
    """

    def __init__(self, cidrs: tuple[str, ...]) -> None:
        parsed = [ip_network(cidr) for cidr in cidrs]
        self._masks = [
            (_words(net.netmask.packed, 0xFF), _words(net.network_address.packed, 0))
            for net in parsed
        ]

    def contain(self, addresses: Addresses) -> NDArray[np.bool_]:
        """Which of the addresses are in one of them, shape (u,)."""
        words = addresses.words()
        found = np.zeros(len(addresses), np.bool_)
        for mask, value in self._masks:
            found |= (words[:, 0] & mask[0] == value[0]) & (words[:, 1] & mask[1] == value[1])
        return found


def _words(packed: bytes, before: int) -> NDArray[np.uint64]:
    """As ``Addresses.words``; an IPv4 one as ::ffff/96, or its mask with ones before it."""
    if len(packed) == 4:
        packed = (b"\xff" * 12 if before else bytes(10) + b"\xff\xff") + packed
    return np.frombuffer(packed, np.uint64)


def pointer_name(address: bytes) -> str:
    """What to ask for: 16 octets as in in-addr.arpa or ip6.arpa."""
    one = IPv6Address(address)
    return (one.ipv4_mapped or one).reverse_pointer


@dataclass
class Asked:
    """
    A query under way.

    Args:
        address: That is asked for.
        name: As it is asked.
        attempt: Of this query, from 0.
        number: Random.
        deadline: Of the clock.
        channel: Connected to the resolver.
    """

    address: bytes
    name: str
    attempt: int
    number: int
    deadline: float
    channel: socket.socket


@dataclass
class Counts:
    """
    What became of queries.

    Args:
        sent: All of them.
        named, unnamed: Addresses that have a name, and that have none.
        failed: Addresses that no resolver said anything of.
        foreign: Datagrams that are no answer to the query.
        left_out: Addresses of drains that were not asked for, because too many waited, or because
            the drain had too many that are not known.
    """

    sent: int = 0
    named: int = 0
    unnamed: int = 0
    failed: int = 0
    foreign: int = 0
    left_out: int = 0


class ReverseNames:
    """
    What DNS servers say.

    Args:
        config: Whom to ask, for what, how fast.
        clock: Seconds, for deadlines and the rate.
        wall_ns: Unix time, for how long a name holds.
    """

    def __init__(
        self,
        config: ReverseConfig,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._config = config
        self._clock, self._wall_ns = clock, wall_ns
        self._networks = Networks(config.cidrs())
        self._resolvers: list[tuple[str, int]] = []
        self._lock = threading.Lock()
        #: Address -> queries so far, of those that wait for their turn.
        self._waiting: dict[bytes, int] = {}
        #: Those that wait, and those that are asked for.
        self._unsettled: set[bytes] = set()
        self._asked: dict[bytes, Asked] = {}
        self._next = 0.0
        self._silent = 0
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._selector: selectors.BaseSelector | None = None
        self.table = NameTable(config.addresses, Lifetime(config.minimum, config.maximum, 0))
        self.counts = Counts()

    def open(self) -> None:
        """
        Begin to ask.

        Raises:
            ConfigError: If there is no resolver.
        """
        found = self._config.resolvers or _configured_resolvers()
        if not found:
            raise ConfigError(
                f"enrich.names.reverse: {_RESOLV_CONF} names no server: set resolvers"
            )
        self._resolvers = [split_resolver(one) for one in found]
        self._stopped = False
        self._wake = socket.socketpair()
        for end in self._wake:
            end.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake[0], selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="reverse-dns", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; queries under way are dropped. Again is fine."""
        if self._thread is None or self._wake is None or self._selector is None:
            return
        self._stopped = True
        self._nudge()
        self._thread.join()
        self._thread = None
        for asked in self._asked.values():
            asked.channel.close()
        self._asked.clear()
        self._waiting.clear()
        self._unsettled.clear()
        self._selector.close()
        for end in self._wake:
            end.close()
        log.debug("reverse DNS: %s", self.counts)

    def find(
        self, addresses: Addresses, wanted: NDArray[np.bool_]
    ) -> tuple[NDArray[np.uint32], tuple[str | None, ...]]:
        """
        Names that are known, as ``NameTable.names``. Others are asked for.

        Args:
            addresses: Of a batch.
            wanted: Which of them have no name yet, shape (u,).
        """
        chosen = np.flatnonzero(wanted & self._networks.contain(addresses))
        some = addresses
        if len(chosen) < len(addresses):
            some = Addresses(addresses.octets.take(chosen, axis=0), addresses.window)
        numbers = np.zeros(len(addresses), np.uint32)
        with self._lock:
            slots = self.table.find(some)
            found, names = self.table.names(slots)
            self._ask_for(some.octets[slots == 0], some.window.end_ns)
        numbers[chosen] = found
        return numbers, names

    def state(self) -> State:
        """What it holds, and whether somebody answers."""
        problem = ""
        if self._silent >= _AWAY:
            servers = ", ".join(f"{host}:{port}" for host, port in self._resolvers)
            problem = f"no answer from {servers} to the last {self._silent} queries"
        events = {f"reverse_{name}": count for name, count in vars(self.counts).items()}
        table = self.table
        return State(problem, evictions=table.evictions, entries=len(table), events=events)

    def _ask_for(self, octets: NDArray[np.uint8], end_ns: int) -> None:
        """
        With the lock held. What is on its way already stays so, and what came between the end of
        the batch and now is no part of it, but need not be asked for again.
        """
        self.counts.left_out += max(len(octets) - _UNSETTLED, 0)
        for address in map(bytes, octets[:_UNSETTLED]):
            if address in self._unsettled or self.table.until(address) > end_ns:
                continue
            if len(self._unsettled) >= _UNSETTLED:
                self.counts.left_out += 1
                continue
            self._unsettled.add(address)
            self._waiting[address] = 0
        if self._waiting:
            self._nudge()

    def _nudge(self) -> None:
        if self._wake is not None:
            try:
                self._wake[1].send(b"\0")
            except BlockingIOError:
                return  # it is awake enough

    def _run(self) -> None:
        assert self._selector is not None, "open() comes first"
        while not self._stopped:
            self._send_due()
            for key, _ in self._selector.select(self._patience()):
                if key.data is None:
                    self._drain_nudges()
                else:
                    self._receive(key.data)
            self._give_up_late()

    def _drain_nudges(self) -> None:
        assert self._wake is not None, "open() comes first"
        try:
            self._wake[0].recv(4096)
        except BlockingIOError:
            return

    def _patience(self) -> float | None:
        """Seconds until there is something to do."""
        now, times = self._clock(), [asked.deadline for asked in self._asked.values()]
        with self._lock:
            if self._waiting and len(self._asked) < _UNDER_WAY:
                times.append(self._next)
        return max(min(times) - now, 0) if times else None

    def _send_due(self) -> None:
        """One query, if the rate allows it."""
        now = self._clock()
        with self._lock:
            if not self._waiting or len(self._asked) >= _UNDER_WAY or now < self._next:
                return
            address = next(iter(self._waiting))
            attempt = self._waiting.pop(address)
        self._send(address, attempt, now)
        # From after this one, so that no two are ever closer on the wire.
        self._next = self._clock() + 1 / self._config.rate

    def _send(self, address: bytes, attempt: int, now: float) -> None:
        host, port = self._resolvers[attempt % len(self._resolvers)]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        name, number = pointer_name(address), secrets.randbelow(1 << 16)
        self.counts.sent += 1
        try:
            channel = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError:
            self._try_again(address, attempt)
            return
        try:
            channel.connect((host, port))
            channel.send(query(number, name, PTR))
        except OSError:
            channel.close()
            self._try_again(address, attempt)
            return
        assert self._selector is not None, "open() comes first"
        asked = Asked(address, name, attempt, number, now + self._config.timeout, channel)
        self._asked[address] = asked
        self._selector.register(channel, selectors.EVENT_READ, asked)

    def _receive(self, asked: Asked) -> None:
        try:
            octets = asked.channel.recv(_LARGEST)
        except BlockingIOError:
            return
        except OSError:
            self._finish(asked)
            self._try_again(asked.address, asked.attempt)
            return
        try:
            message = parse(octets)
            if not _answers(message, asked):
                self.counts.foreign += 1
                return
            found = answers(message, PTR)
        except Malformed:
            self.counts.foreign += 1
            return
        self._finish(asked)
        self._silent = 0
        if message.rcode not in (_NO_ERROR, _NO_NAME):
            self._try_again(asked.address, asked.attempt, silent=False)
            return
        name = next((str(value) for value in found.values), "")
        self._learn(asked.address, name, found.ttl if name else self._config.negative)
        self.counts.named += bool(name)
        self.counts.unnamed += not name

    def _learn(self, address: bytes, name: str, ttl: float) -> None:
        with self._lock:
            self._unsettled.discard(address)
            self.table.learn(address, name, ttl, self._wall_ns())

    def _finish(self, asked: Asked) -> None:
        assert self._selector is not None, "open() comes first"
        self._selector.unregister(asked.channel)
        asked.channel.close()
        del self._asked[asked.address]

    def _try_again(self, address: bytes, attempt: int, *, silent: bool = True) -> None:
        self._silent += silent
        if attempt + 1 < self._config.attempts:
            with self._lock:
                self._waiting[address] = attempt + 1
            return
        self.counts.failed += 1
        self._learn(address, "", self._config.negative)

    def _give_up_late(self) -> None:
        now = self._clock()
        for asked in [one for one in self._asked.values() if one.deadline <= now]:
            self._finish(asked)
            self._try_again(asked.address, asked.attempt)


def _answers(message: Message, asked: Asked) -> bool:
    return (
        message.response
        and message.id == asked.number
        and message.question == (asked.name, PTR, IN)
    )


def _configured_resolvers() -> tuple[str, ...]:
    """Source: resolv.conf(5)."""
    try:
        lines = _RESOLV_CONF.read_text().splitlines()
    except OSError:
        return ()
    rows = [line.split() for line in lines]
    return tuple(row[1] for row in rows if len(row) > 1 and row[0] == "nameserver")
