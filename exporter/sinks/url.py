"""
Sinks as people name them on the command line: ``stdout``, ``null``, ``grpc://host:port``,
``ipfix+udp://host:port``, ``ipfix+tcp://host:port``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from exporter.errors import ConfigError
from exporter.quantities import join_host_port, split_host_port

#: Scheme -> what it says of the sink's section. All are written SCHEME://HOST:PORT.
SCHEMES: Mapping[str, Mapping[str, Any]] = {
    "grpc": {"type": "grpc"},
    "ipfix+udp": {"type": "ipfix", "transport": "udp"},
    "ipfix+tcp": {"type": "ipfix", "transport": "tcp"},
}
KNOWN = ("stdout", "null", *(f"{scheme}://HOST:PORT" for scheme in SCHEMES))


def parse_sink(text: str) -> dict[str, Any]:
    """
    A sink's section from its name or URL. Options are a query: ``grpc://h:1?max_flows=5000``.

    Raises:
        ConfigError: If there is no such sink, or its address is not one.
    """
    text = text.strip()
    if text in ("stdout", "null"):
        return {"type": text}
    url = _split(text)
    if url.scheme not in SCHEMES:
        raise ConfigError(f"there is no sink {text!r}: use one of {', '.join(KNOWN)}")
    section: dict[str, Any] = {**SCHEMES[url.scheme], "target": _target(text, url)}
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


def _target(text: str, url: SplitResult) -> str:
    usage = f"write {url.scheme}://HOST:PORT"
    try:
        host, port = split_host_port(url.netloc)
    except ValueError as err:
        raise ConfigError(f"sink {text}: {err}: {usage}") from err
    if not host or "@" in host or url.path.strip("/") or url.fragment:
        raise ConfigError(f"sink {text}: {usage}")
    return join_host_port(host, port)


def _split(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError as err:
        raise ConfigError(f"sink {text}: {err}: write grpc://HOST:PORT") from err
