"""
All objects with their addresses, now and a while ago.

Threads that hear of changes write; the thread that drains reads. Both hold the lock for as long as
it takes to change some entries, or to answer for a whole batch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from exporter.enrich.base import Addresses
from exporter.enrich.kubernetes.addresses import AddressTable, Row, row_of
from exporter.enrich.kubernetes.history import (
    I8,
    Hold,
    Holds,
    Mask,
    chain,
    holds_of,
)
from exporter.enrich.kubernetes.objects import Entity, Item, Link, Owner

#: How long it is remembered who had an address. Drains are seconds apart, a minute at most.
KEEP_NS = 300 * 1_000_000_000
#: How many ended times are remembered; the oldest are forgotten for more.
KEEP = 1 << 16


@dataclass(frozen=True)
class Moment:
    """
    When something was learned.

    Args:
        now_ns: Now, Unix ns.
        caught_up_ns: Everything that was so then was known then: it happened after that.
    """

    now_ns: int
    caught_up_ns: int


@dataclass(frozen=True)
class Answer:
    """
    What is known of u addresses.

    Args:
        slots: int64, shape (u,): who has each, 0 for nobody or where it depends on when.
        timed: bool, shape (u,): it depends on when.
        holds: Of those, in order.
    """

    slots: I8
    timed: Mask
    holds: Holds


class Index:
    """
    Objects by uid, and who has or had an address.

    Args:
        resolution_ns: Of the times that the API tells: they are cut off to seconds.
    """

    def __init__(self, resolution_ns: int = 1_000_000_000) -> None:
        self._resolution_ns = resolution_ns
        self.lock = threading.Lock()
        self._entities: dict[str, dict[str, Entity]] = {}
        self._slot_of: dict[str, int] = {}
        #: By slot, also of those that are gone while somebody may ask about them.
        self._objects: list[Entity | None] = [None]
        self._uses: list[int] = [0]
        self._free: list[int] = []
        self._holds: dict[bytes, Hold] = {}
        self._ended: deque[tuple[int, bytes]] = deque()
        self._table = AddressTable()
        self._pending: set[bytes] = set()
        self._links: dict[str, dict[str, Link]] = {}
        self._owners: dict[tuple[str, str, str], Link] = {}
        self._old_links: deque[tuple[int, Link]] = deque()
        self._nodes: dict[str, Entity] = {}
        #: Slots whose object has changed since they were asked for, and whether all may have.
        self._changed: set[int] = set()
        self._all_changed = False
        self.evictions = 0
        #: Called after some changes, without the lock.
        self.on_settle: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._holds)

    def put(self, item: Item, moment: Moment) -> None:
        """An object is there, or is another one now."""
        with self.lock:
            if isinstance(item, Link):
                self._put_link(item)
            else:
                self._put(item, moment)

    def remove(self, kind: str, uid: str, moment: Moment) -> None:
        """An object is gone."""
        with self.lock:
            self._remove(kind, uid, moment)

    def settle(self) -> None:
        """No more changes for a moment: time to prepare for questions."""
        self.on_settle()

    def uids(self, kind: str) -> set[str]:
        """All objects of a kind."""
        with self.lock:
            return {*self._entities.get(kind, ()), *self._links.get(kind, ())}

    def look_up(self, addresses: Addresses, start_ns: int) -> Answer:
        """
        Who has addresses. The caller has the lock.

        Args:
            addresses: Of a batch.
            start_ns: No flow began before, Unix ns.
        """
        self.merge()
        words = addresses.words()
        rows = self._table.find(words, addresses.hashes)
        slots, since = self._table.take(rows)
        timed = since > start_ns
        slots[timed] = 0
        asked = [packed.tobytes() for packed in words[timed]]
        holds = holds_of([chain(self._holds[packed]) for packed in asked])
        return Answer(slots, timed, holds)

    def object(self, slot: int) -> Entity | None:
        """What a slot stands for. The caller has the lock."""
        return self._objects[slot]

    def node(self, name: str) -> Entity | None:
        """By name. The caller has the lock."""
        return self._nodes.get(name)

    def owner(self, one: Entity) -> Owner:
        """The topmost owner that is known; a thing that nobody owns is its own."""
        if one.owner is None:
            return one.kind, one.name
        kind, name = one.owner
        link = self._owners.get((kind, one.namespace, name))
        return link.owner if link and link.owner else one.owner

    def changes(self) -> tuple[set[int], bool, int]:
        """
        Slots whose object has changed since the last call, whether all may have; how many there
        are. The caller has the lock.
        """
        found = self._changed, self._all_changed, len(self._objects)
        self._changed, self._all_changed = set(), False
        return found

    def forget(self, before_ns: int) -> None:
        """What ended before that, and what is too much. Unix ns."""
        with self.lock:
            while self._ended and (self._ended[0][0] < before_ns or len(self._ended) > KEEP):
                ended, address = self._ended.popleft()
                self.evictions += ended >= before_ns
                self._drop(address, ended)
            while self._old_links and self._old_links[0][0] < before_ns:
                _, link = self._old_links.popleft()
                key = (link.kind, link.namespace, link.name)
                if self._owners.get(key) is link:
                    del self._owners[key]

    def _put(self, new: Entity, moment: Moment) -> None:
        known = self._entities.setdefault(new.kind, {})
        old = known.get(new.uid)
        if new.kind == "Node":
            self._put_node(new)
        if not new.addresses and new.kind != "Node":
            self._remove(new.kind, new.uid, moment)
            return
        known[new.uid] = new
        had = old.addresses if old else ()
        slot = self._slot_of.get(new.uid)
        if slot is None:
            slot = self._slot_of[new.uid] = self._take_slot()
        if old != new:
            self._objects[slot] = new
            self._changed.add(slot)
        # The first address of an object is its own from the beginning, though it is told late.
        possible_from, there_from = new.since_ns, new.since_ns + self._resolution_ns
        if had:
            possible_from = max(possible_from, moment.caught_up_ns)
            there_from = moment.now_ns
        for address in new.addresses:
            if address not in had:
                before = self._holds.get(address)
                hold = Hold(slot, possible_from, there_from, moment.now_ns, before)
                self._holds[address] = hold
                self._uses[slot] += 1
                self._pending.add(address)
        for address in had:
            if address not in new.addresses:
                self._end(address, slot, moment)

    def _put_node(self, new: Entity) -> None:
        old = self._nodes.get(new.name)
        self._nodes[new.name] = new
        if old is None or (old.zone, old.host) != (new.zone, new.host):
            self._all_changed = True

    def _put_link(self, link: Link) -> None:
        if link.owner is None:
            return
        key = (link.kind, link.namespace, link.name)
        old = self._owners.get(key)
        self._owners[key] = self._links.setdefault(link.kind, {})[link.uid] = link
        if old is None or old.owner != link.owner:
            self._all_changed = True

    def _remove(self, kind: str, uid: str, moment: Moment) -> None:
        link = self._links.get(kind, {}).pop(uid, None)
        if link is not None:
            # Its pods may be asked about for a while.
            self._old_links.append((moment.now_ns, link))
        old = self._entities.get(kind, {}).pop(uid, None)
        if old is None:
            return
        if kind == "Node" and self._nodes.get(old.name) is old:
            del self._nodes[old.name]
        slot = self._slot_of.pop(uid)
        for address in old.addresses:
            self._end(address, slot, moment)
        if not self._uses[slot]:
            self._give_slot(slot)

    def _end(self, address: bytes, slot: int, moment: Moment) -> None:
        for one in chain(self._holds.get(address)):
            if one.slot == slot and one.lasts:
                one.end(moment.caught_up_ns, moment.now_ns)
                self._ended.append((one.possible_to, address))
        self._pending.add(address)

    def _drop(self, address: bytes, ended: int) -> None:
        """Forget the times with an address that ended then or before."""
        kept: Hold | None = None
        for one in reversed(chain(self._holds.get(address))):
            if one.possible_to <= ended:
                self._uses[one.slot] -= 1
                if not self._uses[one.slot] and self._is_gone(one.slot):
                    self._give_slot(one.slot)
            else:
                one.before = kept
                kept = one
        if kept is None:
            self._holds.pop(address, None)
        else:
            self._holds[address] = kept
        self._pending.add(address)

    def _is_gone(self, slot: int) -> bool:
        one = self._objects[slot]
        return one is not None and self._slot_of.get(one.uid) != slot

    def _take_slot(self) -> int:
        if self._free:
            return self._free.pop()
        self._objects.append(None)
        self._uses.append(0)
        return len(self._objects) - 1

    def _give_slot(self, slot: int) -> None:
        self._objects[slot] = None
        self._free.append(slot)

    def merge(self) -> None:
        """Take over what has changed since. The caller has the lock."""
        changes: dict[bytes, Row | None] = {}
        for address in self._pending:
            newest = self._holds.get(address)
            changes[address] = row_of(newest) if newest else None
        self._pending = set()
        self._table.merge(changes)
