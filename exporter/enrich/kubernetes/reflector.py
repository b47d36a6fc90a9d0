"""
Keeps the index like one resource of the API server: a list, then a watch that is resumed.

A watch that ends is taken up where it was. Only what the server has forgotten meanwhile (410 Gone)
is listed anew; what is not in the new list was deleted while nobody looked.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from exporter.enrich.kubernetes.client import Away, Refused, Resource
from exporter.enrich.kubernetes.index import Moment
from exporter.enrich.kubernetes.objects import Event, Item, Page
from exporter.errors import ExporterError

log = logging.getLogger(__name__)

#: Seconds by which a change may be known later than it was made, while the watch is up: from etcd
#: through the server's cache to us. On an idle machine it is milliseconds.
LAG = 2.0
#: Seconds until a server that cannot be reached is tried again: it costs it nothing, and who hears
#: late of a change may give an address to who had it before.
FIRST, AWAY = 0.1, 2.0
#: The same for one that answers with errors and has done so for a while; one that starts does, too.
REFUSED, A_WHILE = 30.0, 60.0
_GONE, _BUSY = 410, 429
#: Between two preparations, which cost a copy of the table.
_SETTLE_NS = 1_000_000_000
#: Expired and continuation too old: the list that was begun can not be finished.
_BEGIN_AGAIN = (_GONE, 400)


class Origin(Protocol):
    """Where lists and watches come from: the API server, or a cache of it."""

    def page(self, more: str) -> Page:
        """A part of a list."""

    def watch(self, version: str) -> Iterator[Event]:
        """What happened after a version."""

    def close(self) -> None:
        """From any thread: break off what is under way."""

    def release(self) -> None:
        """From the thread that asked: give back what is open."""


class Store(Protocol):
    """What is kept up to date."""

    def put(self, item: Item, moment: Moment, /) -> None:
        """An object is there, or is another one now."""

    def remove(self, kind: str, uid: str, moment: Moment, /) -> None:
        """An object is gone."""

    def settle(self) -> None:
        """No more changes for a moment."""

    def uids(self, kind: str) -> set[str]:
        """All objects of a kind."""


class Reflector:
    """
    One resource, in a thread of its own.

    Args:
        resource: Which.
        origin: Of which.
        index: What it is reflected in.
    """

    def __init__(self, resource: Resource, origin: Origin, index: Store) -> None:
        self.resource = resource
        self._origin = origin
        self._index = index
        self._thread = threading.Thread(
            target=self._run, name=f"kubernetes-{resource.kind}", daemon=True
        )
        self._stop = threading.Event()
        self._version = ""
        self._failures, self._since = 0, 0.0
        self._applied = self._settle_ns = 0
        self._failed: type[Exception] | None = None
        #: Why it is not up to date; empty if it is.
        self.problem = "not listed yet"
        #: The server is there and goes on, and what it has to say has not been heard yet.
        self.in_doubt = False
        #: Everything until then is known, Unix ns; 0 before the first list.
        self.caught_up_ns = 0
        #: Of ``list``, ``watch``, ``event``.
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End. Again is fine."""
        self._stop.set()
        self._origin.close()
        if self._thread.is_alive():
            self._thread.join()

    def note(self, now_ns: int) -> None:
        """A watch is up, and there is nothing more to be heard, now."""
        self.caught_up_ns = now_ns
        if self._applied != self.counts["event"] and now_ns > self._settle_ns:
            self._applied = self.counts["event"]
            self._settle_ns = now_ns + _SETTLE_NS
            self._index.settle()
        self.in_doubt = False
        self._well()

    def connected(self) -> None:
        """Somebody is there after all, and may have been for a moment."""
        self.in_doubt = bool(self.problem)

    def _run(self) -> None:
        try:
            self._follow()
        finally:
            self._origin.release()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                if not self._version:
                    self._list()
                self._watch()
            except (Away, Refused, ExporterError, ValueError) as err:
                if not self._stop.is_set():
                    self._fail(err)

    def _fail(self, err: Exception) -> None:
        code = err.code if isinstance(err, Refused) else 0
        # Whoever is away or refuses tells others nothing either.
        self.in_doubt = code in (_GONE, _BUSY)
        if code == _GONE or (code in _BEGIN_AGAIN and not self._version):
            self._version = ""
        text = f"{self.resource.kind}: {err}"
        if not self.problem:
            log.warning("kubernetes: %s: the last answers are used", text)
        self.problem = text
        if type(err) is not self._failed:
            self._failed, self._failures, self._since = type(err), 0, time.monotonic()
        self._failures += 1
        is_new = time.monotonic() - self._since < A_WHILE
        most = AWAY if is_new or isinstance(err, Away) else REFUSED
        wait = min(most, FIRST * 2 ** min(self._failures, 10))
        asked = err.retry_after if isinstance(err, Refused) else 0.0
        # Not all agents of a cluster at once.
        self._stop.wait(max(wait * random.uniform(0.5, 1.0), min(asked, REFUSED)))  # noqa: S311

    def _list(self) -> None:
        """Everything that there is now, and what there is no more."""
        seen: set[str] = set()
        more = ""
        begun = time.time_ns()
        while not self._stop.is_set():
            self.counts["list"] += not more
            page = self._origin.page(more)
            self.in_doubt = True
            moment = self._moment()
            for item in page.items:
                seen.add(item.uid)
                self._index.put(item, moment)
            self._index.settle()
            more = page.more
            if not more:
                break
        for uid in self._index.uids(self.resource.kind) - seen:
            self._index.remove(self.resource.kind, uid, self._moment())
        # A list is of the time at which it was begun, or later.
        self.caught_up_ns = begun
        self.in_doubt = False
        self._version = page.version
        self._well()

    def _watch(self) -> None:
        self.counts["watch"] += 1
        begun, heard = time.monotonic(), False
        for event in self._origin.watch(self._version):
            heard = True
            if event.type == "ERROR":
                raise Refused(event.code, event.message)
            self._version = event.version or self._version
            if event.item is not None:
                self.counts["event"] += 1
                self._apply(event)
            self._well()
            if self._stop.is_set():
                return
        if not heard and time.monotonic() - begun < 1:
            # Not at full speed for ever.
            raise Away("the server ends watches at once")

    def _apply(self, event: Event) -> None:
        assert event.item is not None
        if event.type == "DELETED":
            self._index.remove(self.resource.kind, event.item.uid, self._moment())
        else:
            self._index.put(event.item, self._moment())

    def _moment(self) -> Moment:
        now = time.time_ns()
        return Moment(now, max(0, min(now, self.caught_up_ns) - int(LAG * 1e9)))

    def _well(self) -> None:
        if self.problem:
            log.info("kubernetes: %s: up to date", self.resource.kind)
        self.problem = ""
        self._failures, self._failed = 0, None
