"""Files that somebody else replaces: read again on a thread when they change, never while asked."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from exporter.credentials import Stamp, stamp
from exporter.errors import ConfigError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between two looks at the files: a stat call each.
INTERVAL = 1.0


class Files(Generic[T]):
    """
    What files hold.

    A file that cannot be read or used changes nothing: what it held before stays, and
    :attr:`problem` says so until the file is replaced.

    Args:
        paths: Any number; a symbolic link counts as what it leads to.
        read: What one holds. Raises ConfigError, in one line that names the file.
        use: Is given what all of them hold, in order of ``paths``, after each change; those that
            could never be read are left out. Called by :meth:`open`, then on the thread.
    """

    def __init__(
        self,
        paths: tuple[Path, ...],
        read: Callable[[Path], T],
        use: Callable[[Mapping[Path, T]], None],
    ) -> None:
        self._paths = paths
        self._read = read
        self._use = use
        self._seen: dict[Path, Stamp | None] = {}
        self._coming: dict[Path, Stamp | None] = {}
        self._held: dict[Path, T] = {}
        self._problems: dict[Path, str] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def problem(self) -> str:
        """Why the first file that could not be used could not; empty if all could."""
        return next(iter(dict(self._problems).values()), "")

    def open(self) -> None:
        """Read all of them now, and again when they change."""
        self.look()
        if self._paths and self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="enrich-files", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread. Again is fine."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def look(self, *, patient: bool = False) -> None:
        """
        Read what is another file than at the last look.

        Args:
            patient: Not before it is the same in two looks: its writer has gone on then.
        """
        changed = False
        for path in self._paths:
            # Before reading: what changes meanwhile is read again at the next look.
            now = stamp(path)
            if path in self._seen and self._seen[path] == now:
                continue
            if patient and self._coming.get(path, ()) != now:
                self._coming[path] = now
                continue
            self._seen[path] = now
            changed |= self._take(path)
        if changed:
            self._use({path: self._held[path] for path in self._paths if path in self._held})

    def _take(self, path: Path) -> bool:
        try:
            self._held[path] = self._read(path)
        except ConfigError as err:
            self._problems[path] = str(err)
            kept = "; what it held before stays in use" if path in self._held else ""
            log.warning("%s%s", err, kept)
            return False
        self._problems.pop(path, None)
        log.debug("read %s", path)
        return True

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            self.look(patient=True)


def read_octets(path: Path, limit: int) -> bytes:
    """
    A file's octets.

    Raises:
        ConfigError: If it cannot be read, is no regular file, or has more than ``limit``.
    """
    with open_regular(path, limit) as file:
        try:
            octets = file.read(limit + 1)
        except OSError as err:
            raise ConfigError(f"cannot read {path}: {err.strerror}") from err
    if len(octets) > limit:
        raise ConfigError(f"{path} has more than {limit >> 20} MiB")
    return octets


def open_regular(path: Path, limit: int) -> BinaryIO:
    """
    A file to read, without waiting for anybody, whatever is there. The caller closes it.

    Raises:
        ConfigError: If it cannot be read, is no regular file, or has more than ``limit`` octets.
    """
    try:
        # Opening a pipe would wait for its writer.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as err:
        raise ConfigError(f"cannot read {path}: {err.strerror}") from err
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size <= limit:
        return file
    file.close()
    if stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} has more than {limit >> 20} MiB")
    raise ConfigError(f"cannot read {path}: it is no regular file")
