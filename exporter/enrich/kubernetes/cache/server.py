"""
``flow-exporter kube-cache``: lists and watches once, and tells any number of agents.

One stream for each agent, on one event loop: an agent costs a buffer, not a thread. An agent that
does not read is told everything anew when its buffer is full, as the transport's flow control has
it; it never holds up another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from exporter._pb import kube_cache_pb2 as pb
from exporter.enrich.kubernetes.cache.messages import METHOD
from exporter.enrich.kubernetes.cache.mirror import PART, Mirror, News
from exporter.enrich.kubernetes.config import KubernetesConfig
from exporter.enrich.kubernetes.connect import connect
from exporter.enrich.kubernetes.reflector import Reflector
from exporter.errors import ConfigError

log = logging.getLogger(__name__)

#: Seconds between looks for something new; changes of that time are told together.
LOOK = 0.1
#: Seconds between messages when nothing changes: an agent knows then that it knows everything.
BEAT = 1.0


class CacheServer:
    """
    The service.

    Args:
        config: What is listed, watched and kept.
        listen: ``HOST:PORT``; port 0 is any.
        follow: Makes what keeps the mirror up to date; for tests.
    """

    def __init__(
        self,
        config: KubernetesConfig,
        listen: str,
        follow: Callable[[KubernetesConfig, Any], list[Reflector]] = connect,
    ) -> None:
        self._config = config
        self._listen = listen
        self._follow = follow
        self.mirror = Mirror()
        self.port = 0
        self.agents = 0
        self._reflectors: list[Reflector] = []
        self._stopped = asyncio.Event()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """
        Serve until :meth:`stop`.

        Raises:
            ConfigError: If there is no server to ask, or the address cannot be had.
        """
        # Imported here: only the cache needs it.
        import grpc
        from grpc import aio

        self._reflectors = self._follow(self._config, self.mirror)
        server = aio.server()
        handler = grpc.unary_stream_rpc_method_handler(
            self._answer, request_deserializer=pb.Position.FromString
        )
        service, method = METHOD.strip("/").split("/")
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
        try:
            self.port = server.add_insecure_port(self._listen)
        except RuntimeError as err:
            raise ConfigError(f"cannot listen on {self._listen}: {err}") from err
        for reflector in self._reflectors:
            reflector.start()
        await server.start()
        log.info("kube-cache: listening on port %d", self.port)
        ready()
        try:
            await self._stopped.wait()
        finally:
            await server.stop(0)
            for reflector in self._reflectors:
                await asyncio.to_thread(reflector.close)

    def stop(self) -> None:
        """On the event loop: end :meth:`run`."""
        self._stopped.set()

    def counts(self) -> dict[str, int]:
        """How often each kind was listed."""
        return {one.resource.kind: one.counts["list"] for one in self._reflectors}

    async def _answer(self, position: pb.Position, _context: Any) -> AsyncIterator[bytes]:
        """One agent's stream."""
        self.agents += 1
        try:
            while not all(one.caught_up_ns for one in self._reflectors):
                # Nothing is better than half: what is not in a list is gone.
                yield self._not_yet()
                await asyncio.sleep(BEAT)
            yield self._header()
            epoch, sequence = position.epoch, position.sequence
            told = 0.0
            while True:
                age = self._age()
                news = self.mirror.after(epoch, sequence)
                if news.parts or news.everything or time.monotonic() - told > BEAT:
                    for message in self._messages(news, age):
                        yield message
                    told = time.monotonic()
                epoch, sequence = self.mirror.epoch, news.sequence
                await asyncio.sleep(LOOK)
        finally:
            self.agents -= 1

    def _messages(self, news: News, age: int) -> Sequence[bytes]:
        """A list in parts, or changes in parts; the position is only in the last."""
        parts = [news.parts[at : at + PART] for at in range(0, len(news.parts), PART)] or [[]]
        found = []
        for number, part in enumerate(parts):
            is_last = number == len(parts) - 1
            head = pb.Changes(
                epoch=self.mirror.epoch if is_last else "",
                sequence=news.sequence if is_last else 0,
                age_ns=age,
                begins=news.everything and number == 0,
                complete=news.everything and is_last,
                problem=self._problem(),
                in_doubt=self._in_doubt(),
            )
            found.append(b"".join((head.SerializeToString(), *part)))
        return found

    def _not_yet(self) -> bytes:
        words = self._problem() or "not listed yet"
        return pb.Changes(problem=words, in_doubt=self._in_doubt()).SerializeToString()

    def _header(self) -> bytes:
        header = pb.Changes(labels=self._config.labels, annotations=self._config.annotations)
        return header.SerializeToString()

    def _problem(self) -> str:
        return next((one.problem for one in self._reflectors if one.problem), "")

    def _in_doubt(self) -> bool:
        return any(one.in_doubt for one in self._reflectors)

    def _age(self) -> int:
        """Everything that was so then is known, ns ago."""
        return max(0, time.time_ns() - min(one.caught_up_ns for one in self._reflectors))
