"""Authorities and certificates, good and bad, made in the test with the system's openssl."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import Any, NamedTuple


class Pair(NamedTuple):
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """
    Signs certificates.

    Args:
        directory: Where its files are: it, and every certificate, is NAME.pem with NAME.key.
        name: Its own.
    """

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self._name = name
        directory.mkdir(exist_ok=True)
        self._openssl("req", "-x509", *_KEY, f"{name}.key", "-out", f"{name}.pem", "-days", "2",
                      "-subj", f"/CN={name}")  # fmt: skip

    @property
    def pem(self) -> Path:
        """Its own certificate."""
        return self._directory / f"{self._name}.pem"

    def issue(self, name: str, names: str, *, expired: bool = False) -> Pair:
        """
        A certificate and its key, with the common name of its files.

        Args:
            name: Of the files.
            names: Its subjectAltName, such as ``DNS:localhost,IP:127.0.0.1``.
            expired: Years ago.
        """
        self._openssl("req", *_KEY, f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (self._directory / f"{name}.ext").write_text(f"subjectAltName={names}\n")
        # -days of the x509 command must be positive: the ca command takes dates.
        if expired:
            self._issue_expired(name)
        else:
            self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{self._name}.pem",
                          "-CAkey", f"{self._name}.key", "-CAcreateserial", "-out", f"{name}.pem",
                          "-days", "2", "-extfile", f"{name}.ext")  # fmt: skip
        return Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")

    def _issue_expired(self, name: str) -> None:
        (self._directory / "index").write_text("")
        (self._directory / "serial").write_text("0A\n")
        (self._directory / "ca.conf").write_text(
            "[ca]\ndefault_ca=a\n[a]\ndatabase=index\nserial=serial\nnew_certs_dir=.\n"
            "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n"
        )
        self._openssl("ca", "-batch", "-config", "ca.conf", "-cert", f"{self._name}.pem",
                      "-keyfile", f"{self._name}.key", "-in", f"{name}.csr", "-out", f"{name}.pem",
                      "-notext", "-extfile", f"{name}.ext", "-startdate", "20200101000000Z",
                      "-enddate", "20200102000000Z")  # fmt: skip

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(
            ["openssl", *arguments],
            capture_output=True,
            text=True,
            cwd=self._directory,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def shown_by(connection: ssl.SSLSocket) -> str:
    """The common name of the certificate that the other side has shown."""
    certificate: Any = connection.getpeercert()
    subject = certificate["subject"]
    (name,) = [value for ((key, value),) in subject if key == "commonName"]
    return str(name)


#: A new key: of this kind one is made at once.
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout")
