"""
A client of etcd: writes what would take the API server minutes, and lets etcd forget.

The API server keeps objects under /registry; what it finds there, JSON or its own encoding, is an
object like any other, and those who watch hear of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import grpc

#: So many requests are on the way at a time.
_WINDOW = 256


class Etcd:
    """
    A connection.

    Args:
        path: Of its Unix socket, which is reached from any network namespace.
    """

    def __init__(self, path: Path) -> None:
        self._channel: Any = grpc.insecure_channel(
            f"unix:{path}", options=[("grpc.default_authority", "localhost")]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def put(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Write values under keys, each with a revision of its own, in this order."""
        method = self._channel.unary_unary("/etcdserverpb.KV/Put")
        pending: deque[Any] = deque()
        for key, value in entries:
            pending.append(method.future(_field(1, key.encode()) + _field(2, value)))
            if len(pending) > _WINDOW:
                pending.popleft().result()
        for one in pending:
            one.result()

    def compact(self, revision: int) -> None:
        """Forget what was before a revision."""
        # CompactionRequest of etcd's rpc.proto: revision, physical.
        request = b"\x08" + _varint(revision) + b"\x10\x01"
        self._channel.unary_unary("/etcdserverpb.KV/Compact")(request)


def _field(number: int, content: bytes) -> bytes:
    """A field of octets: https://protobuf.dev/programming-guides/encoding/."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*octets, number])
