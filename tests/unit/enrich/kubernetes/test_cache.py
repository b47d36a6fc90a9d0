"""
A shared cache and its agents, over real gRPC: restarts, broken streams, and what is not known yet.

What a real API server says through it is in tests/e2e/test_kubernetes.py.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self, cast

import grpc
import pytest

from exporter._pb import kube_cache_pb2 as pb
from exporter.enrich.kubernetes.cache import follower as follower_module
from exporter.enrich.kubernetes.cache import mirror as mirror_module
from exporter.enrich.kubernetes.cache import server as server_module
from exporter.enrich.kubernetes.cache.follower import Follower
from exporter.enrich.kubernetes.cache.messages import METHOD
from exporter.enrich.kubernetes.cache.server import CacheServer
from exporter.enrich.kubernetes.client import Resource
from exporter.enrich.kubernetes.config import KubernetesConfig
from exporter.enrich.kubernetes.index import Index, Moment
from exporter.enrich.kubernetes.objects import Entity
from exporter.enrich.kubernetes.reflector import Reflector
from exporter.testing.batch import pack_address
from tests.patience import wait_until

NOW = Moment(0, 0)


def pod(number: int, *extra: str) -> Entity:
    address = pack_address(f"10.0.{number >> 8}.{number & 255}")
    return Entity("Pod", f"u{number}", "ns", f"p{number}", (address,), extra=extra)


@dataclass
class Upstream:
    """What the cache has of an API server, as the test says."""

    caught_up_ns: int
    problem: str = ""
    in_doubt: bool = False
    resource: Resource = field(default_factory=lambda: Resource("Pod", "/api/v1/pods"))
    counts: Counter[str] = field(default_factory=Counter)

    def start(self) -> None: ...

    def close(self) -> None: ...


class Cache:
    """A cache in a thread of its own, with pods."""

    def __init__(self, port: int, pods: Sequence[Entity] = (), labels: str = "") -> None:
        self.upstream = Upstream(time.time_ns())
        config = KubernetesConfig.model_validate({"labels": labels})
        self.server = CacheServer(
            config, f"127.0.0.1:{port}", lambda *_: [cast("Reflector", self.upstream)]
        )
        for one in pods:
            self.server.mirror.put(one, NOW)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._ready = threading.Event()

    def _run(self) -> None:
        self._loop.run_until_complete(self.server.run(self._ready.set))
        self._loop.close()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self.server.stop)
        self._thread.join()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Where the cache is, now and after a restart; nobody waits long."""
    monkeypatch.setattr(server_module, "BEAT", 0.02)
    monkeypatch.setattr(server_module, "LOOK", 0.01)
    monkeypatch.setattr(follower_module, "FIRST", 0.01)
    monkeypatch.setattr(follower_module, "AWAY", 0.05)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def agent(port: int, labels: str = "") -> Iterator[tuple[Follower, Index]]:
    index = Index()
    config = {"cache": f"grpc://127.0.0.1:{port}", "labels": labels}
    follower = Follower(KubernetesConfig.model_validate(config), index)
    follower.start()
    try:
        yield follower, index
    finally:
        follower.close()


def is_well(follower: Follower) -> bool:
    return not follower.problem and not follower.in_doubt


def test_a_cache_that_goes_and_comes_back(port: int) -> None:
    """Last answers stay; the next run is another cache: what it does not list is gone."""
    with agent(port) as (follower, index):
        wait_until(lambda: "unavailable" in follower.problem, "nobody is there")
        with Cache(port, [pod(1), pod(2)]):
            wait_until(lambda: is_well(follower), "all is told")
            assert index.uids("Pod") == {"u1", "u2"}
        wait_until(lambda: follower.problem, "it is noticed")
        assert f"cache 127.0.0.1:{port}: " in follower.problem
        assert (index.uids("Pod"), follower.in_doubt) == ({"u1", "u2"}, False)
        with Cache(port, [pod(2), pod(3)]):
            wait_until(lambda: is_well(follower), "all is told again")
            assert (index.uids("Pod"), follower.counts["list"]) == ({"u2", "u3"}, 2)


