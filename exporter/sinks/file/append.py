"""
A file that grows by whole messages: each is in it as a whole, or not at all.

A full disk takes a part of a message: that part is cut off again, so that a retry tears and repeats
nothing. Only a process that is killed while it writes leaves a part behind.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from exporter.errors import SinkError

#: Flows are nobody's business but root's and its group's.
_MODE = 0o640
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_BLOCK = 1 << 16


def failure(err: OSError, path: Path) -> SinkError:
    """
    What an error of the file system means: ``disk_full``, or ``failed``; both can pass.
    """
    reason = "disk_full" if err.errno in _NO_ROOM else "failed"
    return SinkError(reason, f"{path}: {err.strerror or err}", retryable=True)


class AppendFile:
    """
    Open for appending, and locked: nobody else of us writes to it.

    Args:
        path: Made if it is not there.

    Raises:
        SinkError: ``locked`` if another process has it, ``disk_full`` or ``failed``; all retryable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._torn = False
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, _MODE)
        except OSError as err:
            raise failure(err, path) from err
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(self._fd)
            #: Up to where there are whole messages.
            self.octets = status.st_size
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")  # noqa: TRY301
        except BlockingIOError as err:
            os.close(self._fd)
            raise SinkError(
                "locked", f"{path}: another process writes to it", retryable=True
            ) from err
        except OSError as err:
            os.close(self._fd)
            raise failure(err, path) from err

    def append(self, message: bytes, *, sync: bool) -> None:
        """
        Write a message at the end.

        Args:
            message: What is written as a whole or not at all.
            sync: Whether to wait until the disk has it.

        Raises:
            SinkError: ``disk_full`` or ``failed``, retryable; the file is as it was before.
        """
        try:
            if self._torn:
                os.ftruncate(self._fd, self.octets)
                self._torn = False
            # Not our own count: somebody may have emptied the file.
            self.octets = os.fstat(self._fd).st_size
            rest = memoryview(message)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            if sync:
                os.fdatasync(self._fd)
        except OSError as err:
            self._take_back()
            raise failure(err, self.path) from err
        self.octets += len(message)

    def after_last_line(self) -> int:
        """Where the last whole line ends. Raises SinkError."""
        end = self.octets
        try:
            while end:
                start = max(end - _BLOCK, 0)
                found = os.pread(self._fd, end - start, start).rfind(b"\n")
                if found >= 0:
                    return start + found + 1
                end = start
        except OSError as err:
            raise failure(err, self.path) from err
        return 0

    def cut(self, end: int) -> int:
        """
        Leave only the first ``end`` octets.

        Returns:
            How many were cut off.

        Raises:
            SinkError: If that cannot be done.
        """
        torn = self.octets - end
        if torn:
            try:
                os.ftruncate(self._fd, end)
            except OSError as err:
                raise failure(err, self.path) from err
        self.octets = end
        return torn

    def moved(self) -> bool:
        """Whether its path leads elsewhere now: somebody else has rotated or removed it."""
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        here = os.fstat(self._fd)
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def sync(self) -> None:
        """Wait until the disk has all of it. Raises SinkError."""
        try:
            os.fsync(self._fd)
        except OSError as err:
            raise failure(err, self.path) from err

    def close(self) -> None:
        """Again is fine."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._fd, self.octets)
        except OSError:
            # Tried again before the next message.
            self._torn = True
