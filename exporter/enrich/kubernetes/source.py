"""
Names the addresses of pods, services and nodes as of the time of each flow.

Bounded by the cluster: memory grows with its pods, services and nodes, and with what of them ended
in the last five minutes. Never waits: threads list and watch, drains look up what is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from exporter.batch.attributes import EndAttribute, Value
from exporter.batch.batch import U4, U8
from exporter.enrich.base import Addresses, Found, State, Timed
from exporter.enrich.kubernetes import attributes, index
from exporter.enrich.kubernetes.config import KubernetesConfig
from exporter.enrich.kubernetes.index import Answer, Index

#: Objects that are prepared before a drain may come in between: some milliseconds.
_CHUNK = 1_000
#: A batch with more than one in so many of all objects is given all of them: choosing takes longer.
_FEW = 4
#: Seconds without news after which /readyz says so, though no request has failed.
_QUIET = 60.0


class Feed(Protocol):
    """What keeps the index up to date: a reflector of a resource, or the follower of a cache."""

    problem: str
    in_doubt: bool
    caught_up_ns: int

    def start(self) -> None:
        """Begin."""

    def close(self) -> None:
        """End. Again is fine."""


class KubernetesSource:
    """
    Knows the addresses of a cluster.

    Args:
        config: What to ask, and for what.
        connect: Makes what keeps an index up to date; for tests.
    """

    name = "kubernetes"

    def __init__(
        self,
        config: KubernetesConfig,
        connect: Callable[[KubernetesConfig, Index], Sequence[Feed]] | None = None,
    ) -> None:
        self._config = config
        self._connect = connect
        self.attributes: tuple[EndAttribute, ...] = attributes.attributes(config)
        self.index = Index()
        self.index.on_settle = self.prepare
        self.feeds: list[Feed] = []
        #: By attribute, of every slot; right where ``_filled``.
        self._values: list[list[Value]] = [[None] for _ in self.attributes]
        self._filled = np.ones(1, np.bool_)
        self._hits = self._misses = self._doubts = 0

    def open(self) -> None:
        """
        Begin to list and watch.

        Raises:
            ConfigError: If there is no server to ask, or a file cannot be read.
        """
        self.feeds = list((self._connect or _connect)(self._config, self.index))
        for feed in self.feeds:
            feed.start()

    def close(self) -> None:
        """Stop. Again is fine."""
        while self.feeds:
            self.feeds.pop().close()

    def state(self) -> State:
        """What is wrong, if anything is, and since when; and counts."""
        problems = [one.problem for one in self.feeds if one.problem]
        age = self._age()
        if problems and 0 < age < float("inf"):
            problems[0] += f" (answers are {age:.0f} s old)"
        elif age > _QUIET and not problems and self.feeds:
            problems = [f"nothing heard for {age:.0f} s"]
        return State(
            problem=problems[0] if problems else "",
            hits=self._hits,
            misses=self._misses,
            evictions=self.index.evictions,
            entries=len(self.index),
            events={"doubts": self._doubts},
            age=age if self.feeds else None,
        )

    def look_up(self, addresses: Addresses) -> Found:
        """What is known now, for the time of each flow."""
        count = len(addresses)
        start_ns = addresses.window.start_ns
        nothing = Found(np.zeros(count, np.uint32), {})
        if any(feed.in_doubt for feed in self.feeds):
            # Addresses may have gone from one to another since the last list, and in this one.
            self._doubts += count
            return nothing
        if self.feeds and self._age() > self._config.max_age:
            self._misses += count
            return nothing
        self.index.forget(min(start_ns or time.time_ns(), time.time_ns()) - index.KEEP_NS)
        with self.index.lock:
            answer = self.index.look_up(addresses, start_ns)
            numbers, columns = self._chosen(answer)
        known = int(np.count_nonzero(answer.slots) + np.count_nonzero(answer.timed))
        self._hits += known
        self._misses += count - known
        values = dict(zip(self.attributes, columns, strict=True))
        return Found(numbers[answer.slots], values, self._timed(answer, numbers))

    def prepare(self) -> None:
        """
        Make what drains will ask for, on the thread that heard of it.

        A drain finds nothing to do then, however many objects there are.
        """
        todo = _CHUNK
        while todo == _CHUNK:
            with self.index.lock:
                self.index.merge()
                live = self._refresh()
                missing = live[~self._filled[live]][:_CHUNK]
                self._fill(missing)
                todo = len(missing)

    def _age(self) -> float:
        """Seconds since all was known; infinite before the first list."""
        oldest = min((one.caught_up_ns for one in self.feeds), default=time.time_ns())
        return (time.time_ns() - oldest) / 1e9 if oldest else float("inf")

    def _timed(self, answer: Answer, numbers: U4) -> Timed | None:
        if not answer.timed.any():
            return None
        place = np.cumsum(answer.timed) - 1

        def decide(which: NDArray[np.int64], start_ns: U8, end_ns: U8) -> U4:
            slots, doubts = answer.holds.decide(place[which], start_ns, end_ns)
            self._doubts += doubts
            return numbers[slots]

        return Timed(answer.timed, decide)

    def _chosen(self, answer: Answer) -> tuple[U4, Sequence[tuple[Value, ...]]]:
        """
        Values of what an answer may be about. The caller has the lock.

        Returns:
            Which entity each slot is; and a column of values for each attribute.
        """
        there = np.zeros(len(self._refresh()), np.bool_)
        there[0] = True
        there[answer.slots] = True
        there[answer.holds.slots] = True
        used = np.flatnonzero(there)
        if _FEW * len(used) > len(there) and self._filled[: len(there)].all():
            return np.arange(len(there), dtype=np.uint32), [tuple(one) for one in self._values]
        self._fill(used)
        numbers = np.zeros(len(there), np.uint32)
        numbers[used] = np.arange(len(used), dtype=np.uint32)
        # The unknown one twice: itemgetter of one place gives that alone, no tuple.
        choose = itemgetter(0, *used.tolist())
        return numbers, [choose(column)[1:] for column in self._values]

    def _refresh(self) -> NDArray[np.int64]:
        """Forget values of what has changed. The caller has the lock. Slots, ascending, 0 first."""
        changed, everything, count = self.index.changes()
        if count > len(self._filled):
            more = count - len(self._filled)
            for column in self._values:
                column.extend([None] * more)
            self._filled = np.pad(self._filled, (0, more))
        if everything:
            self._filled[1:] = False
        elif changed:
            self._filled[list(changed)] = False
        return np.arange(count)

    def _fill(self, used: NDArray[np.int64]) -> None:
        """Values of objects that have changed since they were last asked for."""
        todo = used[~self._filled[used]]
        if len(todo):
            for slot in todo.tolist():
                for column, value in zip(self._values, self._of(slot), strict=True):
                    column[slot] = value
            self._filled[todo] = True

    def _of(self, slot: int) -> tuple[Value, ...]:
        """Values of an object; of a free slot none."""
        one = self.index.object(slot)
        return attributes.values(self.index, one) if one else (None,) * len(self.attributes)


def _connect(config: KubernetesConfig, index: Index) -> Sequence[Feed]:
    """The API server, or a cache of it."""
    if config.cache:
        # Imported here: what is not asked is not needed.
        from exporter.enrich.kubernetes.cache.follower import Follower

        return [Follower(config, index)]
    from exporter.enrich.kubernetes.connect import connect

    return connect(config, index)
