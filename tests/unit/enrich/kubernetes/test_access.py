"""Where the API server is and how to be let in; what cannot be used is one clear line."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from exporter.enrich.kubernetes.access import find, from_account, from_kubeconfig
from exporter.enrich.kubernetes.config import KubernetesConfig
from exporter.errors import ConfigError


def kubeconfig(directory: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Path:
    path = directory / "config"
    context = {"cluster": "c", "user": "u"}
    path.write_text(yaml.safe_dump({
        "current-context": "now",
        "contexts": [{"name": "now", "context": context}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    }))  # fmt: skip
    return path


def test_a_pod(tmp_path: Path) -> None:
    """The token is read for every request, IPv6 hosts have brackets."""
    (tmp_path / "token").write_text("one\n")
    found = from_account(tmp_path, "fd00::1", "443")
    assert found.server == "https://[fd00::1]:443"
    assert found.headers() == {"authorization": "Bearer one"}
    (tmp_path / "token").write_text("two")
    assert found.headers() == {"authorization": "Bearer two"}


def test_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a pod a kubeconfig is needed."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="give it a kubeconfig"):
        find(KubernetesConfig())


def test_kubeconfig(tmp_path: Path) -> None:
    """Files beside it, contents inside it, and a path before the API's."""
    (tmp_path / "t").write_text("secret")
    data = base64.b64encode(b"PEM").decode()
    path = kubeconfig(
        tmp_path,
        {"server": "https://k.example/k8s/", "certificate-authority-data": data},
        {"tokenFile": "t", "token": "not this one"},
    )
    found = find(KubernetesConfig(kubeconfig=path))
    assert (found.server, found.ca, found.url.path) == ("https://k.example/k8s", "PEM", "/k8s")
    assert found.headers() == {"authorization": "Bearer secret"}
    with pytest.raises(ConfigError, match=r"cannot use the certificates"):
        found.context()


def test_plain_text(tmp_path: Path) -> None:
    """A proxy on this host: no TLS, and no token."""
    found = from_kubeconfig(kubeconfig(tmp_path, {"server": "http://127.0.0.1:8001"}, {}))
    assert found.context() is None
    assert found.headers() == {}


@pytest.mark.parametrize(
    ("cluster", "user", "words"),
    [
        ({}, {}, "must be a URL"),
        ({"server": "localhost"}, {}, "must be a URL"),
        ({"server": "https://k"}, {"exec": {"command": "aws"}}, "exec is not supported"),
        ({"server": "https://k"}, {"username": "a"}, "username is not supported"),
        ({"server": "https://k"}, {"tokenFile": "absent"}, "cannot read"),
        ({"server": "https://k", "certificate-authority-data": "%"}, {}, "is no kubeconfig"),
    ],
)
def test_what_cannot_be_used(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], words: str
) -> None:
    """One line each, which says what."""
    with pytest.raises(ConfigError, match=words):
        from_kubeconfig(kubeconfig(tmp_path, cluster, user))


@pytest.mark.parametrize(
    "text", ["", "a: [", "- 1", "token: hush", "contexts: 7"], ids=["", "yaml", "list", "key", "7"]
)
def test_no_kubeconfig(tmp_path: Path, text: str) -> None:
    """Whatever else it is; a token in it is not shown."""
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError) as err:
        from_kubeconfig(path, "now")
    assert "hush" not in str(err.value)
    with pytest.raises(ConfigError, match="cannot read"):
        from_kubeconfig(tmp_path / "absent")


@pytest.mark.parametrize("cache", ["cache:50055", "grpc://cache", "http://cache:1", "grpc://a:1/x"])
def test_cache_address(cache: str) -> None:
    """A cache is a gRPC server's address."""
    with pytest.raises(ValidationError, match="kube-cache"):
        KubernetesConfig(cache=cache)