def test_a_stream_that_breaks(port: int) -> None:
    """It is taken up where it was: what changed meanwhile is told, and nothing is listed."""
    with Cache(port, [pod(1), pod(2)]) as cache, agent(port) as (follower, index):
        wait_until(lambda: is_well(follower), "all is told")
        follower._stream.cancel()
        cache.server.mirror.put(pod(3), NOW)
        cache.server.mirror.remove("Pod", "u1", NOW)
        wait_until(lambda: follower.counts["watch"] > 1 and is_well(follower), "it is back")
        wait_until(lambda: index.uids("Pod") == {"u2", "u3"}, "changes are told")
        assert follower.counts["list"] == 1


@pytest.mark.parametrize(
    ("behind", "own", "listed"),
    [(0, True, 0), (3, True, 0), (4, True, 6), (3, False, 6), (-1, True, 6)],
)
def test_who_is_told_everything(
    port: int, monkeypatch: pytest.MonkeyPatch, behind: int, own: bool, listed: int
) -> None:
    """One of another run, and one who missed more than is remembered; others what they missed."""
    monkeypatch.setattr(mirror_module, "REMEMBERED", 3)
    with (
        Cache(port, [pod(number) for number in range(6)]) as cache,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        follow = channel.unary_stream(METHOD, pb.Position.SerializeToString, pb.Changes.FromString)
        epoch = cache.server.mirror.epoch if own else "another"
        stream = follow(pb.Position(epoch=epoch, sequence=6 - behind), timeout=30)
        next(stream)
        told = next(stream)
        stream.cancel()
    assert (told.begins, told.complete) == (bool(listed), bool(listed))
    assert len(told.changes) == (listed or behind)
    assert told.sequence == 6


def test_a_cache_that_has_listed_nothing(port: int) -> None:
    """
    A cache that starts while the API server is away takes away nothing that an agent knows; once
    somebody answers it, nothing is sure until it has listed all.
    """
    with agent(port) as (follower, index):
        with Cache(port, [pod(1)]):
            wait_until(lambda: is_well(follower), "all is told")
        second = Cache(port, [pod(2)])
        second.upstream.caught_up_ns, second.upstream.problem = 0, "Pod: connection refused"
        with second:
            wait_until(lambda: "cache: Pod: connection refused" in follower.problem, "it is said")
            assert (index.uids("Pod"), follower.in_doubt) == ({"u1"}, False)
            second.upstream.in_doubt = True
            wait_until(lambda: follower.in_doubt, "somebody answers")
            second.upstream.problem, second.upstream.in_doubt = "", False
            second.upstream.caught_up_ns = time.time_ns()
            wait_until(lambda: is_well(follower), "all is told")
            assert index.uids("Pod") == {"u2"}


def test_labels(port: int, caplog: pytest.LogCaptureFixture) -> None:
    """Each by its name, wherever the cache has it; a line about what it was not told to keep."""
    caplog.set_level(logging.WARNING)
    cache = Cache(port, [pod(1, "x", "web")], labels="other,app")
    cache.upstream.caught_up_ns, cache.upstream.problem = 0, "not listed yet"
    with cache, agent(port, "tier,app") as (follower, index):
        wait_until(lambda: "cache: not listed" in follower.problem, "it is there")
        assert "is not told to keep" not in caplog.text
        cache.upstream.caught_up_ns, cache.upstream.problem = time.time_ns(), ""
        wait_until(lambda: is_well(follower), "all is told")
        found = [index.object(slot) for slot in range(index.changes()[2])]
    assert [one.extra for one in found if one] == [("", "web")]
    kept = [one.getMessage() for one in caplog.records if "keep" in one.getMessage()]
    assert kept == ["kubernetes: the cache is not told to keep tier"]


def test_an_agent_that_does_not_read(port: int) -> None:
    """It holds up no other: its own stream waits for it."""
    pods = [pod(number, "x" * 200) for number in range(3000)]
    with Cache(port, pods) as cache, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        follow = channel.unary_stream(METHOD, pb.Position.SerializeToString, pb.Changes.FromString)
        stalled = follow(pb.Position(), wait_for_ready=True)
        wait_until(lambda: cache.server.agents == 1, "it is served")
        with agent(port) as (follower, index):
            wait_until(lambda: is_well(follower), "all is told")
            assert len(index.uids("Pod")) == len(pods)
        stalled.cancel()
