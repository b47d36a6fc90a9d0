"""
Certificates, keys, passwords and tokens: in files, read again when they change.

What is secret is never a configuration value: the configuration names a file, so that neither the
process's arguments nor ``dump-config``, logs and errors can show it.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import ssl
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from exporter.errors import ConfigError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: What a file was when it was read: (device, inode, size, modification time in ns).
Stamp = tuple[int, int, int, int]
#: Octets of a secret that is looked for in what a server says.
_SHORTEST = 4


class TlsConfig(BaseModel):
    """
    TLS towards a destination. Absent is plain text.

    Args:
        ca: PEM file of the authorities to trust; the system's if absent.
        certificate: PEM file of the client's chain, for mutual TLS.
        key: PEM file of its key.
        server_name: The name that the server's certificate must have, if not the target's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""

    @model_validator(mode="after")
    def _pair(self) -> TlsConfig:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self

    def files(self) -> tuple[Path, ...]:
        """The files that it names."""
        return tuple(path for path in (self.ca, self.certificate, self.key) if path is not None)

    def name_of(self, host: str) -> str:
        """
        The name to ask a server for, and that its certificate must have.

        A name that ends with a dot, as ``flp.example.``, is one that resolvers do not search for.
        Neither TLS nor certificates have that dot, and servers in Go refuse who sends it.
        Source: RFC 6066 section 3.
        """
        return self.server_name or host.removesuffix(".")

    def context(self) -> ssl.SSLContext:
        """
        A client's context: the server is verified, TLS 1.2 at least.

        Raises:
            ConfigError: If a file cannot be read, or is not what it should be.
        """
        for path in self.files():
            read(path)
        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (ssl.SSLError, OSError) as err:
            names = ", ".join(str(path) for path in self.files())
            raise ConfigError(f"cannot use the certificates in {names}: {err}") from err
        return context


class ServerTlsConfig(BaseModel):
    """
    TLS of what the agent serves.

    Args:
        certificate: PEM file of the server's chain.
        key: PEM file of its key.
        client_ca: PEM file of the authorities of which a client must have a certificate, for mutual
            TLS; absent is anybody.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def files(self) -> tuple[Path, ...]:
        """The files that it names."""
        some = (self.certificate, self.key, self.client_ca)
        return tuple(path for path in some if path is not None)

    def read(self) -> tuple[bytes, bytes, bytes | None]:
        """
        The certificate, its key and the clients' authorities, which can be used.

        Raises:
            ConfigError: If a file cannot be read, or is not what it should be. Never has its
                contents.
        """
        authorities = None if self.client_ca is None else read(self.client_ca)
        found = read(self.certificate), read(self.key), authorities
        self.context()
        return found

    def context(self) -> ssl.SSLContext:
        """
        A server's context, TLS 1.2 at least.

        Raises:
            ConfigError: If a file cannot be read, or is not what it should be.
        """
        for path in self.files():
            read(path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (ssl.SSLError, OSError) as err:
            names = ", ".join(str(path) for path in self.files())
            raise ConfigError(f"cannot use the certificates in {names}: {err}") from err
        return context


class Watched:
    """
    Files that somebody else replaces: tells once for each change.

    A Kubernetes secret is changed by a symbolic link, an ACME client renames: both give another
    inode. A file that is away for a moment counts as unchanged.

    Args:
        paths: Whose change matters.
    """

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths
        self._seen = self._stamps()

    def changed(self) -> bool:
        """Whether a file is another one than at the last call; a stat call per file."""
        now = self._stamps()
        if now == self._seen or None in now.values():
            return False
        self._seen = now
        return True

    def forget(self) -> None:
        """What has changed could not be used: tell of it again."""
        self._seen = {}

    def _stamps(self) -> dict[Path, Stamp | None]:
        return {path: stamp(path) for path in self._paths}


class Rotated(Generic[T]):
    """
    What is served is made of files of certificates, and made again when they have changed.

    Thread-safe. Files that cannot be used are reported, and what was made before stays.

    Args:
        config: The files.
        who: Serves, for the log.
        make: Makes it of the files as they are; raises ConfigError if they cannot be used.

    Raises:
        ConfigError: If they cannot be used now.
    """

    def __init__(self, config: ServerTlsConfig, who: str, make: Callable[[], T]) -> None:
        self._who = who
        self._make = make
        self._lock = threading.Lock()
        # Before they are read: what changes meanwhile is told.
        self._watched = Watched(config.files())
        self._made = make()

    def now(self) -> T:
        """For the next connection; a stat call for each file."""
        with self._lock:
            self._make_again()
            return self._made

    def changed(self) -> T | None:
        """As :meth:`now`, but ``None`` if it is what it was the last time."""
        with self._lock:
            return self._made if self._make_again() else None

    def _make_again(self) -> bool:
        if not self._watched.changed():
            return False
        try:
            self._made = self._make()
        except ConfigError as err:
            # Whoever replaces them may not be done.
            self._watched.forget()
            log.warning("%s: the old certificate stays: %s", self._who, err)
            return False
        log.info("%s: certificates read again", self._who)
        return True


def contexts(config: ServerTlsConfig | None, who: str) -> Callable[[], ssl.SSLContext] | None:
    """
    What gives the context for the next connection; ``None`` for plain text.

    Args:
        config: The files, if there is to be TLS.
        who: Serves, for the log.

    Raises:
        ConfigError: If they cannot be used now.
    """
    return None if config is None else Rotated(config, who, config.context).now


def stamp(path: Path) -> Stamp | None:
    """Which file a path leads to, and when it was changed; ``None`` if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read(path: Path) -> bytes:
    """
    A file's octets.

    Raises:
        ConfigError: If it cannot be read. Never has its contents.
    """
    try:
        return path.read_bytes()
    except OSError as err:
        raise ConfigError(f"cannot read {path}: {err.strerror}") from err


def secret(path: Path) -> str:
    """
    A password or token: a file's text without the white space around it.

    Raises:
        ConfigError: If it cannot be read, is empty or is not text. Never has its contents.
    """
    try:
        text = read(path).decode().strip()
    except UnicodeDecodeError:
        # Its text would quote the secret.
        raise ConfigError(f"{path} is not UTF-8 text") from None
    if not text:
        raise ConfigError(f"{path} is empty: it should hold a password or token")
    return text


def masked(said: bytes, headers: Iterable[str]) -> bytes:
    """
    What a server says, which may repeat what it was sent, without the secrets in it.

    Args:
        said: Text or a message; as long afterwards, so that a message can still be read.
        headers: Values that it was sent. Of ``Bearer TOKEN`` the token, too; of ``Basic PAIR`` what
            it stands for, and the password in it.
    """
    for value in headers:
        scheme, _, proof = value.partition(" ")
        found = [value.encode(), proof.encode()]
        if scheme == "Basic":
            with contextlib.suppress(ValueError):
                pair = base64.b64decode(proof)
                found += [pair, pair.partition(b":")[2]]
        for one in found:
            # A shorter one is in any text.
            if len(one) >= _SHORTEST:
                said = said.replace(one, b"*" * len(one))
    return said
