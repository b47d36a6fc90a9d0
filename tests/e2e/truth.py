"""
Who held which address when, and what a flow's ends must therefore be attributed to.

Written down by the test that moves the addresses, without asking anything that is under test.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

#: Kinds of what can hold an address, as the API has them.
POD, NODE, SERVICE = "Pod", "Node", "Service"


@dataclass(frozen=True)
class Thing:
    """
    What an address can belong to.

    Args:
        kind: POD, NODE or SERVICE.
        name: Its own.
        namespace: Empty for nodes.
        uid: The API server's; two pods of one name, one after the other, differ in it.
        owner: Kind and name of what is at the top: a Deployment, not its ReplicaSet; a pod that
            nobody owns is its own.
        node: Where it runs; empty for services.
        zone: Of the node.
        labels: Its own.
    """

    kind: str
    name: str
    namespace: str = ""
    uid: str = ""
    owner: tuple[str, str] = ("", "")
    node: str = ""
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass
class Hold:
    """
    One thing held an address for some time; Unix nanoseconds.

    Args:
        what: The thing.
        since_ns: From here on the address was its own.
        known_ns: From here on the API server says so; ``None`` while it does not.
        until_ns: From here on it was not; ``None`` while it is.
        gone_ns: From here on the API server says so; ``None`` while it does not.
    """

    what: Thing
    since_ns: int
    known_ns: int | None = None
    until_ns: int | None = None
    gone_ns: int | None = None

    def overlaps(self, start_ns: int, end_ns: int) -> bool:
        """Whether it held the address at some time of these."""
        return self.since_ns <= end_ns and (self.until_ns is None or start_ns < self.until_ns)

    def covers(self, start_ns: int, end_ns: int) -> bool:
        """Whether it held the address all of the time, and the API server said so."""
        known = self.known_ns is not None and self.known_ns <= start_ns
        return known and (self.until_ns is None or end_ns < self.until_ns)


@dataclass(frozen=True)
class Verdict:
    """
    What one end of a flow may be attributed to.

    Args:
        right: Those who held the address; more than one only if the flow spans a move.
        unknown: Whether "nothing is known" is right too.
        left: Who held it just before, and nobody since: its last packets may still be on the way.
            Right only while ``right`` is empty.
    """

    right: tuple[Thing, ...]
    unknown: bool
    left: tuple[Thing, ...] = ()

    def accepts(self, kind: str, namespace: str, name: str) -> bool:
        """Whether an attribution is right; empty words for none."""
        if not (kind or namespace or name):
            return self.unknown
        return bool(self.those(kind, namespace, name))

    def those(self, kind: str, namespace: str, name: str) -> list[Thing]:
        """Who of those that are right is called so."""
        asked = (kind, namespace, name)
        return [one for one in self.right + self.left
                if (one.kind, one.namespace, one.name) == asked]  # fmt: skip


class Truth:
    """
    All that was held. Threads may write at the same time.

    A hold begins with :meth:`take` before the API server is told, and is confirmed by
    :meth:`known` after it has answered; it ends likewise.
    """

    def __init__(self) -> None:
        self._holds: dict[bytes, list[Hold]] = defaultdict(list)
        self._lock = threading.Lock()

    def take(self, address: str, what: Thing) -> Hold:
        """From now on an address is a thing's."""
        made = Hold(what, time.time_ns())
        self.add(address, made)
        return made

    def add(self, address: str, hold: Hold) -> None:
        """Write down what is known already: later than all that was of this address."""
        with self._lock:
            self._holds[packed(address)].append(hold)

    @staticmethod
    def known(*holds: Hold) -> None:
        """The API server has answered: it says so from now on."""
        now = time.time_ns()
        for hold in holds:
            hold.known_ns = now

    @staticmethod
    def leave(*holds: Hold) -> None:
        """From now on the address is not the thing's."""
        now = time.time_ns()
        for hold in holds:
            hold.until_ns = now

    @staticmethod
    def gone(*holds: Hold) -> None:
        """The API server has answered: it says so from now on."""
        now = time.time_ns()
        for hold in holds:
            hold.gone_ns = now

    def of(self, address: str | bytes) -> tuple[Hold, ...]:
        """Who held an address, in order of time."""
        key = address if isinstance(address, bytes) else packed(address)
        with self._lock:
            return tuple(self._holds.get(key, ()))

    def last(self, address: str | bytes, start_ns: int) -> Verdict:
        """Who had left an address last by then, however long ago."""
        before = [one for one in self.of(address)
                  if one.until_ns is not None and one.until_ns <= start_ns]  # fmt: skip
        return Verdict((), unknown=True, left=tuple(one.what for one in before[-1:]))

    def addresses(self) -> list[str]:
        """All that anybody ever held."""
        with self._lock:
            keys = list(self._holds)
        return [text(key) for key in keys]

    def expect(
        self, address: str | bytes, start_ns: int, end_ns: int, lag_ns: int = 0, slack_ns: int = 0
    ) -> Verdict:
        """
        What a flow's end must be attributed to.

        Never another that has, had or will have the address, at whatever time. What a node's
        address is, is the node, although pods of the host's network say that it is theirs.

        Args:
            address: Text, or 16 octets with IPv4 as ::ffff/96.
            start_ns: Of the flow, Unix.
            end_ns: Likewise.
            lag_ns: What an agent may take to hear of what the API server says: for so long
                "unknown" is right, and so is who held the address last, if nobody does now.
            slack_ns: How wrong the times of flows may be.
        """
        start, end = start_ns - slack_ns, end_ns + slack_ns
        holds = [one for one in self.of(address) if one.what.kind in (NODE, SERVICE, POD)]
        nodes = [one for one in holds if one.what.kind == NODE]
        if nodes:
            right = tuple(one.what for one in nodes if one.overlaps(start, end))
            return Verdict(right, unknown=True)
        there = [one for one in holds if one.overlaps(start, end)]
        if there:
            sure = len(there) == 1 and there[0].covers(start - lag_ns, end)
            return Verdict(tuple(one.what for one in there), unknown=not sure)
        before = [one for one in holds if one.until_ns is not None and one.until_ns <= start]
        last = before[-1:]
        lately = [one for one in last if one.gone_ns is None or start < one.gone_ns + lag_ns]
        return Verdict((), unknown=True, left=tuple(one.what for one in lately))


def packed(address: str) -> bytes:
    """16 octets; IPv4 as ::ffff/96."""
    octets = ip_address(address).packed
    return octets if len(octets) == 16 else bytes(10) + b"\xff\xff" + octets


def text(octets: bytes) -> str:
    """As an address is written; IPv4 if it is."""
    address = IPv6Address(octets)
    return str(address.ipv4_mapped or address)
