"""
A real ``pbflow.Collector``: a gRPC server that keeps every message on disk before it answers.

Run as a process (``python -m tests.e2e.collector PORT FILE``), so that it can be killed.
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from exporter._pb import flow_pb2
from tests.e2e.net import Netns
from tests.servers import Server

_ROOT = Path(__file__).parents[2]


class Collector(Server):
    """The process, in a namespace or, without one, here; it listens on 127.0.0.1."""

    def __init__(
        self, netns: Netns | None, port: int, directory: Path, *tls: Path, delay: float = 0.0
    ) -> None:
        self.target = f"127.0.0.1:{port}"
        self._file = directory / "messages"
        self._file.touch()
        command = [
            sys.executable, "-m", "tests.e2e.collector", str(port), str(self._file), str(delay),
            *map(str, tls),
        ]  # fmt: skip
        command = netns.command(*command) if netns else command
        super().__init__(command, directory / "collector.log", _ROOT)

    def _is_ready(self) -> bool:
        return self._says("ready\n")

    def messages(self) -> list[bytes]:
        """Every message that was kept, in order; a torn last one was never answered."""
        return list(_messages(self._file.read_bytes()))

    def records(self, *, once: bool = True) -> list[flow_pb2.Record]:
        """All records; a message that was delivered again counts once."""
        messages = self.messages()
        distinct = dict.fromkeys(messages) if once else messages
        return [
            record
            for message in distinct
            for record in flow_pb2.Records.FromString(message).entries
        ]


def _messages(kept: bytes) -> Iterator[bytes]:
    at = 0
    while at + 4 <= len(kept):
        (length,) = struct.unpack_from("<I", kept, at)
        if at + 4 + length > len(kept):
            return
        yield kept[at + 4 : at + 4 + length]
        at += 4 + length


def main() -> None:
    """Serve until killed."""
    port, path, delay, *tls = sys.argv[1:]
    with Path(path).open("ab", buffering=0) as kept:

        def send(request: bytes, _context: Any) -> bytes:
            # One write: what is on disk is whole messages, up to the last.
            kept.write(struct.pack("<I", len(request)) + request)
            time.sleep(float(delay))
            return flow_pb2.CollectorReply().SerializeToString()

        # max_workers 1: messages are kept in order. Limits are gRPC's defaults: 4 MiB.
        server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
        handler = grpc.unary_unary_rpc_method_handler(send)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("pbflow.Collector", {"Send": handler}),)
        )
        address = f"127.0.0.1:{port}"
        if tls:
            key, certificate, authority = (Path(name).read_bytes() for name in tls)
            credentials = grpc.ssl_server_credentials(
                [(key, certificate)], authority, require_client_auth=True
            )
            server.add_secure_port(address, credentials)
        else:
            server.add_insecure_port(address)
        server.start()
        print("ready", flush=True)
        server.wait_for_termination()


if __name__ == "__main__":
    main()
