"""
Batches that wait for one destination, bounded in memory and on disk, and the account of what became
of them.

Every number changes under one lock, so that queued + recovered = delivered + pending + spooled +
dropped at any moment, and ``pending`` is counted from the batches themselves. With a spool a batch
is on disk before it is queued, and stays there until it is booked; as many as fit are kept in
memory too, so that a destination that keeps up costs no reading.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from exporter.batch.batch import FlowBatch, Totals
from exporter.fanout.config import QueueConfig
from exporter.fanout.spool.layout import ROW_OCTETS
from exporter.fanout.spool.spool import Spool
from exporter.ledger import SinkCounts


class _Item(NamedTuple):
    """
    What waits: a batch in memory, or several in a row that are on disk only.

    ``first`` and ``last`` are numbers in the spool, 0 for what is not there. A batch of which some
    rows are booked is not ``whole``: it cannot be read again.
    """

    batch: FlowBatch | None
    first: int = 0
    last: int = 0
    whole: bool = True

    @property
    def rows(self) -> int:
        """In memory."""
        return len(self.batch) if self.batch is not None else 0

    @property
    def unspooled(self) -> bool:
        """Whether it is nowhere but in memory."""
        return self.first == 0


class BatchQueue:
    """
    One producer, one consumer, which holds at most one batch.

    Args:
        config: Bound and policy.
        spool: Where to write ahead; not open yet.
    """

    def __init__(self, config: QueueConfig, spool: Spool | None = None) -> None:
        self._config = config
        self._spool = spool
        self._changed = threading.Condition()
        self._waiting: deque[_Item] = deque()
        self._waiting_rows = 0
        self._held = Totals()
        self._held_number = 0
        self._queued = Totals()
        self._recovered = Totals()
        self._delivered = Totals()
        self._spooled = Totals()
        self._dropped: dict[str, Totals] = {}
        self._closed = False
        self._paused = False
        self._abandoned = ""
        self._opened = False

    def open(self) -> None:
        """
        Find what an earlier agent left in the spool. Again is fine.

        Raises:
            ConfigError: If the spool cannot be used.
        """
        if self._spool is None or self._opened:
            return
        self._opened = True
        waiting, stranded = self._spool.open(), self._spool.stranded()
        runs = [_Item(None, one, one) for one in (stranded,) if one]
        runs += [_Item(None, waiting[0], waiting[-1])] if waiting else []
        with self._changed:
            for run in runs:
                for number in range(run.first, run.last + 1):
                    self._recovered += self._spool.totals(number)
            self._spooled = self._recovered
            self._waiting.extend(runs)

    def shut(self) -> None:
        """Give the spool back; what is in it stays. Again is fine."""
        if self._spool is not None:
            self._spool.close()

    def configure(self, config: QueueConfig) -> None:
        """Other bounds from now on."""
        with self._changed:
            self._config = config
            self._make_room_in_memory()

    @property
    def spool_errors(self) -> int:
        """How often something could not be written to disk."""
        return self._spool.errors if self._spool is not None else 0

    @property
    def limit(self) -> int:
        """Rows that may wait in memory."""
        return min(self._config.rows, max(self._config.octets // ROW_OCTETS, 1))

    @property
    def spool_octets(self) -> tuple[int, int] | None:
        """Octets of its files, and how many they may be; ``None`` without a spool."""
        return (self._spool.used(), self._spool.config.octets) if self._spool is not None else None

    def store(self, batch: FlowBatch) -> int:
        """
        Write a batch to the spool, where the oldest ones are dropped for it if need be. It is not
        queued yet. May take as long as the disk does.

        Returns:
            Its number for :meth:`put`; 0 if it is not in a spool.
        """
        if self._spool is None or not len(batch):
            return 0
        octets = self._spool.octets_of(batch)
        with self._changed:
            self._expire()
            while not (fits := self._spool.fits(octets)) and (item := self._first_spooled()):
                if octets > self._spool.config.octets // 2:
                    break
                self._drop_spooled(self._spool.oldest_segment(item.first), "spool_full")
        return self._spool.append(batch) if fits else self._spool.refuse(octets)

    def put(self, batch: FlowBatch, number: int = 0) -> None:
        """
        Add a batch. Never blocks: what does not fit is dropped and counted.

        Args:
            batch: What to deliver.
            number: From :meth:`store`.
        """
        with self._changed:
            self._queued += batch.totals
            if number:
                self._add_spooled(batch, number)
            elif self._abandoned:
                self._book_drop(self._abandoned, batch.totals)
            else:
                self._add(batch)
            self._changed.notify_all()

    def take(self) -> FlowBatch | None:
        """
        Wait for the next batch and hold it; book it with :meth:`delivered`, :meth:`dropped` and
        :meth:`drop_held`.

        Returns:
            ``None`` once the queue is closed and empty, or while it is paused.
        """
        while True:
            with self._changed:
                self._expire()
                while not self._waiting and not self._closed and not self._paused:
                    self._changed.wait()
                if not self._waiting or self._paused:
                    return None
                batch, number = self._hold_next()
            if batch is not None or (batch := self._read(number)) is not None:
                return batch

    def delivered(self, totals: Totals) -> None:
        """Rows of the held batch that the destination has."""
        with self._changed:
            self._held -= totals
            self._delivered += totals
            self._settle_held()
            self._changed.notify_all()

    def dropped(self, reason: str, totals: Totals) -> None:
        """Rows of the held batch that are given up."""
        with self._changed:
            self._held -= totals
            self._book_drop(reason, totals)
            self._settle_held()
            self._changed.notify_all()

    def drop_held(self, reason: str) -> None:
        """Give up what is left of the held batch, and count it."""
        with self._changed:
            if self._held.flows:
                self._book_drop(reason, self._held)
                self._held = Totals()
                self._settle_held()
            self._changed.notify_all()

    def put_back(self, parts: Sequence[FlowBatch]) -> None:
        """Rows of the held batch that wait again, before everything else."""
        with self._changed:
            whole = len(parts) == 1 and self._is_whole(parts[0])
            for part in reversed(parts):
                self._held -= part.totals
                self._waiting_rows += len(part)
                number = self._held_number
                self._waiting.appendleft(_Item(part, number, number, whole))
            if self._spool is not None and parts:
                self._held_number = 0
                self._spool.release()
            self._changed.notify_all()

    def abandon(self, reason: str) -> None:
        """Nobody takes any more. What is in the spool stays there; the rest is given up."""
        with self._changed:
            self._abandoned = reason
            if self._spool is not None and self._held_number:
                self._spooled += self._held
                self._held_number = 0
                self._spool.release()
            elif self._held.flows:
                self._book_drop(reason, self._held)
            self._held = Totals()
            while self._waiting:
                item = self._waiting.popleft()
                if item.batch is not None and item.unspooled:
                    self._book_drop(reason, item.batch.totals)
                elif item.batch is not None:
                    self._spooled += item.batch.totals
            self._waiting_rows = 0
            self._changed.notify_all()

    def close(self) -> None:
        """No more batches come. The consumer gets what waits, then ``None``."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def pause(self, *, paused: bool) -> None:
        """Let nobody take, for another consumer to come."""
        with self._changed:
            self._paused = paused
            self._changed.notify_all()

    def wait_empty(self, timeout: float) -> bool:
        """
        Wait until nothing is pending, at most ``timeout`` seconds. Returns whether nothing is.
        """
        with self._changed:
            return self._changed.wait_for(self._nothing_pending, timeout)

    def counts(self) -> SinkCounts:
        """The account. ``pending`` is counted from the batches that wait and are held."""
        with self._changed:
            pending = safe = Totals()
            for item in self._waiting:
                if item.batch is not None:
                    pending += item.batch.totals
                    safe += Totals() if item.unspooled else item.batch.totals
            return SinkCounts(
                queued=self._queued,
                recovered=self._recovered,
                delivered=self._delivered,
                pending=pending + self._held,
                safe=safe + (self._held if self._held_number else Totals()),
                spooled=self._spooled,
                dropped=dict(self._dropped),
            )

    def _nothing_pending(self) -> bool:
        # What is being read from the disk is held by its number alone.
        return not self._waiting and self._held.flows == 0 and self._held_number == 0

    def _hold_next(self) -> tuple[FlowBatch | None, int]:
        """The first batch is held: itself, or its number."""
        item = self._waiting.popleft()
        if item.batch is not None:
            self._waiting_rows -= len(item.batch)
            self._held += item.batch.totals
        elif item.first < item.last:
            self._waiting.appendleft(item._replace(first=item.first + 1))
        self._held_number = item.first
        if self._spool is not None and item.first:
            self._spool.hold(item.first)
        return item.batch, item.first

    def _read(self, number: int) -> FlowBatch | None:
        """The held batch from the disk; ``None`` if it is damaged, which is booked."""
        assert self._spool is not None, "what is not in memory is in a spool"
        batch = self._spool.read(number)
        with self._changed:
            totals = self._spool.totals(number)
            self._spooled -= totals
            if batch is None:
                self._book_drop("spool_corrupt", totals)
                self._settle_held()
            else:
                self._held += totals
            self._changed.notify_all()
        return batch

    def _settle_held(self) -> None:
        """Forget the held batch on disk once all of its rows are booked."""
        if self._spool is None or not self._held_number or self._held.flows:
            return
        number, self._held_number = self._held_number, 0
        if self._waiting and self._waiting[0].first == number:
            # Another part of the same batch.
            self._spool.release()
            return
        self._spool.settle()

    def _is_whole(self, batch: FlowBatch) -> bool:
        if self._spool is None or not self._held_number:
            return True
        return batch.totals == self._spool.totals(self._held_number)

    def _room(self) -> int:
        """Rows that fit into memory."""
        return self.limit - self._waiting_rows - self._held.flows

    def _add(self, batch: FlowBatch) -> None:
        self._evict(len(batch))
        if self._config.when_full == "drop_newest":
            batch = self._fitting(batch)
        if len(batch):
            self._waiting.append(_Item(batch))
            self._waiting_rows += len(batch)
        self._drop_oldest()

    def _add_spooled(self, batch: FlowBatch, number: int) -> None:
        if not self._abandoned and len(batch) <= self._room():
            self._waiting.append(_Item(batch, number, number))
            self._waiting_rows += len(batch)
            return
        self._spooled += batch.totals
        if self._abandoned:
            return
        last = self._waiting[-1] if self._waiting else None
        if last is not None and last.batch is None and last.last == number - 1:
            self._waiting[-1] = last._replace(last=number)
        else:
            self._waiting.append(_Item(None, number, number))

    def _make_room_in_memory(self) -> None:
        self._evict(0)
        self._drop_oldest()

    def _evict(self, rows: int) -> None:
        """Let batches that are on disk too be there only, the newest first, until so many fit."""
        for position in range(len(self._waiting) - 1, -1, -1):
            if self._room() >= rows:
                return
            item = self._waiting[position]
            if item.batch is not None and not item.unspooled and item.whole:
                self._waiting[position] = item._replace(batch=None)
                self._waiting_rows -= item.rows
                self._spooled += item.batch.totals

    def _fitting(self, batch: FlowBatch) -> FlowBatch:
        room = max(self._room(), 0)
        if len(batch) > room:
            self._book_drop("queue_full", batch.take(slice(room, None)).totals)
            batch = batch.take(slice(room))
        return batch

    def _drop_oldest(self) -> None:
        """Of what is nowhere but in memory."""
        kept: list[_Item] = []
        while self._waiting and (excess := -self._room()) > 0:
            item = self._waiting.popleft()
            if item.batch is None or not item.unspooled:
                kept.append(item)
                continue
            gone = min(excess, len(item.batch))
            self._book_drop("queue_full", item.batch.take(slice(gone)).totals)
            self._waiting_rows -= gone
            if gone < len(item.batch):
                self._waiting.appendleft(_Item(item.batch.take(slice(gone, None))))
        self._waiting.extendleft(reversed(kept))

    def _expire(self) -> None:
        """Drop what has been in the spool for too long."""
        while self._spool is not None and (item := self._first_spooled()):
            if self._spool.lost(item.first):
                self._drop_spooled(item.first, "spool_corrupt")
            elif self._spool.expired(item.first):
                self._drop_spooled(item.first, "spool_expired")
            else:
                return

    def _first_spooled(self) -> _Item | None:
        """What has waited longest of what is in the spool."""
        return next((item for item in self._waiting if not item.unspooled), None)

    def _drop_spooled(self, last: int, reason: str) -> None:
        """Give up what is in the spool up to a number, but the held batch."""
        assert self._spool is not None, "what has a number is in a spool"
        kept: deque[_Item] = deque()
        for item in self._waiting:
            if item.unspooled or item.first > last:
                kept.append(item)
            elif item.batch is not None:
                self._waiting_rows -= len(item.batch)
                self._book_drop(reason, item.batch.totals)
            else:
                for number in range(item.first, min(item.last, last) + 1):
                    totals = self._spool.totals(number)
                    self._spooled -= totals
                    self._book_drop(reason, totals)
                if item.last > last:
                    kept.append(item._replace(first=last + 1))
        self._waiting = kept
        self._spool.drop(last)
        self._changed.notify_all()

    def _book_drop(self, reason: str, totals: Totals) -> None:
        if totals != Totals():
            self._dropped[reason] = self._dropped.get(reason, Totals()) + totals
