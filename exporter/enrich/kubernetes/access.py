"""
Where the API server is, and how to be let in: the pod's service account, or a kubeconfig file.

Tokens and certificates are read again when their files change: a kubelet replaces a service
account's token long before it expires.

Source: kubernetes client-go rest.InClusterConfig and clientcmd/api/v1 Config.
"""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import yaml

from exporter.credentials import Watched, read, secret
from exporter.enrich.kubernetes.config import KubernetesConfig
from exporter.errors import ConfigError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Access:
    """
    How to reach an API server.

    Args:
        server: ``https://HOST:PORT``, maybe with a path before the API's.
        ca: PEM of the authorities to trust; the system's if empty.
        token_file: Read for each connection.
        token: Instead of a file.
        certificate: Files of a client's chain and of its key.
        chain: PEM of both, where the file has them inside.
        verify: Whether the server must show who it is.
        server_name: The name that its certificate must have, if not the host's.
    """

    server: str
    ca: str = ""
    ca_file: Path | None = None
    token: str = ""
    token_file: Path | None = None
    certificate: tuple[Path, Path] | None = None
    chain: str = ""
    verify: bool = True
    server_name: str = ""

    @property
    def url(self) -> SplitResult:
        """The server's address in parts."""
        return urlsplit(self.server)

    def watched(self) -> Watched:
        """The files that may be replaced."""
        files = (self.ca_file, *(self.certificate or ()))
        return Watched(tuple(path for path in files if path is not None))

    def headers(self) -> dict[str, str]:
        """
        What lets us in.

        Raises:
            ConfigError: If the token cannot be read. Never has it.
        """
        token = secret(self.token_file) if self.token_file else self.token
        return {"authorization": f"Bearer {token}"} if token else {}

    def context(self) -> ssl.SSLContext | None:
        """
        For a connection; ``None`` for plain text.

        Raises:
            ConfigError: If a file cannot be used.
        """
        if self.url.scheme != "https":
            return None
        try:
            authorities = read(self.ca_file).decode() if self.ca_file else self.ca
            context = ssl.create_default_context(cadata=authorities or None)
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.certificate:
                context.load_cert_chain(*self.certificate)
            elif self.chain:
                _load(context, self.chain)
        except (OSError, ValueError) as err:
            raise ConfigError(f"cannot use the certificates for {self.server}: {err}") from err
        return context


def find(config: KubernetesConfig) -> Access:
    """
    As configured: a kubeconfig, or what a pod is given.

    Raises:
        ConfigError: If there is neither, or it says something else.
    """
    if config.kubeconfig is not None:
        return from_kubeconfig(config.kubeconfig, config.context)
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{what}") for what in ("HOST", "PORT"))
    if not host or not port:
        raise ConfigError(
            "enrich.kubernetes: this is no pod of a cluster (KUBERNETES_SERVICE_HOST is not set): "
            "give it a kubeconfig"
        )
    return from_account(ACCOUNT, host, port)


def from_account(directory: Path, host: str, port: str) -> Access:
    """A service account's files."""
    where = f"[{host}]" if ":" in host else host
    token = directory / "token"
    secret(token)
    return Access(f"https://{where}:{port}", ca_file=directory / "ca.crt", token_file=token)


def from_kubeconfig(path: Path, context: str = "") -> Access:
    """
    A configuration file of kubectl. Programs that make tokens (``exec``) are not run.

    Raises:
        ConfigError: If it cannot be read or used.
    """
    try:
        document = yaml.safe_load(read(path))
        wanted = context or document.get("current-context") or ""
        chosen = _named(document, "context", wanted, path)
        cluster = _named(document, "cluster", str(chosen.get("cluster")), path)
        user = _named(document, "user", str(chosen.get("user")), path) if "user" in chosen else {}
        return _access(cluster, user, path)
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as err:
        # Not its words: they may quote a token.
        raise ConfigError(f"{path} is no kubeconfig: {type(err).__name__}") from None


def _access(cluster: Mapping[str, Any], user: Mapping[str, Any], path: Path) -> Access:
    for what in ("exec", "auth-provider", "username"):
        if what in user:
            raise ConfigError(f"{path}: a user with {what} is not supported: use a token's file")
    server = str(cluster.get("server", "")).rstrip("/")
    if urlsplit(server).scheme not in ("http", "https") or not urlsplit(server).hostname:
        raise ConfigError(f"{path}: the cluster's server must be a URL: https://HOST:PORT")
    file = _file(user, "tokenFile", path)
    if file:
        secret(file)
    pair = _file(user, "client-certificate", path), _file(user, "client-key", path)
    chain = _inside(user, "client-certificate-data") + _inside(user, "client-key-data")
    return Access(
        server=server,
        ca=_inside(cluster, "certificate-authority-data"),
        ca_file=_file(cluster, "certificate-authority", path),
        token="" if file else str(user.get("token", "")),
        token_file=file,
        certificate=(pair[0], pair[1]) if pair[0] and pair[1] else None,
        chain=chain,
        verify=not cluster.get("insecure-skip-tls-verify"),
        server_name=str(cluster.get("tls-server-name", "")),
    )


def _named(document: Mapping[str, Any], kind: str, name: str, path: Path) -> Mapping[str, Any]:
    for one in document.get(f"{kind}s") or ():
        if one.get("name") == name:
            found: Mapping[str, Any] = one.get(kind) or {}
            return found
    raise ConfigError(f"{path} has no {kind} {name!r}")


def _file(section: Mapping[str, Any], key: str, path: Path) -> Path | None:
    return path.parent / section[key] if section.get(key) else None


def _inside(section: Mapping[str, Any], key: str) -> str:
    return base64.b64decode("".join((section.get(key) or "").split()), validate=True).decode()


def _load(context: ssl.SSLContext, chain: str) -> None:
    """A chain with its key: the library takes them from files only."""
    with tempfile.NamedTemporaryFile("w", prefix="flow-exporter-") as file:
        file.write(chain)
        file.flush()
        context.load_cert_chain(file.name)
