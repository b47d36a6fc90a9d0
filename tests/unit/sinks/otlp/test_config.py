"""Where an OTLP sink sends to: its URL, its section, and the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporter.config import dump, load
from exporter.credentials import TlsConfig
from exporter.errors import ConfigError
from exporter.sinks.otlp.config import OtlpConfig
from exporter.sinks.otlp.environment import destination, resource, temporality

PREFIX = "OTEL_EXPORTER_OTLP_"


def parsed(url: str) -> OtlpConfig:
    (config,) = load(None, {}, {"sinks": [url]}).sinks
    assert isinstance(config, OtlpConfig)
    return config


def variables(**values: str) -> dict[str, str]:
    return {PREFIX + name: value for name, value in values.items()}


@pytest.mark.parametrize(
    ("url", "protocol", "target", "path", "tls"),
    [
        ("otlp+grpc://collector:4317", "grpc", "collector:4317", "/v1/logs", None),
        ("otlp+http://[::1]:4318", "http", "[::1]:4318", "/v1/logs", None),
        ("otlp+http://h:1/", "http", "h:1", "/v1/logs", None),
        ("otlp+http://h:1/otlp/v1/logs", "http", "h:1", "/otlp/v1/logs", None),
        ("otlp+http://h:1?signal=metrics", "http", "h:1", "/v1/metrics", None),
        ("otlp+https://h:1", "http", "h:1", "/v1/logs", TlsConfig()),
        ("otlp+grpcs://h:1", "grpc", "h:1", "/v1/logs", TlsConfig()),
        ("otlp+grpc://h:1?tls.ca=/ca", "grpc", "h:1", "/v1/logs", TlsConfig(ca=Path("/ca"))),
    ],
)
def test_urls(url: str, protocol: str, target: str, path: str, tls: TlsConfig | None) -> None:
    """Protocol, address, path and TLS; what the environment says of an endpoint is not for it."""
    elsewhere = variables(
        ENDPOINT="https://secret:1", HEADERS="authorization=s3cret", CERTIFICATE="/x",
        PROTOCOL="http/json", TIMEOUT="250", COMPRESSION="gzip",
    )  # fmt: skip
    found = destination(parsed(url), elsewhere)
    assert (found.protocol, found.target, found.path, found.tls) == (protocol, target, path, tls)
    assert found.headers == {}
    assert (found.gzip, found.timeout) == (True, 0.25)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("otlp+grpc://h", "write otlp+grpc://HOST:PORT"),
        ("otlp+grpc://h:1/path", "write otlp+grpc://HOST:PORT"),
        ("otlp+http://:1", "write otlp+http://HOST:PORT/PATH"),
        ("otlp+http://h:1?signal=traces", "sinks[0].signal: input should be 'logs', 'spans' or"),
        ("otlp+http://h:1?schema=ecs", "sinks[0].schema"),
        (
            "otlp+http://h:1?metrics.attributes=port",
            "no attribute 'port': did you mean src_port?",
        ),
        ("otlp+http://h:1?metrics.limit=1", "sinks[0].metrics.limit"),
        ("otlp+http://h:1?headers.a%0d%0ab=1", "is not the name of a header"),
        ("otlp+http://h:1?headers.a=1%0d%0ab:2", "characters that no header may have"),
        ("otlp+http://h:1?bearer=/a&basic=/b", "a header is given twice"),
        ("otlp+http://h:1?bearer=/a&header_files.Authorization=/b", "a header is given twice"),
        ("otlp+http://h:1?headers.Authorization=x", "seen among the arguments of the process"),
        ("otlp+http://h:1/a%20b?path=a", "is not a path"),
        ("otlp+http://h:1?bearer_token=x", "unknown key sinks[0].bearer_token: did you mean"),
    ],
)
def test_sinks_that_cannot_be(url: str, expected: str) -> None:
    """One line that says what is wrong."""
    with pytest.raises(ConfigError) as found:
        load(None, {}, {"sinks": [url]})
    assert expected in str(found.value)
    assert "\n" not in str(found.value)


def test_a_password_in_a_url_is_refused_and_not_shown() -> None:
    """It would be in the process's arguments."""
    with pytest.raises(ConfigError) as found:
        parsed("otlp+http://user:s3cret@h:1")
    assert "s3cret" not in str(found.value)


