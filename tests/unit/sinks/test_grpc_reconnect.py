"""Connections of a ``grpc`` sink to a real server, counted by their ports."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from exporter.sinks.grpc import deliver
from exporter.sinks.grpc.config import GrpcConfig
from exporter.sinks.grpc.deliver import GrpcClient


@dataclass
class Server:
    """A collector that keeps who has sent each message."""

    port: int = 0
    peers: list[str] = field(default_factory=list)

    def send(self, _request: bytes, context: Any) -> bytes:
        self.peers.append(context.peer())
        return b""

    def connections(self) -> list[int]:
        """The number of the connection of each message, from 0."""
        known = list(dict.fromkeys(self.peers))
        return [known.index(peer) for peer in self.peers]


@pytest.fixture
def server() -> Iterator[Server]:
    """Stopped afterwards."""
    made = Server()
    running = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    handler = grpc.unary_unary_rpc_method_handler(made.send)
    running.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("pbflow.Collector", {"Send": handler}),)
    )
    made.port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield made
    running.stop(None).wait()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Of the client alone: ``now``, in seconds, is set by the test."""
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(deliver, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def opened(server: Server, **options: Any) -> GrpcClient:
    config = {"name": "grpc", "target": f"127.0.0.1:{server.port}", **options}
    client = GrpcClient(GrpcConfig.model_validate(config))
    client.open()
    return client


def test_one_connection_unless_asked_for(server: Server, clock: SimpleNamespace) -> None:
    """However long it lasts."""
    client = opened(server)
    for _ in range(3):
        client.send(b"one", 30)
        clock.now += 100_000
    client.close()
    assert server.connections() == [0, 0, 0]


def test_a_new_connection_every_so_often(server: Server, clock: SimpleNamespace) -> None:
    """For the first message after that time; counted from when the last one was made."""
    client = opened(server, reconnect="5m")
    for seconds in (0, 299.9, 0.1, 299.9, 0.1, 1000, 1):
        clock.now += seconds
        client.send(b"one", 30)
    client.close()
    assert server.connections() == [0, 0, 1, 1, 2, 3, 3]


def test_agents_do_not_reconnect_at_once(
    server: Server, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each connection lasts between 4m30s and 5m30s, drawn anew."""
    draws = iter((-1, 1, 0, 0))
    asked = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return next(draws)

    monkeypatch.setattr(deliver, "random", SimpleNamespace(uniform=uniform))
    client = opened(server, reconnect="5m", reconnect_jitter="30s")
    for seconds in (0, 269.9, 0.1, 329.9, 0.1, 299.9, 0.1):
        clock.now += seconds
        client.send(b"one", 30)
    client.close()
    assert server.connections() == [0, 0, 1, 1, 2, 2, 3]
    assert set(asked) == {(-1, 1)}


def test_files_that_are_away_cost_no_connection(
    server: Server, clock: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The old one stays, with a line; the next is made when they are back."""
    caplog.set_level(logging.WARNING)
    token = tmp_path / "token"
    token.write_text("s3cret")
    client = opened(server, reconnect="5m", token_file=token)
    client.send(b"one", 30)
    token.rename(tmp_path / "away")
    clock.now += 301
    client.send(b"two", 30)
    (tmp_path / "away").rename(token)
    client.send(b"three", 30)
    clock.now += 301
    client.send(b"four", 30)
    client.close()
    assert server.connections() == [0, 0, 0, 1]
    assert [one.getMessage() for one in caplog.records] == [
        f"sink grpc: the old connection stays: cannot read {token}: No such file or directory"
    ]


@pytest.mark.parametrize("interval", ["0", "30s"])
def test_jitter_is_less_than_the_interval(interval: str) -> None:
    """Else a connection would last no time at all."""
    with pytest.raises(ValueError, match="reconnect_jitter must be less than reconnect"):
        GrpcConfig.model_validate(
            {"target": "a:1", "reconnect": interval, "reconnect_jitter": "30s"}
        )
