"""A gRPC collector over TLS: who is refused, and that what is replaced is used at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from exporter.errors import ConfigError, SinkError
from exporter.sinks.grpc.config import GrpcConfig
from exporter.sinks.grpc.deliver import GrpcClient
from tests.certificates import Authority


def signed(authority: Authority, name: str, *, expired: bool = False) -> tuple[Path, Path]:
    """Key and certificate for a host name."""
    certificate, key = authority.issue(name, f"DNS:{name}", expired=expired)
    return key, certificate


@dataclass
class Server:
    """What a collector got: messages, their senders' common names and authorization."""

    port: int = 0
    messages: list[bytes] = field(default_factory=list)
    senders: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    #: What it wants as authorization; anything if it is empty.
    wanted: str = ""

    def send(self, request: bytes, context: Any) -> bytes:
        if self.wanted not in ("", dict(context.invocation_metadata()).get("authorization")):
            said = dict(context.invocation_metadata()).get("authorization")
            context.abort(grpc.StatusCode.UNAUTHENTICATED, f"who are you, {said}?")
        self.messages.append(request)
        names = context.auth_context().get("x509_common_name", [b""])
        self.senders.append(names[0].decode())
        self.headers.append(dict(context.invocation_metadata()))
        return b""


@contextmanager
def serving(
    key: Path | None = None, certificate: Path | None = None, clients: Path | None = None
) -> Iterator[Server]:
    """A collector; over TLS if it has a key, with client certificates of an authority."""
    made = Server()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    handler = grpc.unary_unary_rpc_method_handler(made.send)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("pbflow.Collector", {"Send": handler}),)
    )
    if key is None or certificate is None:
        made.port = server.add_insecure_port("127.0.0.1:0")
    else:
        credentials = grpc.ssl_server_credentials(
            [(key.read_bytes(), certificate.read_bytes())],
            clients.read_bytes() if clients else None,
            require_client_auth=clients is not None,
        )
        made.port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield made
    finally:
        server.stop(None).wait()


@contextmanager
def client(server: Server, **options: Any) -> Iterator[GrpcClient]:
    config = {"name": "grpc", "target": f"127.0.0.1:{server.port}", **options}
    made = GrpcClient(GrpcConfig.model_validate(config))
    made.open()
    try:
        yield made
    finally:
        made.close()


def test_who_is_trusted(authority: Authority) -> None:
    """A certificate of our authority with the right name: the message arrives."""
    with (
        serving(*signed(authority, "server.test")) as server,
        client(server, tls={"ca": authority.pem, "server_name": "server.test"}) as made,
    ):
        made.send(b"one", 10)
        assert server.messages == [b"one"]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("authority", "CERTIFICATE_VERIFY_FAILED: unable to get local issuer"),
        ("expired", "CERTIFICATE_VERIFY_FAILED: certificate has expired"),
        ("name", "Hostname Verification Check failed"),
    ],
)
def test_who_is_refused(authority: Authority, stranger: Authority, wrong: str, reason: str) -> None:
    """Nothing is sent; the error says what is wrong with the certificate, and may be retried."""
    signs = stranger if wrong == "authority" else authority
    name = "other.test" if wrong == "name" else "server.test"
    pair = signed(signs, name, expired=wrong == "expired")
    with (
        serving(*pair) as server,
        client(server, tls={"ca": authority.pem, "server_name": "server.test"}) as made,
    ):
        with pytest.raises(SinkError) as found:
            made.send(b"one", 0.5)
        assert found.value.reason == "unavailable"
        assert found.value.retryable
        assert reason in str(found.value)
        assert "\n" not in str(found.value)
        assert server.messages == []


