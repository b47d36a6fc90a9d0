"""
Files that take turns: messages are appended to one, and it is finished when it is full or old.

A thread of its own finishes files, so that compressing one does not hold up the next messages, and
ends a file in time when no message comes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import SinkError
from exporter.sinks.file.append import AppendFile, failure
from exporter.sinks.file.config import FileConfig
from exporter.sinks.file.finish import Finish, Gzip, Parquet, Plain, Stopped, whole_messages
from exporter.sinks.file.names import Names

log = logging.getLogger(__name__)

#: Full files that may wait to be finished, before messages have to.
_MOST_WAITING = 4
#: Seconds until finishing is tried again.
_AGAIN = 5.0
#: A problem that stays is mentioned this often, in seconds.
_REMIND = 30.0
#: Seconds that the end waits for the last file to be finished; else the next start finishes it.
_LAST = 20.0


@dataclass
class _Active:
    """The file that is being written, when its first record came, and what it begins with."""

    file: AppendFile
    since: float = 0.0
    header: bytes = b""


class RotatingFile:
    """
    Appends messages. Safe to use from several threads.

    Args:
        name: The sink's, for logs.
        config: Where, and when a file ends.
    """

    def __init__(self, name: str, config: FileConfig) -> None:
        self._name = name
        self._config = config
        self._names = Names.of(config)
        self._collects = config.written_as == "parquet"
        self._finish = _finish(config, self._names)
        self._changed = threading.Condition()
        self._active: _Active | None = None
        self._waiting: deque[AppendFile] = deque()
        self._problem: SinkError | None = None
        self._closed = False
        self._deadline = 0.0
        self._mentioned = -_REMIND
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Look for what an earlier process left, and begin to finish it."""
        try:
            self._names.directory.mkdir(parents=True, exist_ok=True)
            self._take_over()
        except OSError as err:
            log.warning("sink %s: %s", self._name, failure(err, self._names.directory))
        except SinkError as err:
            log.warning("sink %s: %s", self._name, err)
        self._thread = threading.Thread(target=self._run, name=f"finish {self._name}", daemon=True)
        self._thread.start()

    def append(self, message: bytes, timeout: float, header: bytes = b"") -> None:
        """
        Write a message, once there are not too many full files that wait to be finished.

        Args:
            message: As a whole or not at all.
            timeout: Seconds.
            header: What its file begins with; one that begins otherwise ends.

        Raises:
            SinkError: Retryable; nothing of it is in a file then.
        """
        with self._changed:
            if not self._changed.wait_for(self._may_go_on, timeout):
                raise SinkError("busy", "full files wait to be finished", retryable=True)
            if self._closed:
                raise SinkError("cancelled", "closed", retryable=True)
            if self._problem is not None and len(self._waiting) >= _MOST_WAITING:
                raise self._problem
            try:
                active = self._room_for(len(message), header)
            except OSError as err:
                raise failure(err, self._names.directory) from err
            first = active.file.octets == 0
            active.file.append(
                header + message if first else message, sync=self._config.fsync == "message"
            )
            if first:
                active.since = time.monotonic()
                active.header = header
                self._changed.notify_all()

    def close(self) -> None:
        """Finish what is collected. Again is fine."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._deadline = time.monotonic() + _LAST
            if self._active is not None:
                self._end_of_active()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        for full in self._waiting:
            full.close()

    def _may_go_on(self) -> bool:
        return self._closed or self._problem is not None or len(self._waiting) < _MOST_WAITING

    def _end_of_active(self) -> None:
        active, self._active = self._active, None
        assert active is not None
        if self._collects and active.file.octets:
            self._waiting.append(active.file)
        else:
            active.file.close()
            if self._collects:
                active.file.path.unlink(missing_ok=True)

    def _room_for(self, octets: int, header: bytes) -> _Active:
        """The file that the next message goes to."""
        active = self._active
        if active is not None and active.file.moved():
            log.info("sink %s: %s was moved away: a new one", self._name, active.file.path)
            active.file.close()
            active = self._active = None
        limit = self._config.rotate.octets
        if active is not None and active.file.octets:
            full = 0 < limit < active.file.octets + octets
            if full or active.header != header:
                self._rotate(active)
                active = None
        if active is None:
            active = self._active = self._open_active()
            # One that has lines already ends in time, too.
            self._changed.notify_all()
        return active

    def _open_active(self) -> _Active:
        self._names.directory.mkdir(parents=True, exist_ok=True)
        if self._collects:
            return _Active(AppendFile(self._names.journal(self._names.stamp())))
        file = AppendFile(self._names.active)
        torn = file.cut(file.after_last_line())
        if torn:
            log.warning(
                "sink %s: %s ended in a torn line, as after a kill: %d octets cut off",
                *(self._name, file.path, torn),
            )
        return _Active(file, time.monotonic())

    def _rotate(self, active: _Active) -> None:
        """End a file. Raises SinkError or OSError if it cannot be ended now; it goes on then."""
        if self._config.fsync != "never":
            active.file.sync()
        if not self._collects:
            finished = self._names.finished(self._names.stamp())
            active.file.path.rename(finished)
            active.file.path = finished
        self._active = None
        self._waiting.append(active.file)
        self._changed.notify_all()

    def _take_over(self) -> None:
        for path in self._names.left_unfinished():
            log.warning("sink %s: removed %s, which was never finished", self._name, path)
            path.unlink()
        if self._collects:
            for path in self._names.left_journals():
                self._take_over_journal(path)
        elif self._config.compression == "gzip":
            for path in self._names.all_finished():
                if path.suffix != ".gz":
                    self._waiting.append(AppendFile(path))

    def _take_over_journal(self, path: Path) -> None:
        try:
            file = AppendFile(path)
        except SinkError as err:
            # Of a process that is still there.
            log.info("sink %s: %s", self._name, err)
            return
        flows, end = whole_messages(path)
        log.warning(
            "sink %s: a process was killed and left %s: its %d flows are finished now, %d octets "
            "of a message that was under way are cut off",
            *(self._name, path, flows, file.cut(end)),
        )
        if flows:
            self._waiting.append(file)
        else:
            path.unlink()
            file.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._closed):
                    left = self._until_old()
                    if left is not None and left <= 0:
                        self._end_old()
                        left = _AGAIN
                    if not self._waiting:
                        self._changed.wait(left)
                if not self._waiting:
                    return
                full = self._waiting[0]
            if not self._finish_one(full) and self._pause():
                return

    def _until_old(self) -> float | None:
        """Seconds until the active file is to end; ``None`` while nothing has an age."""
        active, every = self._active, self._config.rotate.every
        if active is None or not active.file.octets or not every:
            return None
        return active.since + every - time.monotonic()

    def _end_old(self) -> None:
        assert self._active is not None
        try:
            if self._active.file.moved():
                self._active.file.close()
                self._active = None
            else:
                self._rotate(self._active)
        except (SinkError, OSError) as err:
            self._complain(err if isinstance(err, SinkError) else failure(err, self._names.active))

    def _finish_one(self, full: AppendFile) -> bool:
        """Whether that worked."""
        try:
            finished = self._finish(full, self._too_late)
            log.debug("sink %s: finished %s", self._name, finished)
            gone = self._names.prune(self._config.keep)
            log.debug("sink %s: %d old files removed", self._name, len(gone))
        except Stopped:
            log.warning("sink %s: no time to finish %s: the next start will", self._name, full.path)
            return False
        except OSError as err:
            self._problem = failure(err, Path(err.filename or full.path))
            self._complain(self._problem)
            return False
        except Exception:
            # A mistake here must not end the thread that all later files need.
            log.exception("sink %s: cannot finish %s", self._name, full.path)
            self._problem = SinkError("internal", f"cannot finish {full.path}", retryable=True)
            return False
        with self._changed:
            self._problem = None
            self._waiting.popleft()
            self._changed.notify_all()
        full.close()
        return True

    def _complain(self, problem: SinkError) -> None:
        if time.monotonic() - self._mentioned >= _REMIND:
            self._mentioned = time.monotonic()
            log.warning("sink %s: cannot finish a file: %s", self._name, problem)

    def _pause(self) -> bool:
        """Wait before the next attempt. Returns whether there is none."""
        with self._changed:
            if not self._closed:
                self._changed.wait(_AGAIN)
            return self._closed

    def _too_late(self) -> bool:
        return self._closed and time.monotonic() > self._deadline


def _finish(config: FileConfig, names: Names) -> Finish:
    sync = config.fsync != "never"
    if config.written_as == "parquet":
        chosen = config.compression
        return Parquet(names, "zstd" if chosen == "auto" else chosen, sync=sync)
    return Gzip(names, sync=sync) if config.compression == "gzip" else Plain()
