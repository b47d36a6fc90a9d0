"""
A sink's durable queue: batches are appended, read in order, and settled.

Written ahead: what :meth:`Spool.append` returned for survives the agent, and with ``fsync`` the
host. Bounded by size and age. One agent at a time: the directory is locked. One thread appends
while another reads and settles; neither waits while the other's data is on its way to or from the
disk.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
import zlib
from collections import deque
from urllib.parse import quote

from exporter.batch.batch import FlowBatch, Totals
from exporter.errors import ConfigError
from exporter.fanout.config import SpoolConfig
from exporter.fanout.spool import frame
from exporter.fanout.spool.age import AgeClock
from exporter.fanout.spool.body import body_of, decode
from exporter.fanout.spool.cursor import Cursor, Position
from exporter.fanout.spool.layout import OWN, Layout
from exporter.fanout.spool.recovery import recover
from exporter.fanout.spool.segment import SUFFIX, Segment
from exporter.fanout.spool.sync import Syncer

log = logging.getLogger(__name__)

_LARGEST_SEGMENT = 64 << 20
#: A disk that stays full is mentioned this often, in seconds.
_REMIND = 30.0
_UNWRITTEN = "a batch cannot be written, it waits in memory"


class Spool:
    """
    One sink's directory.

    Args:
        config: With a directory.
        name: The sink's; its batches are in a subdirectory of that name.
        clock: How batches age.
    """

    def __init__(self, config: SpoolConfig, name: str, clock: AgeClock | None = None) -> None:
        assert config.directory is not None, "no directory, no spool"
        # Dots too: a sink named ".." is not the directory above.
        self.path = config.directory / quote(name, safe="").replace(".", "%2E")
        self.config = config
        self._clock = clock or AgeClock()
        self._cursor = Cursor(self.path / "cursor")
        self._segments: deque[Segment] = deque()
        self._layouts: dict[bytes, Layout] = {}
        self._position = Position()
        self._held = 0
        self._next = 1
        self._after = Totals()
        self._lock = -1
        self._active: Segment | None = None
        self._guard = threading.RLock()
        self._mentioned: dict[str, float] = {}
        self._failing = False
        self.errors = 0
        self._syncer: Syncer | None = None
        if config.fsync != "never":
            interval = 0.0 if config.fsync == "batch" else config.fsync
            self._syncer = Syncer(interval, self._written)

    def open(self) -> range:
        """
        Lock the directory, which is made if it is missing, and find what an earlier agent left.

        Returns:
            Numbers of the batches that wait.

        Raises:
            ConfigError: If another agent uses it, it cannot be used, or another version wrote what
                this one cannot read.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            position = self._cursor.read()
            found = recover(self.path, position)
        except BlockingIOError as err:
            self.close()
            raise ConfigError(
                f"another agent uses the spool {self.path}: stop it, or choose another directory"
            ) from err
        except (OSError, ConfigError) as err:
            self.close()
            if isinstance(err, ConfigError):
                raise
            raise ConfigError(f"the spool {self.path} cannot be used: {err.strerror}") from err
        self._segments.extend(found.segments)
        self._layouts, self._position = {OWN.digest: OWN, **found.layouts}, found.position
        self._next, self._after = found.next_number, found.after
        self._clock.resume(found.stamp)
        if position is None:
            # So that the first batches are missed, should they be damaged.
            self._save()
        if self._syncer is not None:
            self._syncer.start()
        return self.waiting()

    def waiting(self) -> range:
        """Numbers that are neither settled nor dropped; :meth:`stranded` is not among them."""
        settled, floor = self._position.settled, self._position.floor
        return range((settled if floor <= settled + 1 else floor) + 1, self._next)

    def stranded(self) -> int:
        """The batch before a gap of dropped ones; 0 if there is none."""
        settled, floor = self._position.settled, self._position.floor
        return settled + 1 if floor > settled + 1 else 0

    def totals(self, number: int) -> Totals:
        """Of a batch that is not settled."""
        return self._segment_of(number).entry(number).totals

    def lost(self, number: int) -> bool:
        """Whether it is known that the batch cannot be read."""
        return not self._segment_of(number).entry(number).octets

    def expired(self, number: int) -> bool:
        """Whether a batch is older than it may become."""
        oldest = self._clock.now().age_ns - int(self.config.age * 1e9)
        return self.config.age > 0 and self._segment_of(number).entry(number).age_ns < oldest

    def octets_of(self, batch: FlowBatch) -> int:
        """What a batch takes on disk."""
        return body_of(batch).octets + frame.SIZE

    def fits(self, octets: int) -> bool:
        """Whether so much can be appended without dropping anything."""
        with self._guard:
            if self.used() + octets > self.config.octets:
                # What is settled may be in the file that is written.
                self._roll()
                self._free()
            return self.used() + octets <= self.config.octets

    def refuse(self, octets: int) -> int:
        """Say that a batch is too large, and return 0 as :meth:`append` does."""
        self._complain(_UNWRITTEN, f"{octets} octets are too many for spool.octets")
        return 0

    def used(self) -> int:
        """Octets of all files but the cursor."""
        with self._guard:
            return sum(segment.octets for segment in self._segments)

    def append(self, batch: FlowBatch) -> int:
        """
        Write a batch. Room must have been made for it.

        Returns:
            Its number; 0 if it cannot be written, which is logged and counted in ``errors``.
        """
        body = body_of(batch)
        number, stamp = self._next, self._clock.now()
        header = frame.pack(number, body, self._after, stamp, OWN.digest)
        try:
            with self._guard:
                segment = self._writable(number)
            segment.append((header, *body.buffers), body.totals, stamp.age_ns)
        except OSError as err:
            self._complain(_UNWRITTEN, err.strerror)
            with self._guard:
                # What has filled the disk may be our own file: it goes once it is delivered.
                self._roll()
                self._remove_empty()
                self._free()
            return 0
        self._next, self._after = number + 1, frame.wrapped(self._after + body.totals)
        if self._failing:
            self._failing = False
            log.info("spool %s: batches are written again", self.path)
        if self._syncer is not None:
            self._syncer.written()
        return number

    def read(self, number: int) -> FlowBatch | None:
        """A batch; ``None`` if it is damaged, which is logged."""
        segment = self._segment_of(number)
        try:
            header, body = segment.read(number)
            if header is None or zlib.crc32(body) != header.crc:
                why = "it is damaged"
            else:
                batch = decode(body, self._layouts[header.digest])
                if batch.totals == segment.entry(number).totals:
                    return batch
                why = "its sums are not its rows'"
        except OSError as err:
            why = str(err.strerror)
        except (KeyError, ValueError) as err:
            why = str(err)
        lost = segment.entry(number).totals
        log.warning(
            "spool: %s: batch %d cannot be read, %d rows with %d packets are lost: %s",
            segment.path, number, lost.flows, lost.packets, why,
        )  # fmt: skip
        return None

    def hold(self, number: int) -> None:
        """A batch is being delivered: it stays until it is settled."""
        self._held = number

    def release(self) -> None:
        """No batch is being delivered; the one that was waits again."""
        self._held = 0

    def settle(self) -> None:
        """The held batch is delivered or given up."""
        with self._guard:
            number, self._held = self._held, 0
            self._advance(max(number, self._position.floor))

    def drop(self, number: int) -> None:
        """Every batch up to a number is given up, but the held one."""
        with self._guard:
            position = self._position
            if not self._held:
                self._advance(max(number, position.floor))
                return
            self._position = Position(position.settled, number, position.before, self._clock.now())
            self._save()
            self._free()

    def oldest_segment(self, number: int) -> int:
        """Number of the last batch in the file that has a batch. It is not written any more."""
        with self._guard:
            segment = self._segment_of(number)
            if segment is self._active:
                self._roll()
            return segment.last

    def close(self) -> None:
        """Sync if it is configured, unlock. What is not settled stays. Again is fine."""
        if self._syncer is not None:
            self._syncer.stop()
        with self._guard:
            self._roll()
            self._free()
        self._cursor.close()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _segment_of(self, number: int) -> Segment:
        with self._guard:
            return next(segment for segment in self._segments if number <= segment.last)

    def _writable(self, number: int) -> Segment:
        if self._active is not None and self._active.octets >= self._segment_octets():
            self._roll()
        if self._active is None:
            self._active = Segment.create(self.path / f"{number:020d}{SUFFIX}", number)
            self._segments.append(self._active)
        return self._active

    def _segment_octets(self) -> int:
        return min(_LARGEST_SEGMENT, self.config.octets // 8)

    def _roll(self) -> None:
        active, self._active = self._active, None
        if active is not None:
            active.stop_writing()

    def _remove_empty(self) -> None:
        """A last file without a batch: the next one has the same number, and so the same name."""
        if self._segments and self._segments[-1].last < self._segments[-1].first:
            self._discard(self._segments.pop())

    def _advance(self, number: int) -> None:
        position = self._position
        before = position.before
        for one in range(position.settled + 1, number + 1):
            before += self.totals(one)
        floor = max(position.floor, number)
        self._position = Position(number, floor, frame.wrapped(before), self._clock.now())
        self._save()
        self._free()

    def _save(self) -> None:
        try:
            self._cursor.write(self._position)
        except OSError as err:
            self._complain("the cursor cannot be written, batches may come again", err.strerror)

    def _free(self) -> None:
        """Delete the files that hold nothing any more, and the end of the held batch's."""
        floor, held = self._position.floor, self._position.settled + 1
        while self._segments and self._segments[0].last <= self._position.settled:
            if self._segments[0] is self._active:
                return
            self._discard(self._segments.popleft())
        if floor <= held:
            return
        kept = deque[Segment]()
        for segment in self._segments:
            if segment is self._active or segment.last > floor:
                kept.append(segment)
            elif segment.first <= held:
                self._cut(segment, held)
                kept.append(segment)
            else:
                self._discard(segment)
                # Its numbers are still asked for, when the held batch is settled.
                kept.append(segment)
        self._segments = kept

    def _discard(self, segment: Segment) -> None:
        try:
            segment.remove()
        except OSError as err:
            self._complain("a file cannot be deleted", err.strerror)

    def _cut(self, segment: Segment, held: int) -> None:
        try:
            segment.cut(held)
        except OSError as err:
            self._complain("a file cannot be cut", err.strerror)

    def _written(self) -> int:
        """A descriptor of its own of the file that is written; -1 if there is none."""
        with self._guard:
            return os.dup(self._active.fd) if self._active is not None else -1

    def _complain(self, what: str, why: str | None) -> None:
        self.errors += 1
        now = time.monotonic()
        if now - self._mentioned.get(what, -_REMIND) >= _REMIND:
            self._mentioned[what] = now
            self._failing = what == _UNWRITTEN or self._failing
            log.warning("spool %s: %s: %s", self.path, what, why)
