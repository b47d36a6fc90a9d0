"""Certificates for servers and clients, good and bad, made with the system's openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """
    Signs certificates.

    Args:
        directory: For all files.
        name: Of the files, and of the subject.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self.certificate = directory / f"{name}.pem"
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key",
                      "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}")  # fmt: skip

    def issue(self, name: str, subject: str, days: int = 2) -> Pair:
        """A certificate for a DNS name or IP address; with negative ``days`` it has expired."""
        kind = "IP" if subject.replace(".", "").isdigit() else "DNS"
        (self._directory / f"{name}.ext").write_text(f"subjectAltName={kind}:{subject}\n")
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out",
                      f"{name}.csr", "-subj", f"/CN={subject}")  # fmt: skip
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{self._name}.pem", "-CAkey",
                      f"{self._name}.key", "-CAcreateserial", "-out", f"{name}.pem", "-days",
                      str(days), "-extfile", f"{name}.ext")  # fmt: skip
        return Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments], check=True, capture_output=True, cwd=self._directory
        )
