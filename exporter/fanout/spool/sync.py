"""When what was written reaches the disk: never by ourselves, after each batch, or now and then."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Syncer:
    """
    A thread that calls fsync, so that a slow disk holds up neither the capture nor a delivery.

    Args:
        interval: Seconds between two calls; 0 for one after each batch.
        descriptor: Gives the file that is written, or -1.
    """

    def __init__(self, interval: float, descriptor: Callable[[], int]) -> None:
        self._interval = interval
        self._descriptor = descriptor
        self._written = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.calls = 0

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="spool sync", daemon=True)
        self._thread.start()

    def written(self) -> None:
        """There is something to sync."""
        self._written.set()

    def stop(self) -> None:
        """Sync once more if there is something, and end. Again is fine."""
        if self._thread is not None:
            self._stopped.set()
            self._written.set()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        stopped = False
        while not stopped:
            self._written.wait()
            self._written.clear()
            # Before the sync: what was written before the end is in it.
            stopped = self._stopped.is_set()
            self._sync()
            if self._interval:
                self._stopped.wait(self._interval)

    def _sync(self) -> None:
        fd = self._descriptor()
        if fd < 0:
            return
        try:
            os.fdatasync(fd)
            self.calls += 1
        except OSError as err:
            log.warning("spool: fsync: %s", err.strerror)
            time.sleep(min(self._interval, 1.0))
        finally:
            os.close(fd)