@pytest.mark.parametrize(
    ("values", "signal", "expected"),
    [
        ({}, "logs", ("http", "localhost:4318", "/v1/logs", None)),
        ({"PROTOCOL": "grpc"}, "logs", ("grpc", "localhost:4317", "/v1/logs", None)),
        (
            {"ENDPOINT": "http://h:9/base/"},
            "metrics",
            ("http", "h:9", "/base/v1/metrics", None),
        ),
        (
            {"ENDPOINT": "http://h:9/base", "METRICS_ENDPOINT": "https://m/own"},
            "metrics",
            ("http", "m:443", "/own", TlsConfig()),
        ),
        ({"LOGS_ENDPOINT": "http://h:9"}, "logs", ("http", "h:9", "/", None)),
        ({"ENDPOINT": "http://h:9"}, "spans", ("http", "h:9", "/v1/traces", None)),
        (
            {"LOGS_ENDPOINT": "http://h:9", "TRACES_PROTOCOL": "grpc"},
            "spans",
            ("grpc", "localhost:4317", "/v1/traces", None),
        ),
        (
            {"PROTOCOL": "http/protobuf", "LOGS_PROTOCOL": "grpc", "ENDPOINT": "https://h"},
            "logs",
            ("grpc", "h:4317", "/v1/logs", TlsConfig()),
        ),
        (
            {"PROTOCOL": "grpc", "ENDPOINT": "h:9", "INSECURE": "true"},
            "logs",
            ("grpc", "h:9", "/v1/logs", None),
        ),
        (
            {"PROTOCOL": "grpc", "ENDPOINT": "h:9", "CERTIFICATE": "/ca",
             "LOGS_CLIENT_CERTIFICATE": "/c", "CLIENT_KEY": "/k"},
            "logs",
            ("grpc", "h:9", "/v1/logs", TlsConfig(ca="/ca", certificate="/c", key="/k")),
        ),
    ],
)  # fmt: skip
def test_environment(values: dict[str, str], signal: Any, expected: tuple[Any, ...]) -> None:
    """A sink without an endpoint: defaults, all signals, one signal, with and without TLS."""
    found = destination(OtlpConfig(signal=signal), variables(**values))
    assert (found.protocol, found.target, found.path, found.tls) == expected
    assert (found.gzip, found.timeout) == (False, None)


def test_headers_and_what_the_section_says() -> None:
    """Percent-encoded pairs; the section comes first; nothing of them is shown."""
    config = OtlpConfig(headers={"b": "2"}, compression="none", retry={"timeout": "3s"})
    values = variables(
        HEADERS="x=1", LOGS_HEADERS=" Api-Key = s3cret%20key , b=%3D1,", COMPRESSION="gzip",
        LOGS_TIMEOUT="100",
    )  # fmt: skip
    found = destination(config, values)
    assert found.headers == {"api-key": "s3cret key", "b": "2"}
    assert (found.gzip, found.timeout) == (False, None)
    assert "s3cret" not in repr(found)
    assert "s3cret" not in dump(load(None, values, {"sinks": ["otlp"]}))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_PROTOCOL: there is no protocol"),
        ({"COMPRESSION": "zstd"}, "OTEL_EXPORTER_OTLP_COMPRESSION: there is no compression"),
        ({"LOGS_TIMEOUT": "1s"}, "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT: '1s' is not a number"),
        ({"ENDPOINT": "h:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT: it is not http://"),
        ({"ENDPOINT": "http://h:99999"}, "OTEL_EXPORTER_OTLP_ENDPOINT: it is not http://"),
        ({"ENDPOINT": "http://u:s3cret@h:1"}, "OTEL_EXPORTER_OTLP_ENDPOINT: it is not http://"),
        ({"ENDPOINT": "http://[::1"}, "OTEL_EXPORTER_OTLP_ENDPOINT: it is not http://"),
        ({"HEADERS": "s3cret"}, "OTEL_EXPORTER_OTLP_HEADERS is not NAME=VALUE"),
        ({"HEADERS": "a=s3cret%0d%0ab: 1"}, "OTEL_EXPORTER_OTLP_HEADERS is not NAME=VALUE"),
        ({"ENDPOINT": "https://h:1", "CLIENT_KEY": "/k"}, "go together"),
    ],
)
def test_an_environment_that_cannot_be(values: dict[str, str], expected: str) -> None:
    """The variable is named; what may be a secret is not shown."""
    with pytest.raises(ConfigError) as found:
        destination(OtlpConfig(), variables(**values))
    assert expected in str(found.value)
    assert "s3cret" not in str(found.value)


@pytest.mark.parametrize(
    ("preference", "section", "expected"),
    [
        ("", {}, "cumulative"),
        ("delta", {}, "delta"),
        ("LowMemory", {}, "delta"),
        ("cumulative", {}, "cumulative"),
        ("delta", {"temporality": "cumulative"}, "cumulative"),
    ],
)
def test_temporality(preference: str, section: dict[str, str], expected: str) -> None:
    """The section comes before the environment's preference."""
    config = OtlpConfig(signal="metrics", metrics=section)
    values = variables(METRICS_TEMPORALITY_PREFERENCE=preference)
    assert temporality(config, values) == expected
    with pytest.raises(ConfigError, match="use cumulative, delta or lowmemory"):
        temporality(config, variables(METRICS_TEMPORALITY_PREFERENCE="s"))


def test_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our name unless the environment has another; its attributes come before ours."""
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(name, raising=False)
    own = resource("node-1")
    assert (own["service.name"], own["host.name"]) == ("flow-exporter", "node-1")
    assert "host.name" not in resource("")
    monkeypatch.setenv(
        "OTEL_RESOURCE_ATTRIBUTES", "host.name=other,service.name=x,deployment.environment=a%20b"
    )
    found = resource("node-1")
    assert (found["host.name"], found["service.name"]) == ("other", "x")
    assert found["deployment.environment"] == "a b"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "svc")
    assert resource("node-1")["service.name"] == "svc"
