"""
Notations of the command line and the file: durations ``5s``, sizes ``64MiB``, lists
``eth0,/^veth/``, addresses ``host:port``.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import BeforeValidator

_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zA-Z]*)\s*")
_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_OCTETS = {
    "": 1, "b": 1, "k": 1000, "kb": 1000, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9,
    "kib": 1 << 10, "ki": 1 << 10, "mib": 1 << 20, "mi": 1 << 20, "gib": 1 << 30, "gi": 1 << 30,
}  # fmt: skip


def duration(value: Any) -> Any:
    """Seconds from ``5s``, ``500ms``, ``1m30s``, ``2h`` or a number. Raises ValueError."""
    if not isinstance(value, str):
        return value
    parts = _NUMBER.findall(value)
    if not parts or _NUMBER.sub("", value):
        raise ValueError(f"{value!r} is not a duration such as 5s, 500ms or 1m30s")
    # A number alone is seconds; one beside others needs its unit.
    if any(unit not in _SECONDS or (not unit and len(parts) > 1) for _, unit in parts):
        raise ValueError(f"{value!r} is not a duration: use ms, s, m or h")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def size(value: Any) -> Any:
    """Octets from ``64MiB``, ``1GB``, ``4096`` or a number. Raises ValueError."""
    if not isinstance(value, str):
        return value
    match = _NUMBER.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is not a size such as 64MiB")
    number, unit = float(match[1]), match[2]
    if unit.lower() not in _OCTETS:
        raise ValueError(f"{value!r} is not a size: use KiB, MiB, GiB, kB, MB or GB")
    return int(number * _OCTETS[unit.lower()])


def words(value: Any) -> Any:
    """A list from text with commas; commas within ``/.../`` belong to a regular expression."""
    if not isinstance(value, str):
        return value
    found, current, in_regex = [], "", False
    for character in value:
        if character == "/" and (in_regex or not current.strip()):
            in_regex = not in_regex
        if character == "," and not in_regex:
            found.append(current)
            current = ""
        else:
            current += character
    return tuple(word.strip() for word in (*found, current) if word.strip())


#: Fields of configuration that take these notations.
Seconds = Annotated[float, BeforeValidator(duration)]
Octets = Annotated[int, BeforeValidator(size)]


def split_host_port(text: str) -> tuple[str, int]:
    """
    ``127.0.0.1:9090``, ``[::1]:9090``, ``collector.example:4317`` or ``:9090`` (every address).

    Raises:
        ValueError: If it is not that.
    """
    if "@" in text:
        # Not shown: there is a password before it.
        raise ValueError("it has a user or password, and is not HOST:PORT")
    host, separator, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not separator or (":" in host and not bracketed) or "/" in text:
        raise ValueError(f"{text!r} is not HOST:PORT")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise ValueError(f"{text!r} has no port between 1 and 65535")
    return host[1:-1] if bracketed else host, int(port)


def join_host_port(host: str, port: str | int) -> str:
    """The other way round: an IPv6 address is put into brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this host reaches it: an address of loopback, or ``localhost``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
