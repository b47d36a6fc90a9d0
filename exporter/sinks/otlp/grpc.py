"""OTLP over gRPC: one unary call per request, of octets that are encoded already."""

from __future__ import annotations

from typing import Any

from exporter.errors import ConfigError, SinkError
from exporter.sinks.channel import open_channel
from exporter.sinks.otlp.answer import DETAILS_KEY, RETRYABLE, is_too_large, retry_info, words
from exporter.sinks.otlp.deliver import Headers, Throttle, certificates
from exporter.sinks.otlp.environment import Destination

METHODS = {
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    "spans": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}


class GrpcClient:
    """
    A collector over gRPC.

    Args:
        destination: Where to and how.
        method: Out of :data:`METHODS`.
        headers: Sent as metadata.
    """

    def __init__(self, destination: Destination, method: str, headers: Headers) -> None:
        self._destination = destination
        self._method = method
        self._headers = headers
        self._throttle = Throttle()
        self._certificates = certificates(destination)
        self._grpc: Any = None
        self._channel: Any = None
        self._call: Any = None
        self._closed = False

    def open(self) -> None:
        """Make the channel. Raises ConfigError if a file cannot be used."""
        # Imported here: 20 MB that only sinks over gRPC need.
        import grpc

        self._grpc = grpc
        self._headers.load()
        self._connect()

    def send(self, payload: bytes, timeout: float) -> bytes:
        """
        One call.

        Raises:
            SinkError: With the gRPC status as its reason, in lower case.
        """
        timeout = self._throttle.wait(timeout)
        metadata = tuple(self._headers.current().items())
        if self._certificates.changed():
            self._reconnect()
        gzip = self._grpc.Compression.Gzip if self._destination.gzip else None
        try:
            # Not waiting for a connection: what is wrong with it is in the error then.
            answer: bytes = self._call(
                payload, timeout=timeout, metadata=metadata, compression=gzip
            )
        except self._grpc.RpcError as err:
            raise self._failure(err) from err
        except ValueError as err:  # the channel was closed meanwhile
            raise SinkError("cancelled", str(err), retryable=True) from err
        return self._headers.hide(answer)

    def close(self) -> None:
        """Cancel what is under way. Again is fine."""
        self._closed = True
        self._throttle.close()
        if self._channel is not None:
            self._channel.close()

    def _connect(self) -> None:
        self._channel = open_channel(self._destination.target, self._destination.tls)
        self._call = self._channel.unary_unary(self._method)

    def _reconnect(self) -> None:
        """With the certificates that are there now; with the old ones if they cannot be used."""
        if self._closed:
            raise SinkError("cancelled", "closed", retryable=True)
        old = self._channel
        try:
            self._connect()
        except ConfigError as err:
            raise SinkError("credentials", str(err), retryable=True) from err
        old.close()

    def _failure(self, err: Any) -> SinkError:
        code = err.code().name
        said = self._headers.hide((err.details() or "").encode()).decode(errors="replace")
        detail = f"{self._destination.target}: {words(said)}"
        if code == "RESOURCE_EXHAUSTED" and is_too_large(detail):
            return SinkError("too_large", detail, retryable=False)
        retryable = code in RETRYABLE
        asked = self._asked(err)
        if asked is not None and code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE"):
            retryable = True
            self._throttle.ask(asked)
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED") and self._headers.renew():
            # The token was replaced while this one was on its way.
            retryable = True
        return SinkError(code.lower(), detail, retryable=retryable)

    def _asked(self, err: Any) -> float | None:
        for key, value in err.trailing_metadata() or ():
            if key == DETAILS_KEY:
                return retry_info(value)
        return None
