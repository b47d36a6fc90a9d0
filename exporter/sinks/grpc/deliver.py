"""A gRPC channel to a collector, and what its answers mean."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from pathlib import Path
from typing import Any

from exporter.credentials import Watched, masked, secret
from exporter.errors import ConfigError, SinkError
from exporter.sinks.channel import open_channel
from exporter.sinks.grpc.config import GrpcConfig

log = logging.getLogger(__name__)

_METHOD = "/pbflow.Collector/Send"


class GrpcClient:
    """
    Sends encoded messages.

    Args:
        config: Where to. Nothing is opened before :meth:`open`.
    """

    def __init__(self, config: GrpcConfig) -> None:
        self._config = config
        self._grpc: Any = None
        self._channel: Any = None
        self._send: Any = None
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._files = _files(config)
        self._watched = Watched(self._files)
        self._due = math.inf
        self._closing = threading.Lock()
        self._closed = False

    def open(self) -> None:
        """
        Make the channel; it connects by itself when there is something to send.

        Raises:
            ConfigError: If a certificate or secret cannot be read.
        """
        # Imported here: 20 MB that only this sink needs.
        import grpc

        self._grpc = grpc
        self._connect()

    def send(self, payload: bytes, timeout: float) -> None:
        """
        One call, waiting for the connection if there is none.

        Raises:
            SinkError: With the gRPC status as its reason, in lower case.
        """
        start = time.monotonic()
        end = start + timeout
        if self._files:
            self._renew()
        if start >= self._due:
            self._spread()
        try:
            failure = self._call(payload, timeout, wait=False)
            left = end - time.monotonic()
            if failure is not None and failure.reason == "unavailable" and left > 0:
                # Why there is no connection is only said to who does not wait for one.
                waited = self._call(payload, left, wait=True)
                late = waited is not None and waited.reason == "deadline_exceeded"
                failure = failure if late else waited
        except ValueError as err:  # the channel was closed meanwhile
            raise SinkError("cancelled", str(err), retryable=True) from err
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Cancel what is under way. Again is fine."""
        with self._closing:
            self._closed = True
            if self._channel is not None:
                self._channel.close()

    def _call(self, payload: bytes, timeout: float, *, wait: bool) -> SinkError | None:
        try:
            self._send(payload, timeout=timeout, wait_for_ready=wait, metadata=self._metadata)
        except self._grpc.RpcError as err:
            return self._failure(err)
        return None

    def _renew(self) -> None:
        """
        Use certificates and secrets that were replaced.

        Raises:
            SinkError: If they cannot be used (yet): whoever replaces them may not be done.
        """
        if not self._watched.changed():
            return
        try:
            self._connect()
        except ConfigError as err:
            self._watched.forget()
            raise SinkError("credentials", str(err), retryable=True) from err
        log.info("sink %s: certificates and secrets read again", self._config.name)

    def _spread(self) -> None:
        """Another connection: maybe to another collector."""
        try:
            self._connect()
        except ConfigError as err:
            # They are not needed for the connection that there is.
            log.warning("sink %s: the old connection stays: %s", self._config.name, err)
            self._due = self._next()

    def _next(self) -> float:
        """When this connection has lasted long enough."""
        if not self._config.reconnect:
            return math.inf
        spread = random.uniform(-1, 1) * self._config.reconnect_jitter  # noqa: S311 - no secret
        return time.monotonic() + self._config.reconnect + spread

    def _connect(self) -> None:
        metadata = _metadata(self._config)
        channel = open_channel(self._config.target, self._config.tls)
        with self._closing:
            old, self._channel = self._channel, channel
            if self._closed:
                channel.close()
        self._metadata = metadata
        self._send = channel.unary_unary(_METHOD)
        self._due = self._next()
        if old is not None:
            old.close()

    def _failure(self, err: Any) -> SinkError:
        code = err.code()
        sent = [value for _, value in self._metadata]
        said = masked((err.details() or "").encode(), sent).decode(errors="replace")
        detail = f"{self._config.target}: {said}"
        if code is self._grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in detail:
            return SinkError("too_large", detail, retryable=False)
        # Whatever else is wrong (a server of another kind, a certificate, an overload) may be put
        # right on the other side while the queue holds what it can: only what the server calls
        # malformed is given up.
        retryable = code is not self._grpc.StatusCode.INVALID_ARGUMENT
        return SinkError(code.name.lower(), detail, retryable=retryable)


def _files(config: GrpcConfig) -> tuple[Path, ...]:
    """Everything that somebody else replaces."""
    tokens = (config.token_file,) if config.token_file is not None else ()
    tls = config.tls.files() if config.tls is not None else ()
    return (*tls, *tokens, *config.headers.values())


def _metadata(config: GrpcConfig) -> tuple[tuple[str, str], ...]:
    headers = {name: _header(path) for name, path in config.headers.items()}
    if config.token_file is not None:
        headers["authorization"] = f"Bearer {_header(config.token_file)}"
    return tuple(headers.items())


def _header(path: Path) -> str:
    """
    A secret that can be a header's value.

    Raises:
        ConfigError: If it has what a header cannot have: gRPC's own error would show it.
    """
    text = secret(path)
    if not (text.isascii() and text.isprintable()):
        raise ConfigError(f"{path} is not one line of printable ASCII")
    return text
