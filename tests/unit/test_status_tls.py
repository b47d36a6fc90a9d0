"""What is served over TLS: who believes it, who is let in, and certificates that are replaced."""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from exporter.credentials import ServerTlsConfig, contexts
from exporter.status import StatusServer, text
from tests.certificates import Authority, Pair, shown_by
from tests.servers import free_port

NAMES = "DNS:flows.test,IP:127.0.0.1"


@dataclass(frozen=True)
class Served:
    """A server, its files, and how it is asked."""

    port: int
    config: ServerTlsConfig

    def use(self, *, certificate: Path | None = None, key: Path | None = None) -> None:
        """Replace files as ACME clients do."""
        for new, old in ((certificate, self.config.certificate), (key, self.config.key)):
            if new is not None:
                fresh = old.with_suffix(".new")
                fresh.write_bytes(new.read_bytes())
                fresh.rename(old)

    def ask(
        self, trust: Path, own: Pair | None = None, name: str = "127.0.0.1", path: str = "/healthz"
    ) -> str:
        """The common name of the certificate of who has answered. Raises ssl.SSLError."""
        context = ssl.create_default_context(cafile=trust)
        if own is not None:
            context.load_cert_chain(*own)
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname=name) as secured,
        ):
            secured.sendall(f"GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
            response = http.client.HTTPResponse(secured)
            response.begin()
            assert (response.status, response.read()) == (200, b"ok\n")
            return shown_by(secured)


@pytest.fixture
def served(
    request: pytest.FixtureRequest, authority: Authority, tmp_path: Path
) -> Iterator[Served]:
    """With a certificate ``first``; with the parameter ``mutual`` for clients that have one."""
    first = authority.issue("first", NAMES)
    files = Pair(*(tmp_path / path.name for path in first))
    for old, new in zip(first, files, strict=True):
        new.write_bytes(old.read_bytes())
    clients = authority.pem if getattr(request, "param", "") == "mutual" else None
    config = ServerTlsConfig(certificate=files.certificate, key=files.key, client_ca=clients)
    routes = dict.fromkeys(("/healthz", "/page"), lambda: text(200, "ok\n"))
    server = StatusServer(routes, for_people={"/page"})
    port = free_port()
    server.listen("127.0.0.1", port, contexts(config, "metrics"))
    yield Served(port, config)
    server.close()


def test_who_is_believed(served: Served, authority: Authority, stranger: Authority) -> None:
    """By who trusts its authority and asks for its name, and nobody else; plain text is no TLS."""
    assert served.ask(authority.pem) == "first"
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        served.ask(stranger.pem)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        served.ask(authority.pem, name="other.test")
    plain = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    plain.request("GET", "/healthz")
    with pytest.raises((http.client.BadStatusLine, ConnectionError)):
        plain.getresponse()
    plain.close()
    assert served.ask(authority.pem) == "first"


def test_a_certificate_is_replaced(
    served: Served, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """
    The next connection gets the new one; between its two files the old one stays, with a line.
    """
    caplog.set_level(logging.INFO)
    second = authority.issue("second", NAMES)
    assert served.ask(authority.pem) == "first"
    served.use(certificate=second.certificate)
    assert served.ask(authority.pem) == "first"
    (warning,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert warning.startswith("metrics: the old certificate stays: cannot use the certificates in")
    served.use(key=second.key)
    assert served.ask(authority.pem) == "second"
    assert served.ask(authority.pem) == "second"
    told = [one.getMessage() for one in caplog.records if one.levelname == "INFO"]
    assert told == ["metrics: certificates read again"]
    assert "PRIVATE KEY" not in caplog.text


@pytest.mark.parametrize("served", ["mutual"], indirect=True)
def test_clients_have_certificates(
    served: Served, authority: Authority, stranger: Authority
) -> None:
    """With ``client_ca``: those of its authorities get in, others do not."""
    assert served.ask(authority.pem, authority.issue("client", "DNS:client.test")) == "first"
    # In TLS 1.3 a client learns only when it reads, and may find the connection gone.
    with pytest.raises((ssl.SSLError, ConnectionError)):
        served.ask(authority.pem, stranger.issue("client", "DNS:client.test"))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        served.ask(authority.pem)


def test_a_page_for_people(served: Served, authority: Authority) -> None:
    """By any name of the certificate: the browser has compared it, so that no other leads here."""
    assert served.ask(authority.pem, name="flows.test", path="/page") == "first"


def test_a_stranger_that_says_nothing_delays_no_other(
    served: Served, authority: Authority, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor does one that goes in the middle of a handshake; nothing is said of either."""
    with (
        socket.create_connection(("127.0.0.1", served.port)),
        socket.create_connection(("127.0.0.1", served.port)) as other,
    ):
        other.sendall(b"\x16\x03\x01")
        other.close()
        assert served.ask(authority.pem) == "first"
    assert capfd.readouterr().err == ""
