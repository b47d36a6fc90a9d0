"""
A map with a memory of how it should be: what could not be written is tried again by itself.

::

    update ok ------> OK <------ retry ok ---- INSERT <---- update failed
    delete ok -----> gone <----- retry ok ---- DELETE <---- delete failed

The kernel may refuse a write that will succeed later: the map is full until something is deleted,
memory is short. The caller gets the error at once, and the entry stays here with the error and what
is still to be done; a thread tries again until the map is as it should be. Bounded by what the
caller wants in the map.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from exporter.ebpf.errors import BpfError, KeyNotFound
from exporter.ebpf.events import Action, Desired, EventRing, bare
from exporter.ebpf.pressure import Pressure
from exporter.ebpf.retry import Clock, RetryController, RetryPolicy, Round, SystemClock
from exporter.ebpf.table import Table
from exporter.ebpf.watched import WatchedMap, hopeless

_DEFAULT_RETRY = RetryPolicy()


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One element as it should be.

    Args:
        key: Octets.
        value: Octets that the key should have; of an entry to be deleted, those last known, empty
            if none are.
        desired: What is still to be done.
        error: Why that failed the last time, without traceback; ``None`` if nothing failed.
    """

    key: bytes
    value: bytes
    desired: Desired = Desired.OK
    error: BpfError | None = None


class CachedMap(WatchedMap):
    """
    A table that remembers what it should have and works towards it. Safe to use from any thread.

    A request that the kernel calls invalid (EINVAL, EOPNOTSUPP) changes nothing here: it would fail
    for ever. Neither does one whose condition (BPF_NOEXIST, BPF_EXIST) does not hold.

    ``close`` it, or use it in a ``with`` block: that ends the retries.

    Args:
        table: What is written. Stays the caller's, and stays open as long as this.
        events: Told of each write, also of retries; ``None`` for nobody.
        pressure: Fed with the number of entries wanted, those that wait to be inserted too: above
            1, more is wanted than fits.
        retry: When to try again.
        clock: By which time.
    """

    def __init__(
        self,
        table: Table,
        *,
        events: EventRing | None = None,
        pressure: Pressure | None = None,
        retry: RetryPolicy = _DEFAULT_RETRY,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(table, events=events, pressure=pressure)
        self._entries: dict[bytes, Entry] = {}
        # Keys of entries that are not OK; what fails again goes to the end, so that a round which
        # ends early does not try the same ones the next time.
        self._waiting: dict[bytes, None] = {}
        self._policy = retry
        self.controller = RetryController(
            f"retry {table.spec.name}", self.resolve, retry, clock or SystemClock()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the retries; entries stay as they are, and so does the map. Again is fine."""
        self.controller.close()

    def entry(self, key: bytes) -> Entry | None:
        """What is wanted of ``key``, if anything is."""
        with self._lock:
            return self._entries.get(key)

    def entries(self) -> list[Entry]:
        """All entries with what is still to be done, in the order in which they came."""
        with self._lock:
            return list(self._entries.values())

    def waiting(self) -> int:
        """Entries that are not as they should be."""
        return len(self._waiting)

    def resolve(self) -> Round:
        """
        Try once everything that is still to be done: deletions first, since they make room.

        The controller does this by itself. Writers are held up for one entry at a time.

        Returns:
            What came of it. Fewer than all are tried once ``max_errors`` of the policy have failed.
        """
        with self._lock:
            keys = sorted(self._waiting, key=self._inserts)
        succeeded = failed = 0
        for key in keys:
            if failed >= self._policy.max_errors:
                break
            outcome = self._try(key)
            succeeded += outcome is True
            failed += outcome is False
        return Round(succeeded, failed, self.waiting())

    def _inserts(self, key: bytes) -> bool:
        return self._entries[key].desired is Desired.INSERT

    def _try(self, key: bytes) -> bool | None:
        """``None`` if somebody else has settled it meanwhile."""
        with self._lock:
            if key not in self._waiting:
                return None
            entry = self._entries[key]
            if entry.desired is Desired.INSERT:
                return self._try_insert(entry)
            return self._try_delete(entry)

    def _try_insert(self, entry: Entry) -> bool:
        try:
            self._counted("update", self._table.update, entry.key, entry.value, 0)
        except BpfError as err:
            self._wait(entry.key, entry.value, Desired.INSERT, err)
            self._tell(Action.UPDATE, entry.key, entry.value, Desired.INSERT, err)
            return False
        self._updated(entry.key, entry.value)
        self._tell(Action.UPDATE, entry.key, entry.value)
        return True

    def _try_delete(self, entry: Entry) -> bool:
        try:
            self._counted("delete", self._table.delete, entry.key)
        except KeyNotFound:
            pass
        except BpfError as err:
            self._wait(entry.key, entry.value, Desired.DELETE, err)
            self._tell(Action.DELETE, entry.key, None, Desired.DELETE, err)
            return False
        self._deleted(entry.key)
        self._tell(Action.DELETE, entry.key)
        return True

    def _wait(self, key: bytes, value: bytes, desired: Desired, error: BpfError) -> None:
        self._entries[key] = Entry(key, value, desired, bare(error))
        self._waiting.pop(key, None)
        self._waiting[key] = None

    def _known(self) -> Iterable[bytes]:
        return list(self._entries)

    def _size(self) -> int:
        return len(self._entries)

    def _updated(self, key: bytes, value: bytes) -> None:
        self._entries[key] = Entry(key, value)
        self._waiting.pop(key, None)

    def _update_failed(self, key: bytes, value: bytes, error: BpfError) -> Desired:
        if hopeless(error):
            return Desired.OK
        self._wait(key, value, Desired.INSERT, error)
        self.controller.failed()
        return Desired.INSERT

    def _deleted(self, key: bytes) -> bool:
        entry = self._entries.pop(key, None)
        self._waiting.pop(key, None)
        if self._waiting:
            # There may be room now.
            self.controller.hasten()
        return entry is not None and entry.desired is Desired.INSERT

    def _delete_failed(self, key: bytes, error: BpfError) -> Desired:
        if hopeless(error):
            return Desired.OK
        entry = self._entries.get(key)
        self._wait(key, entry.value if entry else b"", Desired.DELETE, error)
        self.controller.failed()
        return Desired.DELETE
