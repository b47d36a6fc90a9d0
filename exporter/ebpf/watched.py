"""
A map whose writes are seen: counted, told to an event ring, and measured by a pressure gauge.

It is a table itself, so whatever writes a table can write this one. Every write goes to the kernel
before anything is told of it; blocking is the kernel's. Bounded by the map: with a pressure gauge
it remembers the keys that it wrote.
"""

from __future__ import annotations

import errno as errnos
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from exporter.ebpf.errors import BpfError, KeyExists, KeyNotFound
from exporter.ebpf.events import Action, Desired, EventRing
from exporter.ebpf.maps import BPF_ANY, MapSpec
from exporter.ebpf.pressure import Pressure
from exporter.ebpf.table import Table, collect_keys, holds

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: The kernel will say the same next time: a malformed request is not worth another try.
_HOPELESS = frozenset({errnos.EINVAL, errnos.EOPNOTSUPP})


@dataclass(frozen=True)
class OperationCount:
    """How often an operation ended so, and the seconds that the calls took together."""

    count: int = 0
    seconds: float = 0.0


class WatchedMap:
    """
    A table that tells what is done to it. Safe to use from any thread.

    Writes that do not pass through it, be it the kernel's or those of another process, are not
    seen.

    Args:
        table: What is written. Stays the caller's, and stays open as long as this is used.
        events: Told of each write, also those that fail; ``None`` for nobody.
        pressure: Fed with the number of keys written here that are still there.
    """

    def __init__(
        self, table: Table, *, events: EventRing | None = None, pressure: Pressure | None = None
    ) -> None:
        self.events = events
        self.pressure = pressure
        self._table = table
        # Held across the write and what is told of it: events come in the order of the writes.
        self._lock = threading.RLock()
        self._keys: set[bytes] = set()
        self._counts: dict[tuple[str, str], OperationCount] = {}

    @property
    def spec(self) -> MapSpec:
        """What the map is."""
        return self._table.spec

    def lookup(self, key: bytes, /) -> bytes:
        """The kernel's value of ``key``. Raises KeyNotFound, BpfError."""
        return self._counted("lookup", self._table.lookup, key)

    def next_key(self, key: bytes | None = None, /) -> bytes | None:
        """The key after ``key`` in the kernel. Raises BpfError."""
        return self._counted("next_key", self._table.next_key, key)

    def update(self, key: bytes, value: bytes, flags: int = BPF_ANY, /) -> None:
        """
        Write one element.

        Args:
            key: Octets, the map's key size.
            value: Octets, the map's value size.
            flags: BPF_ANY, BPF_NOEXIST or BPF_EXIST.

        Raises:
            MapFull: If there is no room.
            KeyExists, KeyNotFound: As the flags say.
            BpfError: If the kernel refuses otherwise.
        """
        with self._lock:
            try:
                self._counted("update", self._table.update, key, value, flags)
            except BpfError as err:
                # That a condition does not hold is an answer; nothing is left to be done.
                conditional = flags != BPF_ANY and isinstance(err, (KeyExists, KeyNotFound))
                desired = Desired.OK if conditional else self._update_failed(key, value, err)
                self._tell(Action.UPDATE, key, value, desired, err)
                raise
            self._updated(key, value)
            self._tell(Action.UPDATE, key, value)

    def ensure(self, key: bytes, value: bytes, /, keys: Collection[bytes] | None = None) -> bool:
        """
        Write one element unless the kernel has it just so.

        Args:
            key: Octets, the map's key size.
            value: Octets, the map's value size.
            keys: All keys that the map has, if they are known: an LPM trie is walked without.

        Returns:
            Whether it had to be written.

        Raises:
            MapFull: If there is no room.
            BpfError: If the kernel refuses otherwise.
        """
        with self._lock:
            if holds(self, key, value, keys):
                self._updated(key, value)
                self._feed()
                return False
            self.update(key, value)
            return True

    def delete(self, key: bytes, /) -> None:
        """
        Remove one element.

        Raises:
            KeyNotFound: If there is no such key.
            BpfError: If the kernel refuses otherwise.
        """
        self._delete(key, silent=False)

    def silent_delete(self, key: bytes, /) -> bool:
        """
        Remove one element if it is there.

        Returns:
            Whether it was.

        Raises:
            BpfError: If the kernel refuses.
        """
        return self._delete(key, silent=True)

    def delete_all(self) -> None:
        """
        Remove all elements: keys are collected first, and an error does not end it. One event.

        Elements that others add meanwhile may survive.

        Raises:
            ExceptionGroup: Of BpfError, one for each key that could not be removed, and one if the
                map changed faster than it could be walked.
        """
        with self._lock:
            found, complete = collect_keys(self)
            errors: list[BpfError] = [] if complete else [walk_interrupted(self.spec)]
            for key in dict.fromkeys([*found, *self._known()]):
                try:
                    self._counted("delete", self._table.delete, key)
                except KeyNotFound:
                    pass
                except BpfError as err:
                    self._delete_failed(key, err)
                    errors.append(err)
                    continue
                self._deleted(key)
            what = f"delete all of map {self.spec.name}"
            left = Desired.DELETE if errors else Desired.OK
            summary = BpfError(what, errors[0].errno, f"{len(errors)} error(s)") if errors else None
            self._tell(Action.DELETE_ALL, None, None, left, summary)
            if errors:
                raise ExceptionGroup(what, errors)

    def adopt(self) -> int:
        """
        Take what the map has already, of a pin or of another process, as written here. No event.

        Returns:
            Elements found.

        Raises:
            BpfError: If the kernel refuses, or the map changes faster than it can be walked.
        """
        with self._lock:
            found, complete = collect_keys(self)
            if not complete:
                raise walk_interrupted(self.spec)
            adopted = 0
            for key in found:
                try:
                    value = self.lookup(key)
                except KeyNotFound:
                    continue
                self._updated(key, value)
                adopted += 1
            self._feed()
            return adopted

    def operations(self) -> dict[tuple[str, str], OperationCount]:
        """
        Calls into the kernel by operation (lookup, update, delete, next_key) and outcome: ``ok`` or
        the name of the errno.
        """
        with self._lock:
            return dict(self._counts)

    def _delete(self, key: bytes, *, silent: bool) -> bool:
        with self._lock:
            missing: KeyNotFound | None = None
            try:
                self._counted("delete", self._table.delete, key)
            except KeyNotFound as err:
                missing = err
            except BpfError as err:
                self._tell(Action.DELETE, key, None, self._delete_failed(key, err), err)
                raise
            waited = self._deleted(key)
            found = missing is None or waited
            error = None if found or silent else missing
            self._tell(Action.DELETE, key, error=error)
            if error is not None:
                raise error
            return found

    def _counted(
        self, operation: str, call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs
    ) -> _R:
        begun, outcome = time.perf_counter(), "ok"
        try:
            return call(*args, **kwargs)
        except BpfError as err:
            outcome = errnos.errorcode.get(err.errno, str(err.errno))
            raise
        finally:
            seconds = time.perf_counter() - begun
            with self._lock:
                before = self._counts.get((operation, outcome), OperationCount())
                self._counts[operation, outcome] = OperationCount(
                    before.count + 1, before.seconds + seconds
                )

    def _tell(
        self,
        action: Action,
        key: bytes | None,
        value: bytes | None = None,
        desired: Desired = Desired.OK,
        error: BpfError | None = None,
    ) -> None:
        self._feed()
        if self.events is not None:
            self.events.record(action, key, value, desired, error)

    def _feed(self) -> None:
        if self.pressure is not None:
            self.pressure.feed(self._size())

    # What a cache does differently.

    def _known(self) -> Iterable[bytes]:
        """Keys that may have to be removed although no walk finds them."""
        return ()

    def _size(self) -> int:
        return len(self._keys)

    def _updated(self, key: bytes, _value: bytes) -> None:
        if self.pressure is not None:
            self._keys.add(key)

    def _update_failed(self, _key: bytes, _value: bytes, _error: BpfError) -> Desired:
        return Desired.INSERT

    def _deleted(self, key: bytes) -> bool:
        """
        The kernel has the key no more.

        Returns:
            Whether it was wanted there and waited to be inserted.
        """
        self._keys.discard(key)
        return False

    def _delete_failed(self, _key: bytes, _error: BpfError) -> Desired:
        return Desired.DELETE


def hopeless(error: BpfError) -> bool:
    """Whether the same request would fail the same way again."""
    return error.errno in _HOPELESS


def walk_interrupted(spec: MapSpec) -> BpfError:
    """The error of a walk that came to no end."""
    return BpfError(f"walk map {spec.name}", errnos.EAGAIN, "it changes faster than it is walked")
