"""
Everything that agents are told, as the octets that they are told it in.

Written by the threads that list and watch, read by the server's; each change is encoded once,
however many agents there are. Bounded: changes that are more than :data:`REMEMBERED` ago are
forgotten, and who comes back later is told everything.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from dataclasses import dataclass

from exporter._pb import kube_cache_pb2 as pb
from exporter.enrich.kubernetes.cache.messages import encode
from exporter.enrich.kubernetes.index import Moment
from exporter.enrich.kubernetes.objects import Entity, Item, Link

#: Changes that a broken stream can be taken up after.
REMEMBERED = 100_000
#: Things in one message of a list.
PART = 500


@dataclass(frozen=True)
class News:
    """
    What is told next.

    Args:
        sequence: After it.
        parts: Changes, encoded: repeated fields of a message, which are joined by joining octets.
        everything: A list, not what happened since.
    """

    sequence: int
    parts: list[bytes]
    everything: bool


class Mirror:
    """What is there now, and what changed lately. As an index to those who list and watch."""

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._things: dict[str, dict[str, tuple[Item, bytes]]] = {}
        self._log: deque[bytes] = deque()
        self._sequence = 0

    def __len__(self) -> int:
        return sum(map(len, self._things.values()))

    def put(self, item: Item, _moment: Moment) -> None:
        """An object is there, or is another one now."""
        with self._lock:
            things = self._things.setdefault(item.kind, {})
            if _is_nothing(item):
                self._remove(item.kind, item.uid)
                return
            old = things.get(item.uid)
            if old is None or old[0] != item:
                octets = pb.Changes(changes=[encode(item)]).SerializeToString()
                things[item.uid] = item, octets
                self._add(octets)

    def remove(self, kind: str, uid: str, _moment: Moment) -> None:
        """An object is gone."""
        with self._lock:
            self._remove(kind, uid)

    def settle(self) -> None:
        """Nothing: agents look when they are told."""

    def uids(self, kind: str) -> set[str]:
        """All objects of a kind."""
        with self._lock:
            return set(self._things.get(kind, ()))

    def after(self, epoch: str, sequence: int) -> News:
        """What one who has come so far is told; everything, if that is not known any more."""
        with self._lock:
            missed = self._sequence - sequence
            if epoch == self.epoch and 0 <= missed <= len(self._log):
                parts = [self._log[at] for at in range(len(self._log) - missed, len(self._log))]
                return News(self._sequence, parts, everything=False)
            parts = [octets for kind in self._things.values() for _, octets in kind.values()]
            return News(self._sequence, parts, everything=True)

    def _remove(self, kind: str, uid: str) -> None:
        known = self._things.get(kind, {}).pop(uid, None)
        if known is not None:
            self._add(pb.Changes(changes=[encode(known[0], gone=True)]).SerializeToString())

    def _add(self, octets: bytes) -> None:
        self._sequence += 1
        self._log.append(octets)
        if len(self._log) > REMEMBERED:
            self._log.popleft()


def _is_nothing(item: Item) -> bool:
    """What no agent needs: pods without addresses, jobs that nobody owns."""
    if isinstance(item, Link):
        return item.owner is None
    assert isinstance(item, Entity)
    return not item.addresses and item.kind != "Node"
