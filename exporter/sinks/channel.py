"""gRPC channels as all sinks open them."""

from __future__ import annotations

from typing import Any

from exporter.credentials import TlsConfig, read
from exporter.quantities import split_host_port

#: Reconnect soon: the spacing of retries is the fan-out's business.
_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    # Else a new channel to the same address takes over the connection of the old one.
    ("grpc.use_local_subchannel_pool", 1),
]


def open_channel(target: str, tls: TlsConfig | None) -> Any:
    """
    A channel; it connects by itself when there is something to send.

    Args:
        target: ``host:port``.
        tls: ``None`` for plain text.

    Raises:
        ConfigError: If a certificate file cannot be read, or is none.
    """
    # Imported here: 20 MB that only sinks over gRPC need.
    import grpc

    options = list(_OPTIONS)
    if tls is None:
        return grpc.insecure_channel(target, options)
    host, _ = split_host_port(target)
    if (name := tls.name_of(host)) != host:
        options.append(("grpc.ssl_target_name_override", name))
    # Says in words what is wrong with a file; gRPC would say that a handshake failed.
    tls.context()
    # In the order that gRPC wants them.
    files = [read(p) if p is not None else None for p in (tls.ca, tls.key, tls.certificate)]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(*files), options)
