"""A gRPC channel to a collector, and what its answers mean."""

from __future__ import annotations

from typing import Any

from exporter.errors import SinkError
from exporter.sinks.channel import open_channel
from exporter.sinks.grpc.config import GrpcConfig

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

    def open(self) -> None:
        """
        Make the channel; it connects by itself when there is something to send.

        Raises:
            ConfigError: If a certificate file cannot be read.
        """
        # Imported here: 20 MB that only this sink needs.
        import grpc

        self._grpc = grpc
        self._channel = open_channel(self._config.target, self._config.tls)
        self._send = self._channel.unary_unary(_METHOD)

    def send(self, payload: bytes, timeout: float) -> None:
        """
        One call, waiting for the connection if there is none.

        Raises:
            SinkError: With the gRPC status as its reason, in lower case.
        """
        try:
            self._send(payload, timeout=timeout, wait_for_ready=True)
        except self._grpc.RpcError as err:
            raise self._failure(err) from err
        except ValueError as err:  # the channel was closed meanwhile
            raise SinkError("cancelled", str(err), retryable=True) from err

    def close(self) -> None:
        """Cancel what is under way. Again is fine."""
        if self._channel is not None:
            self._channel.close()

    def _failure(self, err: Any) -> SinkError:
        code = err.code()
        detail = f"{self._config.target}: {err.details()}"
        if code is self._grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in detail:
            return SinkError("too_large", detail, retryable=False)
        # Whatever else is wrong (a server of another kind, a certificate, an overload) may be put
        # right on the other side while the queue holds what it can: only what the server calls
        # malformed is given up.
        retryable = code is not self._grpc.StatusCode.INVALID_ARGUMENT
        return SinkError(code.name.lower(), detail, retryable=retryable)
