"""
A client of the Kubernetes API that only the tests use: JSON over HTTP/1.1, nothing cleverer.

What the agent uses is another, so that neither can hide the other's mistakes.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Self

from tests import patience
from tests.e2e.net import Netns

_TIMEOUT = 60.0 * patience.FACTOR
#: Content types of bodies that change an object.
_TYPES = {"PATCH": "application/merge-patch+json"}


class Refused(Exception):
    """
    An answer that is none of success.

    Args:
        code: Of HTTP.
        body: What came with it.
    """

    def __init__(self, code: int, body: str) -> None:
        super().__init__(f"{code}: {body[:500]}")
        self.code = code


class Client:
    """
    Requests and their answers, from any thread; connections are kept.

    Args:
        port: On 127.0.0.1.
        authority: Whose certificate the server must show; ``None`` for plain HTTP.
        token: Empty for none.
        netns: Where the server is; here if ``None``.
    """

    def __init__(
        self, port: int, authority: Path | None, token: str, netns: Netns | None = None
    ) -> None:
        self._port = port
        self._context = ssl.create_default_context(cafile=authority) if authority else None
        self._headers = {"Accept": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._netns = netns
        self._idle: list[http.client.HTTPConnection] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections that nobody uses now. It can be used again."""
        while self._idle:
            self._idle.pop().close()

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """
        One request and its answer.

        Raises:
            Refused: If the answer is none of success.
            OSError: If there is none.
        """
        answer = self.text(method, path, body)
        return dict(json.loads(answer)) if answer.startswith("{") else {"text": answer}

    def apply(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Likewise, as ``kubectl apply --server-side``; ``path`` with its parameters."""
        return dict(json.loads(self.text("PATCH", path, body, "application/apply-patch+yaml")))

    def text(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, content: str = ""
    ) -> str:
        """Likewise, as it came; ``content`` is the body's type, if it is not the method's."""
        encoded = None if body is None else json.dumps(body).encode()
        content = content or _TYPES.get(method, "application/json")
        headers = self._headers | {"Content-Type": content}
        connection = self._connection()
        try:
            connection.request(method, path, encoded, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        except (http.client.HTTPException, OSError) as err:
            connection.close()
            raise ConnectionError(str(err)) from err
        self._idle.append(connection)
        if answer.status >= 300:
            raise Refused(answer.status, text)
        return text

    def ensure(self, path: str, body: Mapping[str, Any]) -> None:
        """Make an object, unless there is one of this name."""
        try:
            self.call("POST", path, body)
        except Refused as err:
            if err.code != 409:
                raise

    @contextmanager
    def watch(self, path: str, timeout: float = _TIMEOUT) -> Iterator[Iterator[dict[str, Any]]]:
        """
        What a watch says, until it ends; ``path`` with its parameters.

        Raises:
            Refused: If the answer is none of success.
            OSError: If there is none, or nothing comes for ``timeout`` seconds.
        """
        connection = self._new(timeout)
        try:
            connection.request("GET", path, headers=self._headers)
            answer = connection.getresponse()
            if answer.status >= 300:
                raise Refused(answer.status, answer.read().decode())
            yield (json.loads(line) for line in answer)
        except http.client.HTTPException as err:
            raise ConnectionError(str(err)) from err
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        while self._idle:
            # Another thread may take the last one in between.
            with suppress(IndexError):
                found = self._idle.pop()
                # What can be read before anything was asked is the server's end of it.
                if not select.select([found.sock], [], [], 0)[0]:
                    return found
                found.close()
        return self._new(_TIMEOUT)

    def _new(self, timeout: float) -> http.client.HTTPConnection:
        entered: AbstractContextManager[object] = (
            self._netns.entered() if self._netns else nullcontext()
        )
        made = (
            http.client.HTTPSConnection(
                "127.0.0.1", self._port, timeout=timeout, context=self._context
            )
            if self._context
            else http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout)
        )
        with entered:
            made.connect()
        # A request's head and body are two writes: the second must not wait for an answer.
        made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made
