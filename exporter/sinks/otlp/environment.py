"""
What ``OTEL_*`` variables say: who we are, and, for a sink without an endpoint, where to and how.

What the sink's own section says comes first. Variables of an endpoint, its headers and certificates
are not used for an endpoint that is given otherwise: they may be secrets of another server.

Source: https://opentelemetry.io/docs/specs/otel/protocol/exporter and
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from exporter import __version__
from exporter.credentials import TlsConfig
from exporter.errors import ConfigError
from exporter.quantities import join_host_port
from exporter.sinks.otlp.anyvalue import AnyValue
from exporter.sinks.otlp.config import OtlpConfig, check_header

PATHS = {"logs": "/v1/logs", "spans": "/v1/traces", "metrics": "/v1/metrics"}
#: What variables call the signals.
_CALLED = {"logs": "LOGS", "spans": "TRACES", "metrics": "METRICS"}

_PREFIX = "OTEL_EXPORTER_OTLP_"
_PORTS = {"grpc": 4317, "http": 4318}
_PROTOCOLS: dict[str, Literal["grpc", "http"]] = {"grpc": "grpc", "http/protobuf": "http"}


@dataclass(frozen=True)
class Destination:
    """
    Where to and how, all questions answered.

    Args:
        protocol: ``grpc`` or ``http``.
        target: ``host:port``.
        path: Of HTTP.
        tls: ``None`` for plain text.
        gzip: Whether messages are compressed.
        headers: Sent with each request; may be secrets.
        timeout: Seconds for one request, if the environment says so.
    """

    protocol: Literal["grpc", "http"]
    target: str
    path: str
    tls: TlsConfig | None
    gzip: bool
    headers: Mapping[str, str] = field(repr=False)
    timeout: float | None


class _Variables:
    """``OTEL_EXPORTER_OTLP_*``, those of a signal before those of all. Empty is unset."""

    def __init__(self, environment: Mapping[str, str], signal: str) -> None:
        self._environment = environment
        self.signal = signal
        self.called = _CALLED[signal]

    def get(self, name: str) -> tuple[str, str]:
        """The variable that says it, and what it says; empty if none does."""
        for variable in (f"{_PREFIX}{self.called}_{name}", _PREFIX + name):
            if value := self._environment.get(variable, "").strip():
                return variable, value
        return "", ""


def destination(config: OtlpConfig, environment: Mapping[str, str]) -> Destination:
    """
    Where to and how.

    Raises:
        ConfigError: If a variable cannot be used; names it, and never shows a header.
    """
    variables = _Variables(environment, config.signal)
    gzip = (config.compression or _compression(variables)) == "gzip"
    timeout = None if "timeout" in config.retry.model_fields_set else _timeout(variables)
    if config.endpoint:
        protocol = config.protocol or "grpc"
        path = config.path or PATHS[config.signal]
        tls, target, headers = config.tls, config.endpoint, config.headers
    else:
        protocol = config.protocol or _protocol(variables)
        url, target = _endpoint(variables, protocol)
        path = config.path or _path(variables, url)
        tls = config.tls or _tls(variables, url.scheme)
        headers = _headers(variables) | config.headers
    return Destination(protocol, target, path, tls, gzip, headers, timeout)


def temporality(
    config: OtlpConfig, environment: Mapping[str, str]
) -> Literal["cumulative", "delta"]:
    """
    Of sums, if the section does not say.

    Raises:
        ConfigError: If the variable has another value than the specification's.
    """
    name = f"{_PREFIX}METRICS_TEMPORALITY_PREFERENCE"
    value = environment.get(name, "").strip().lower()
    if value not in ("", "cumulative", "delta", "lowmemory"):
        raise ConfigError(f"{name}: there is no {value!r}: use cumulative, delta or lowmemory")
    if "temporality" in config.metrics.model_fields_set or not value:
        return config.metrics.temporality
    return "cumulative" if value == "cumulative" else "delta"


def resource(agent: str) -> dict[str, AnyValue]:
    """
    Who reports: what the SDK detects, with ``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_SERVICE_NAME`` and
    ``OTEL_EXPERIMENTAL_RESOURCE_DETECTORS``.

    Args:
        agent: This node's name; empty if it is not known.
    """
    # Imported here: 15 MB that only this sink needs.
    from opentelemetry.sdk.resources import Resource

    own: dict[str, str | bool | int | float] = {
        "service.name": "flow-exporter",
        "service.version": __version__,
    }
    if agent:
        own["host.name"] = agent
    detected = dict(Resource.create().attributes)
    # What the SDK says for want of anything better.
    if str(detected.get("service.name", "")).startswith("unknown_service"):
        del detected["service.name"]
    return {key: _plain(value) for key, value in (own | detected).items()}


def _plain(value: object) -> AnyValue:
    if isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (list, tuple)):
        return [str(item) for item in value]
    return str(value)


def _compression(variables: _Variables) -> str:
    name, value = variables.get("COMPRESSION")
    if value not in ("", "none", "gzip"):
        raise ConfigError(f"{name}: there is no compression {value!r}: use gzip or none")
    return value


def _timeout(variables: _Variables) -> float | None:
    name, value = variables.get("TIMEOUT")
    if not value:
        return None
    if not (value.isascii() and value.isdigit() and 0 < int(value) <= 600_000):
        raise ConfigError(f"{name}: {value!r} is not a number of milliseconds up to 600000")
    return int(value) / 1000


def _protocol(variables: _Variables) -> Literal["grpc", "http"]:
    name, value = variables.get("PROTOCOL")
    if value and value not in _PROTOCOLS:
        raise ConfigError(f"{name}: there is no protocol {value!r}: use {' or '.join(_PROTOCOLS)}")
    return _PROTOCOLS.get(value, "http")


def _endpoint(variables: _Variables, protocol: str) -> tuple[SplitResult, str]:
    """The URL, and its ``host:port``."""
    name, value = variables.get("ENDPOINT")
    if not value:
        value = f"http://localhost:{_PORTS[protocol]}"
    if "://" not in value and protocol == "grpc":
        insecure = variables.get("INSECURE")[1].lower() == "true"
        value = f"{'http' if insecure else 'https'}://{value}"
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        url, port = urlsplit(""), None
    if url.scheme not in ("http", "https") or "@" in url.netloc or not url.hostname:
        # The value is not shown: a user and a password may be in it.
        raise ConfigError(f"{name}: it is not http://HOST:PORT or https://HOST:PORT")
    default = _PORTS["grpc"] if protocol == "grpc" else 443 if url.scheme == "https" else 80
    return url, join_host_port(url.hostname, port or default)


def _path(variables: _Variables, url: SplitResult) -> str:
    """A signal's endpoint is used as it is; to that of all signals the signal's path is added."""
    if variables.get("ENDPOINT")[0] == f"{_PREFIX}{variables.called}_ENDPOINT":
        return url.path or "/"
    return url.path.rstrip("/") + PATHS[variables.signal]


def _tls(variables: _Variables, scheme: str) -> TlsConfig | None:
    if scheme != "https":
        return None
    names = {"ca": "CERTIFICATE", "certificate": "CLIENT_CERTIFICATE", "key": "CLIENT_KEY"}
    files = {key: variables.get(name)[1] for key, name in names.items()}
    if bool(files["certificate"]) != bool(files["key"]):
        raise ConfigError(f"{_PREFIX}CLIENT_CERTIFICATE and {_PREFIX}CLIENT_KEY go together")
    return TlsConfig(**{key: Path(value) for key, value in files.items() if value})


def _headers(variables: _Variables) -> dict[str, str]:
    """``name=value,name=value``, values percent-encoded."""
    variable, text = variables.get("HEADERS")
    headers = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, separator, value = (unquote(word.strip()) for word in part.partition("="))
        try:
            check_header(name if separator else "", value)
        except ValueError:
            # Neither is what is wrong shown, nor its cause: it may be a secret.
            raise ConfigError(f"{variable} is not NAME=VALUE,NAME=VALUE") from None
        headers[name.lower()] = value
    return headers
