"""
Sinks as people name them on the command line: ``stdout``, ``grpc://host:port``,
``kafka://host:port,host:port/topic``, ``otlp+http://host:port/path``, ``file:///path`` ...
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from exporter.errors import ConfigError
from exporter.quantities import join_host_port, split_host_port

#: A comma before the next sink; others stand between the brokers of one.
_BETWEEN = re.compile(r",(?=\s*(?:[a-z][a-z0-9+.-]*://|(?:stdout|null|otlp)\s*(?:,|$)))")
#: ``user:password@`` in any text, with the scheme before it.
_PASSWORD = re.compile(r"[^\s'\"]*:[^\s'\"]*@")
#: Of a URL: all that may be user and password, whatever characters they have.
_AUTHORITY = re.compile(r"\A([A-Za-z][A-Za-z0-9+.-]*://)?.*@", re.DOTALL)
#: Headers that prove who sends: in a URL they would be among the arguments of the process.
_PROOF = re.compile(r"(?i)auth|cookie|key|token|secret|password|bearer")


def parse_sink(text: str) -> dict[str, Any]:
    """
    A sink's section from its name or URL. Options are a query: ``grpc://h:1?max_flows=5000``.

    Raises:
        ConfigError: If there is no such sink, or its address is not one.
    """
    text = text.strip()
    if text in WORDS:
        return {"type": text}
    scheme = text.partition("://")[0]
    if "://" not in text or scheme not in SCHEMES:
        raise ConfigError(f"there is no sink {shown(text)!r}: use one of {', '.join(KNOWN)}")
    form, section_of = SCHEMES[scheme]
    try:
        url = urlsplit(text)
        if "@" in url.netloc or url.fragment:
            # Not shown: it may hold a password.
            raise ConfigError(f"a sink's URL has no user, password or fragment: write {form}")
        section = section_of(url)
    except ValueError as err:
        if "@" in text:
            # A password with a slash or a question mark: what is wrong would show a part of it.
            raise ConfigError(f"sink {shown(text)}: write {form}") from None
        raise ConfigError(f"sink {shown(text)}: {err}: write {form}") from err
    for key, value in parse_qsl(url.query, keep_blank_values=True):
        # Of gRPC they are names of files.
        header = key.removeprefix("headers.") if section["type"] == "otlp" else key
        if header != key and _PROOF.search(header):
            raise ConfigError(
                f"sink {shown(text)}: header {header} would be seen among the arguments of the "
                f"process: name a file that holds it, with header_files.{header}, bearer or basic"
            )
        if not set_path(section, key.split("."), value):
            raise ConfigError(f"sink {shown(text)}: option {key} is in conflict with another")
    return section


def shown(text: str) -> str:
    """A sink's URL as it may be shown: without user, password, options and what is no URL."""
    return re.split(r"[?#{\[\"'\s]", _AUTHORITY.sub(r"\1(hidden)@", text))[0]


def without_passwords(text: str) -> str:
    """Any text, with what may be a URL's user and password hidden."""
    return _PASSWORD.sub("(hidden)@", text)


def split_sinks(text: str) -> list[str]:
    """Several sinks with commas between them."""
    return _BETWEEN.split(text)


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


def _target(url: SplitResult) -> str:
    return _address(url.netloc)


def _address(text: str) -> str:
    host, port = split_host_port(text)
    if not host:
        raise ValueError(f"{text!r} has no host")
    return join_host_port(host, port)


def _only_target(url: SplitResult) -> str:
    if url.path.strip("/"):
        raise ValueError("it has no path")
    return _target(url)


def _grpc(url: SplitResult) -> dict[str, Any]:
    return {"type": "grpc", "target": _only_target(url)}


def _file(url: SplitResult) -> dict[str, Any]:
    if url.netloc:
        raise ValueError("there are three slashes before the directory")
    return {"type": "file", "path": unquote(url.path)}


def _ipfix(url: SplitResult) -> dict[str, Any]:
    transport = url.scheme.partition("+")[2]
    return {"type": "ipfix", "transport": transport, "target": _only_target(url)}


def _kafka(url: SplitResult) -> dict[str, Any]:
    brokers = [_address(broker) for broker in url.netloc.split(",")]
    topic = url.path.removeprefix("/")
    if not topic:
        raise ValueError("there is no topic")
    return {"type": "kafka", "brokers": brokers, "topic": topic}


def _otlp(url: SplitResult) -> dict[str, Any]:
    protocol = "grpc" if "grpc" in url.scheme else "http"
    section: dict[str, Any] = {"type": "otlp", "protocol": protocol, "endpoint": _target(url)}
    if url.scheme.endswith("s"):
        section["tls"] = {}
    if path := url.path.rstrip("/"):
        if protocol == "grpc":
            raise ValueError("gRPC has no path")
        section["path"] = path
    return section


def _prometheus(url: SplitResult) -> dict[str, Any]:
    section: dict[str, Any] = {"type": "prometheus"}
    if url.path.strip("/"):
        raise ValueError("it has no path")
    # An address to listen on: without a host it is every one.
    return section | (
        {"address": join_host_port(*split_host_port(url.netloc))} if url.netloc else {}
    )


def _stdout(url: SplitResult) -> dict[str, Any]:
    if url.netloc or url.path:
        raise ValueError("there is only one standard output")
    return {"type": "stdout"}


#: Scheme -> how it is written, and its section from a URL without options. The latter raises
#: ValueError.
SCHEMES: dict[str, tuple[str, Callable[[SplitResult], dict[str, Any]]]] = {
    "file": ("file:///DIRECTORY/NAME.jsonl or .parquet", _file),
    "grpc": ("grpc://HOST:PORT", _grpc),
    "ipfix+tcp": ("ipfix+tcp://HOST:PORT", _ipfix),
    "ipfix+udp": ("ipfix+udp://HOST:PORT", _ipfix),
    "kafka": ("kafka://HOST:PORT,HOST:PORT/TOPIC", _kafka),
    "otlp+grpc": ("otlp+grpc://HOST:PORT", _otlp),
    "otlp+grpcs": ("otlp+grpcs://HOST:PORT", _otlp),
    "otlp+http": ("otlp+http://HOST:PORT/PATH", _otlp),
    "otlp+https": ("otlp+https://HOST:PORT/PATH", _otlp),
    "prometheus": ("prometheus://HOST:PORT, or prometheus:// at metrics.address", _prometheus),
    "stdout": ("stdout://?format=keyvalue", _stdout),
}
#: Sinks that are no URL.
WORDS = ("stdout", "null", "otlp")
KNOWN = (*WORDS, *(form for form, _ in SCHEMES.values()))