def test_a_client_certificate_is_rotated(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next message after the files were replaced is sent with the new certificate."""
    caplog.set_level(logging.INFO)
    files = [tmp_path / "tls.key", tmp_path / "tls.crt"]

    def use(name: str) -> None:
        for target, made in zip(files, signed(authority, name), strict=True):
            fresh = target.with_suffix(".new")
            fresh.write_bytes(made.read_bytes())
            fresh.rename(target)

    use("first.test")
    tls = {"ca": authority.pem, "server_name": "server.test", "key": files[0],
           "certificate": files[1]}  # fmt: skip
    with (
        serving(*signed(authority, "server.test"), authority.pem) as server,
        client(server, tls=tls) as made,
    ):
        made.send(b"one", 10)
        made.send(b"two", 10)
        use("second.test")
        made.send(b"three", 10)
    assert server.messages == [b"one", b"two", b"three"]
    assert server.senders == ["first.test", "first.test", "second.test"]
    assert [r.getMessage() for r in caplog.records] == [
        "sink grpc: certificates and secrets read again"
    ]


def test_files_that_are_half_replaced(authority: Authority, tmp_path: Path) -> None:
    """A certificate without its key is an error that names them, until the key is there, too."""
    key, certificate = signed(authority, "first.test")
    files = [tmp_path / "tls.key", tmp_path / "tls.crt"]
    for target, made_file in zip(files, (key, certificate), strict=True):
        target.write_bytes(made_file.read_bytes())
    tls = {"ca": authority.pem, "server_name": "server.test", "key": files[0],
           "certificate": files[1]}  # fmt: skip
    with (
        serving(*signed(authority, "server.test"), authority.pem) as server,
        client(server, tls=tls) as made,
    ):
        made.send(b"one", 10)
        new_key, new_certificate = signed(authority, "second.test")
        files[1].write_bytes(new_certificate.read_bytes())
        for _ in range(2):
            with pytest.raises(SinkError, match=r"cannot use the certificates in .*tls.crt"):
                made.send(b"two", 10)
        files[0].write_bytes(new_key.read_bytes())
        made.send(b"two", 10)
    assert server.senders == ["first.test", "second.test"]


def test_tokens_and_headers_come_from_files(tmp_path: Path) -> None:
    """Each is sent with every message, and read again when it is replaced."""
    token, tenant = tmp_path / "token", tmp_path / "tenant"
    token.write_text("s3cret\n")
    tenant.write_text("blue\n")
    with (
        serving() as server,
        client(server, token_file=token, headers={"x-tenant": tenant}) as made,
    ):
        made.send(b"one", 10)
        token.write_text("another one")
        made.send(b"two", 10)
    assert [h["authorization"] for h in server.headers] == ["Bearer s3cret", "Bearer another one"]
    assert [h["x-tenant"] for h in server.headers] == ["blue", "blue"]


def test_a_wrong_token(tmp_path: Path) -> None:
    """Said without showing it, and tried again: with the right one, once it is in the file."""
    token = tmp_path / "token"
    token.write_text("s3cret-but-wrong\n")
    with serving() as server, client(server, token_file=token) as made:
        server.wanted = "Bearer right"
        for _ in range(2):
            with pytest.raises(SinkError) as found:
                made.send(b"one", 10)
            assert (found.value.reason, found.value.retryable) == ("unauthenticated", True)
            # The server has repeated it.
            assert str(found.value) == (
                f"unauthenticated: 127.0.0.1:{server.port}: who are you, {'*' * 23}?"
            )
        token.write_text("right\n")
        made.send(b"one", 10)
        assert server.messages == [b"one"]


def test_a_name_that_does_not_resolve() -> None:
    """The error has the name and what is wrong with it, and the next attempt asks again."""
    # Two dots: no server of names needs to be asked, which may take long where there is none.
    made = GrpcClient(GrpcConfig(target="no..where:9999"))
    made.open()
    try:
        with pytest.raises(SinkError) as found:
            made.send(b"one", 0.3)
    finally:
        made.close()
    assert (found.value.reason, found.value.retryable) == ("unavailable", True)
    assert str(found.value).startswith("unavailable: no..where:9999: ")
    assert "lookup" in str(found.value)
    assert "\n" not in str(found.value)


def test_a_token_that_is_no_header_is_not_shown(tmp_path: Path) -> None:
    """The error names the file, not what is in it."""
    token = tmp_path / "token"
    token.write_text("s3cret\ns3cret")
    config = GrpcConfig(target="127.0.0.1:1", token_file=token)
    with pytest.raises(ConfigError, match="is not one line of printable ASCII") as found:
        GrpcClient(config).open()
    assert "s3cret" not in str(found.value)
    assert "s3cret" not in config.model_dump_json()


@pytest.mark.parametrize("name", ["Upper", "grpc-timeout", "raw-bin", "with space", ""])
def test_what_is_no_header(name: str) -> None:
    """Said when the configuration is read."""
    with pytest.raises(ValueError, match="is not the name of a header"):
        GrpcConfig(target="127.0.0.1:1", headers={name: Path("/x")})
