"""
Sinks as people name them on the command line: ``stdout``, ``null``, ``grpc://host:port``,
``file:///directory/name.jsonl``, ``prometheus://host:port``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from exporter.errors import ConfigError
from exporter.quantities import join_host_port, split_host_port


def parse_sink(text: str) -> dict[str, Any]:
    """
    A sink's section from its name or URL. Options are a query: ``grpc://h:1?max_flows=5000``.

    Raises:
        ConfigError: If there is no such sink, or its address is not one.
    """
    text = text.strip()
    if text in ("stdout", "null"):
        return {"type": text}
    scheme = text.partition("://")[0]
    if "://" not in text or scheme not in SCHEMES:
        raise ConfigError(f"there is no sink {text!r}: use one of {', '.join(KNOWN)}")
    form, target = SCHEMES[scheme]
    try:
        url = urlsplit(text)
        if "@" in url.netloc or url.fragment:
            # Not shown: it may hold a password.
            raise ConfigError(f"a sink's URL has no user, password or fragment: write {form}")
        section = {"type": scheme} | target(url)
    except ValueError as err:
        raise ConfigError(f"sink {text}: {err}: write {form}") from err
    for key, value in parse_qsl(url.query, keep_blank_values=True):
        if not set_path(section, key.split("."), value):
            raise ConfigError(f"sink {text}: option {key} is in conflict with another")
    return section


def set_path(section: dict[str, Any], path: Sequence[str], value: Any) -> bool:
    """
    Set a key of a nested section, making the sections on the way.

    Returns:
        False if one of them is a value already, or the key is a section.
    """
    *sections, last = path
    for name in sections:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            return False
    if isinstance(section.get(last), dict):
        return False
    section[last] = value
    return True


def _grpc(url: SplitResult) -> dict[str, Any]:
    host, port = split_host_port(url.netloc)
    if not host or url.path.strip("/"):
        raise ValueError("it is one host and one port")
    return {"target": join_host_port(host, port)}


def _file(url: SplitResult) -> dict[str, Any]:
    if url.netloc:
        raise ValueError("there are three slashes before the directory")
    return {"path": unquote(url.path)}


def _prometheus(url: SplitResult) -> dict[str, Any]:
    if url.path.strip("/"):
        raise ValueError("it has no path")
    if not url.netloc:
        return {}
    host, port = split_host_port(url.netloc)
    return {"address": join_host_port(host, port)}


def _stdout(url: SplitResult) -> dict[str, Any]:
    if url.netloc or url.path:
        raise ValueError("there is only one standard output")
    return {}


#: Scheme, which is the sink's type -> how it is written, and its keys from a URL without options.
#: The latter raises ValueError.
SCHEMES: dict[str, tuple[str, Callable[[SplitResult], dict[str, Any]]]] = {
    "grpc": ("grpc://HOST:PORT", _grpc),
    "file": ("file:///DIRECTORY/NAME.jsonl or .parquet", _file),
    "prometheus": ("prometheus://HOST:PORT, or prometheus:// at metrics.address", _prometheus),
    "stdout": ("stdout://?format=keyvalue", _stdout),
}
KNOWN = ("stdout", "null", *(form for form, _ in SCHEMES.values()))
