"""Names of addresses and how long they hold. Bounded; not thread-safe."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import Window
from exporter.batch.group import equal_rows, hash_words
from exporter.enrich.base import Addresses

_SECOND = 10**9
_NEVER = np.uint64((1 << 64) - 1)
#: Share of the room that is made at once: looking for what goes first takes time.
_MADE_AT_ONCE = 16


@dataclass(frozen=True)
class Lifetime:
    """
    How long a name holds: TTL within bounds, plus grace.

    Args:
        minimum, maximum, grace: Seconds.
    """

    minimum: float
    maximum: float
    grace: float

    def of(self, ttl: float) -> int:
        """Ns."""
        return int((min(max(ttl, self.minimum), self.maximum) + self.grace) * _SECOND)


class NameTable:
    """
    address -> name, from when until when.

    Args:
        capacity: Addresses.
        lifetime: Of a name.
    """

    def __init__(self, capacity: int, lifetime: Lifetime) -> None:
        self._capacity = capacity
        self._lifetime = lifetime
        self._slots: dict[bytes, int] = {}
        # Slot 0 stands for an address that is not here, and never holds.
        self._names = [""]
        self._addresses = [b""]
        self._named = np.zeros(capacity + 1, np.bool_)
        self._since = np.full(capacity + 1, _NEVER, np.uint64)
        self._until = np.zeros(capacity + 1, np.uint64)
        self._words = np.zeros((capacity + 1, 2), np.uint64)
        #: Hashes of the addresses in order, and their slots; until an address comes or goes.
        self._index: tuple[NDArray[np.uint64], NDArray[np.uint32]] | None = None
        self._free: list[int] = []
        #: Names that still held and had to make room.
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._slots)

    def learn(self, address: bytes, name: str, ttl: float, time_ns: int) -> None:
        """
        The name of an address from a time on. Of several names, the latest counts.

        Args:
            address: 16 octets.
            name: For it.
            ttl: Seconds.
            time_ns: When, Unix.
        """
        until = time_ns + self._lifetime.of(ttl)
        slot = self._slots.get(address, 0)
        # One that is known only from a later time on is of before the clock was set back.
        held = slot and self._since[slot] <= time_ns <= self._until[slot]
        if held and self._names[slot] == name:
            # A resolver's cache hands out what is left of a TTL.
            self._until[slot] = max(until, int(self._until[slot]))
            return
        if not slot:
            slot = self._slot(time_ns)
            self._slots[address] = slot
            self._words[slot] = np.frombuffer(address, np.uint64)
            self._index = None
            self._addresses[slot] = address
        self._names[slot] = name
        self._named[slot] = bool(name)
        self._since[slot], self._until[slot] = time_ns, until

    def find(self, addresses: Addresses) -> NDArray[np.uint32]:
        """
        Which names hold at some moment of the addresses' window and were known at its end.

        Returns:
            For :meth:`name`, shape (u,); 0 where there is none.
        """
        count = len(addresses)
        if not self._slots:
            return np.zeros(count, np.uint32)
        slots = self._find(addresses)
        window: Window = addresses.window
        holds = self._since.take(slots) <= window.end_ns
        holds &= self._until.take(slots) >= window.start_ns
        return np.where(holds, slots, np.uint32(0))

    def until(self, address: bytes) -> int:
        """Until when the name of an address of 16 octets holds, Unix ns; 0 if there is none."""
        return int(self._until[self._slots.get(address, 0)])

    def _find(self, addresses: Addresses) -> NDArray[np.uint32]:
        """Slots of addresses, 0 for none: hashes in order take a fifth of a dictionary's time."""
        if self._index is None:
            used = np.flatnonzero(self._since[: len(self._names)] != _NEVER).astype(np.uint32)
            hashes = hash_words(self._words.take(used, axis=0))
            order = np.argsort(hashes)
            self._index = hashes.take(order), used.take(order)
        known, slots = self._index
        words, hashes = addresses.words(), addresses.hashes
        places = np.searchsorted(known, hashes)
        places[places == len(known)] = 0
        found = slots[places]
        right = equal_rows(self._words, found, words)
        # Different addresses of one hash: as good as never, and told apart.
        for place in np.flatnonzero(~right & (known[places] == hashes)).tolist():
            found[place] = self._slots.get(words[place].tobytes(), 0)
            right[place] = True
        return np.where(right, found, np.uint32(0))

    def names(self, slots: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], tuple[str | None, ...]]:
        """
        The names of a batch alone, not those of the whole table.

        Args:
            slots: As :meth:`find` gave them, before anything else is learned; shape (u,).

        Returns:
            Which name each has, uint32, shape (u,), 0 for none; and the names, the first ``None``.
        """
        there = np.zeros(len(self._names), np.bool_)
        there[slots] = True
        there &= self._named[: len(there)]
        used = np.flatnonzero(there)
        numbers = np.zeros(len(there), np.uint32)
        numbers[used] = np.arange(1, len(used) + 1, dtype=np.uint32)
        # The empty name of slot 0 twice: itemgetter of one place gives that alone, no tuple.
        _, _, *names = itemgetter(0, 0, *used.tolist())(self._names)
        return numbers[slots], (None, *names)

    def _slot(self, now_ns: int) -> int:
        if len(self._names) <= self._capacity:
            self._names.append("")
            self._addresses.append(b"")
            return len(self._names) - 1
        if not self._free:
            self._make_room(now_ns)
        return self._free.pop()

    def _make_room(self, now_ns: int) -> None:
        """Forget what holds no more, or else what would first."""
        gone = np.flatnonzero(self._until[1:] < now_ns) + 1
        if not len(gone):
            wanted = max(self._capacity // _MADE_AT_ONCE, 1)
            gone = np.argpartition(self._until[1:], wanted - 1)[:wanted] + 1
            self.evictions += wanted
        for slot in gone.tolist():
            del self._slots[self._addresses[slot]]
            self._names[slot], self._addresses[slot] = "", b""
        self._since[gone], self._until[gone], self._named[gone] = _NEVER, 0, False
        self._index = None
        self._free += gone.tolist()
