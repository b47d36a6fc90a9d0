"""
Serves ``observe`` and ``top`` over gRPC: ``proto/observe.proto``.

A thread for each who looks, so many at most; it waits for the one who reads, and nobody waits for
it: what is too much is dropped before it, and told. Strangers cost a handshake: requests are small,
connections few, and with ``tls.client_ca`` only those get as far who have a certificate of it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from google.protobuf.message import DecodeError

from exporter._pb import observe_pb2 as pb
from exporter.config import ObserveConfig
from exporter.credentials import Rotated, ServerTlsConfig
from exporter.errors import CaptureError, ConfigError
from exporter.fanout.tap import Tap
from exporter.observe import observed
from exporter.observe_remote import OBSERVE, TOP, wanted_of
from exporter.quantities import is_loopback, join_host_port, split_host_port
from exporter.top import Asked, summed

log = logging.getLogger(__name__)

#: Octets of a request at most: a hundred conditions of 600.
_REQUEST = 64 << 10
#: Octets of a message, about: a reader need not take a whole drain at once.
_MESSAGE = 1 << 20
#: Connections beside those of clients, of whoever is refused or has yet to say who they are.
_SPARE = 16
Answer = Callable[[pb.Request], Generator[bytes]]


class ObserveServer:
    """
    The service. Nothing is opened before :meth:`listen`.

    Args:
        config: Where, and for whom.
        tap: What is published.
    """

    def __init__(self, config: ObserveConfig, tap: Tap) -> None:
        self._config = config
        self._tap = tap
        self._server: Any = None

    def listen(self) -> None:
        """
        Begin to serve.

        Raises:
            ConfigError: If a certificate cannot be used.
            CaptureError: If the address cannot be had.
        """
        # Else a line of gRPC's in the log for each handshake of a stranger's that fails.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        import grpc

        host, port = split_host_port(self._config.address)
        address = join_host_port(host or "::", port)
        server = grpc.server(
            ThreadPoolExecutor(self._config.clients, "observe"),
            handlers=[self._handlers()],
            options=self._options(),
            maximum_concurrent_rpcs=self._config.clients,
        )
        tls = self._config.tls
        try:
            if tls is None:
                server.add_insecure_port(address)
            else:
                server.add_secure_port(address, _credentials(tls))
        except RuntimeError as err:
            raise CaptureError(
                f"cannot serve flows on {self._config.address}: is the address another's?"
            ) from err
        server.start()
        self._server = server
        if not is_loopback(host) and (tls is None or tls.client_ca is None):
            log.warning(
                "observe: whoever reaches %s sees all flows: observe.tls.client_ca says who may",
                self._config.address,
            )

    def close(self) -> None:
        """Stop serving. Again is fine."""
        if self._server is not None:
            # Streams have ended with the tap: what is left is to be read.
            self._server.stop(1).wait()
            self._server = None

    def _options(self) -> list[tuple[str, int]]:
        return [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", _REQUEST),
            ("grpc.max_allowed_incoming_connections", self._config.clients + _SPARE),
            ("grpc.server_handshake_timeout_ms", 20_000),
            # Who is gone without a word is found out, and may find out about us.
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ]

    def _handlers(self) -> Any:
        import grpc

        def handler(answer: Answer) -> Any:
            # The request is taken apart here: gRPC would log a traceback of one that is none.
            return grpc.unary_stream_rpc_method_handler(
                lambda octets, context: _messages(answer, octets, context)
            )

        service = OBSERVE.split("/")[1]
        methods = {OBSERVE: self._observe, TOP: self._top}
        return grpc.method_handlers_generic_handler(
            service, {name.rpartition("/")[2]: handler(one) for name, one in methods.items()}
        )

    def _observe(self, request: pb.Request) -> Generator[bytes]:
        return observed(self._tap, wanted_of(request))

    def _top(self, request: pb.Request) -> Generator[bytes]:
        return summed(self._tap, Asked(request.view or "talkers", wanted_of(request)))


def _messages(answer: Answer, octets: bytes, context: Any) -> Iterator[bytes]:
    """One stream."""
    import grpc

    try:
        pieces = answer(pb.Request.FromString(octets))
    except ConfigError as err:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(err))
    except DecodeError:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not a flowexporter.Request")
    yield b""
    with closing(pieces):
        for piece in pieces:
            for part in _parts(piece):
                yield pb.Lines(lines=part).SerializeToString()


def _parts(lines: bytes) -> Iterator[bytes]:
    """Whole lines, some of them at a time."""
    at = 0
    while len(lines) - at > _MESSAGE:
        end = lines.find(b"\n", at + _MESSAGE) + 1 or len(lines)
        yield lines[at:end]
        at = end
    yield lines[at:]


def _credentials(tls: ServerTlsConfig) -> Any:
    """
    Those of the files, read again for the next connection when they have changed.

    Raises:
        ConfigError: If they cannot be used now.
    """
    import grpc

    def read() -> Any:
        certificate, key, authorities = tls.read()
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authorities)

    rotated = Rotated(tls, "observe", read)
    return grpc.dynamic_ssl_server_credentials(
        rotated.now(), rotated.changed, require_client_authentication=tls.client_ca is not None
    )
