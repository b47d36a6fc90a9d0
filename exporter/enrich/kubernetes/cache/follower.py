"""
Keeps the index like a shared cache: one stream for everything, taken up where it broke.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from exporter._pb import kube_cache_pb2 as pb
from exporter.enrich.kubernetes.cache.messages import METHOD, decode
from exporter.enrich.kubernetes.config import KubernetesConfig
from exporter.enrich.kubernetes.index import Index, Moment
from exporter.enrich.kubernetes.reflector import AWAY, FIRST, LAG

log = logging.getLogger(__name__)

_OPTIONS = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", 64 << 20),
    # Else a channel waits ever longer before it connects, up to two minutes, whatever we try.
    ("grpc.initial_reconnect_backoff_ms", int(1000 * FIRST)),
    # For one attempt: an address may answer nothing at all.
    ("grpc.min_reconnect_backoff_ms", int(1000 * AWAY)),
    ("grpc.max_reconnect_backoff_ms", int(1000 * AWAY)),
    ("grpc.enable_http_proxy", 0),
]


class Follower:
    """
    One cache, in a thread of its own.

    Args:
        config: Which, and what is wanted of its labels.
        index: What it is reflected in.
    """

    def __init__(self, config: KubernetesConfig, index: Index) -> None:
        self._config = config
        self._target = config.cache.removeprefix("grpc://")
        self._index = index
        self._thread = threading.Thread(target=self._run, name="kubernetes-cache", daemon=True)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._stream: Any = None
        self._position = pb.Position()
        self._seen: dict[str, set[str]] | None = None
        self._extra: tuple[int | None, ...] = ()
        #: Why it is not up to date; empty if it is.
        self.problem = "not listed yet"
        #: The cache is there, and a list of what is so now is not complete yet.
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
        with self._lock:
            if self._stream is not None:
                self._stream.cancel()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        # Imported here: only agents with a cache need it.
        import grpc

        failures = 0
        with grpc.insecure_channel(self._target, _OPTIONS) as channel:
            follow = channel.unary_stream(
                METHOD,
                request_serializer=pb.Position.SerializeToString,
                response_deserializer=pb.Changes.FromString,
            )
            while not self._stop.is_set():
                try:
                    with self._lock:
                        self._stream = follow(self._position)
                    if self._stop.is_set():
                        self._stream.cancel()
                    self.counts["watch"] += 1
                    for changes in self._stream:
                        self._take(changes)
                        failures = 0
                    words = "it ended the stream"
                except grpc.RpcError as err:
                    words = f"{err.code().name.lower()}: {err.details()}"
                if not self._stop.is_set():
                    self._fail(words)
                failures += 1
                wait = min(AWAY, FIRST * 2 ** min(failures, 10))
                self._stop.wait(wait * random.uniform(0.5, 1.0))  # noqa: S311

    def _fail(self, words: str) -> None:
        if not self.problem:
            log.warning("kubernetes: cache %s: %s: the last answers are used", self._target, words)
        self.problem = f"cache {self._target}: {words}"
        self.in_doubt = False
        # A list that broke off is begun again.
        self._seen = None

    def _take(self, changes: pb.Changes) -> None:
        if changes.labels or changes.annotations or (changes.begins and not self._extra):
            self._extra = self._places(changes)
        now = time.time_ns()
        known = now - changes.age_ns
        if changes.begins:
            self.counts["list"] += 1
            self._seen = {}
        self._apply(changes.changes, self._moment(now, known))
        if changes.complete and self._seen is not None:
            self._forget(self._moment(now, known))
        if changes.changes:
            self._index.settle()
        if changes.epoch:
            self._position = pb.Position(epoch=changes.epoch, sequence=changes.sequence)
            self.caught_up_ns = known
        # Nothing but the last message of a part says how far one has come. A cache that has listed
        # nothing yet knows less than we do, unless the API server is there for it.
        knows_nothing = bool(changes.problem) and not (changes.begins or changes.changes)
        self.in_doubt = changes.in_doubt or not (changes.epoch or knows_nothing)
        self.problem = f"cache: {changes.problem}" if changes.problem else ""

    def _moment(self, now: int, known: int) -> Moment:
        return Moment(now, max(0, min(self.caught_up_ns, known) - int(LAG * 1e9)))

    def _apply(self, changes: Iterable[pb.Change], moment: Moment) -> None:
        for change in changes:
            self.counts["event"] += 1
            thing = change.thing
            if change.gone:
                self._index.remove(thing.kind, thing.uid, moment)
                continue
            if self._seen is not None:
                self._seen.setdefault(thing.kind, set()).add(thing.uid)
            self._index.put(decode(thing, self._extra), moment)

    def _forget(self, moment: Moment) -> None:
        """What is not in the list is gone."""
        seen, self._seen = self._seen or {}, None
        for kind in ("Pod", "Service", "Node", "Job", "ReplicaSet"):
            for uid in self._index.uids(kind) - seen.get(kind, set()):
                self._index.remove(kind, uid, moment)

    def _places(self, changes: pb.Changes) -> tuple[int | None, ...]:
        """Where the cache has what is wanted."""
        labels, annotations = list(changes.labels), list(changes.annotations)
        found: list[int | None] = []
        for wanted, sent, begin in (
            (self._config.labels, labels, 0),
            (self._config.annotations, annotations, len(labels)),
        ):
            for name in wanted:
                if name not in sent:
                    log.warning("kubernetes: the cache is not told to keep %s", name)
                found.append(begin + sent.index(name) if name in sent else None)
        return tuple(found)
