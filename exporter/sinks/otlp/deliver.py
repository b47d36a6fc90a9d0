"""
What the clients of both protocols share: headers from files, and waiting as a collector asks.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from exporter.credentials import Watched, masked, secret
from exporter.errors import ConfigError, SinkError
from exporter.sinks.otlp.config import OtlpConfig, check_header
from exporter.sinks.otlp.environment import Destination


class Client(Protocol):
    """One collector over one protocol."""

    def open(self) -> None:
        """Get ready, without connecting. Raises ConfigError if a file cannot be used."""

    def send(self, payload: bytes, timeout: float) -> bytes:
        """Hand one request over; the response. Raises SinkError."""

    def close(self) -> None:
        """End what is under way. Again is fine, and from any thread."""


class Headers:
    """
    What is sent with each request; secrets are read again when their files change.

    Args:
        config: The files.
        fixed: The others.
    """

    def __init__(self, config: OtlpConfig, fixed: Mapping[str, str]) -> None:
        self._config = config
        self._fixed = {name.lower(): value for name, value in fixed.items()}
        named = (config.bearer, config.basic, *config.header_files.values())
        self._watched = Watched(tuple(path for path in named if path is not None))
        self._read: dict[str, str] | None = None

    def load(self) -> None:
        """Read the files. Raises ConfigError, which never shows what is in them."""
        read = {name.lower(): secret(path) for name, path in self._config.header_files.items()}
        if self._config.bearer is not None:
            read["authorization"] = f"Bearer {secret(self._config.bearer)}"
        if self._config.basic is not None:
            pair = secret(self._config.basic)
            if ":" not in pair:
                raise ConfigError(f"{self._config.basic} is not USER:PASSWORD")
            read["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        for name, value in read.items():
            try:
                check_header(name, value)
            except ValueError as err:
                raise ConfigError(str(err)) from None
        self._read = read

    def current(self) -> dict[str, str]:
        """Names in lower case -> values. Raises SinkError if a file cannot be used now."""
        try:
            if self.renew() or self._read is None:
                self.load()
        except ConfigError as err:
            self._read = None
            raise SinkError("credentials", str(err), retryable=True) from err
        assert self._read is not None
        return self._fixed | self._read

    def hide(self, said: bytes) -> bytes:
        """A collector's words or message, as long, without what it was sent in headers."""
        return masked(said, (*self._fixed.values(), *(self._read or {}).values()))

    def renew(self) -> bool:
        """Whether a file has changed since the last call; what was read is forgotten then."""
        changed = self._watched.changed()
        if changed:
            self._read = None
        return changed


class Throttle:
    """A collector that asks to be left alone for a while is."""

    def __init__(self) -> None:
        self._until = 0.0
        self._closed = threading.Event()

    def ask(self, seconds: float) -> None:
        """Send nothing for so long."""
        self._until = time.monotonic() + seconds

    def wait(self, timeout: float) -> float:
        """
        Wait as asked for.

        Args:
            timeout: Seconds at most.

        Returns:
            Seconds of ``timeout`` that are left.

        Raises:
            SinkError: If that is not enough, or it was closed meanwhile; retryable.
        """
        began = time.monotonic()
        wait = self._until - began
        if wait > 0:
            if self._closed.wait(min(wait, timeout)):
                raise SinkError("cancelled", "closed", retryable=True)
            if wait >= timeout:
                detail = f"it asked not to be sent anything for {wait:.0f} s more"
                raise SinkError("throttled", detail, retryable=True)
        return timeout - (time.monotonic() - began)

    def close(self) -> None:
        """Wait no more."""
        self._closed.set()


def certificates(destination: Destination) -> Watched:
    """The files of its TLS."""
    files: tuple[Path, ...] = destination.tls.files() if destination.tls else ()
    return Watched(files)
