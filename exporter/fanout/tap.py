"""
Lets people look at what is published, with no part in its delivery.

Nobody waits for a watcher: one that is slow misses batches, and is told how many flows. Without a
watcher nothing is kept but a few recent flows. The ledger knows nothing of it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from exporter.batch.batch import FlowBatch

#: Recent flows that are kept for whoever asks for the last ones: some 600 kB.
HISTORY = 4096
#: Flows that wait for one watcher at most; a batch that is larger is still taken whole.
WAITING = 1 << 18


class Watcher:
    """One who watches. ``take`` is for one thread."""

    def __init__(self, recent: tuple[FlowBatch, ...]) -> None:
        self.recent = recent
        self._changed = threading.Condition()
        self._waiting: deque[FlowBatch] = deque()
        self._rows = 0
        self._missed = 0
        self._closed = False

    def put(self, batch: FlowBatch) -> int:
        """
        Never waits; what waits longest goes if there is too much.

        Returns:
            Flows that went.
        """
        gone = 0
        with self._changed:
            self._waiting.append(batch)
            self._rows += len(batch)
            while self._rows > WAITING and len(self._waiting) > 1:
                oldest = self._waiting.popleft()
                self._rows -= len(oldest)
                gone += len(oldest)
            self._missed += gone
            self._changed.notify()
        return gone

    def take(self, timeout: float) -> FlowBatch | None:
        """The next batch; ``None`` if none comes in so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, timeout)
            if not self._waiting:
                return None
            batch = self._waiting.popleft()
            self._rows -= len(batch)
            return batch

    def missed(self) -> int:
        """Flows that it was too slow for, since it was last asked."""
        with self._changed:
            missed, self._missed = self._missed, 0
            return missed

    @property
    def closed(self) -> bool:
        """Whether nothing more will come, and nothing waits."""
        with self._changed:
            return self._closed and not self._waiting

    def close(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._closed = True
            self._changed.notify()


class Tap:
    """What is published, for any number of watchers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watchers: set[Watcher] = set()
        self._recent: deque[FlowBatch] = deque()
        self._rows = 0
        self._closed = False
        #: Flows that some watcher was too slow for, each as often as there were such watchers.
        self.missed = 0

    @property
    def watchers(self) -> int:
        """How many there are."""
        return len(self._watchers)

    def publish(self, batch: FlowBatch) -> None:
        """Show a batch to all watchers, an empty one too. Never waits."""
        with self._lock:
            if len(batch):
                self._remember(batch)
            for watcher in self._watchers:
                self.missed += watcher.put(batch)

    def recent(self) -> tuple[FlowBatch, ...]:
        """What came before, as far as it is kept."""
        with self._lock:
            return tuple(self._recent)

    @contextmanager
    def watch(self) -> Iterator[Watcher]:
        """Watch what comes from now on; ``recent`` has what came before."""
        with self._lock:
            watcher = Watcher(tuple(self._recent))
            self._watchers.add(watcher)
            if self._closed:
                watcher.close()
        try:
            yield watcher
        finally:
            with self._lock:
                self._watchers.discard(watcher)

    def close(self) -> None:
        """Tell all watchers that nothing more will come."""
        with self._lock:
            self._closed = True
            for watcher in self._watchers:
                watcher.close()

    def _remember(self, batch: FlowBatch) -> None:
        # A copy of the last rows: a slice would keep the whole batch in memory.
        first = max(len(batch) - HISTORY, 0)
        kept = batch.take(np.arange(first, len(batch))) if first else batch
        self._recent.append(kept)
        self._rows += len(kept)
        while self._rows - len(self._recent[0]) >= HISTORY:
            self._rows -= len(self._recent.popleft())
