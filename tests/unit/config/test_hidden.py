"""What is secret is in no dump of the configuration, and in no error about it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.config import dump, hidden, load
from exporter.errors import ConfigError
from exporter.quantities import split_host_port

SECRET = "that-nobody-else-may-know"


def test_values_of_headers_are_hidden(tmp_path: Path) -> None:
    """Of a sink's headers and of those with the agent's own metrics; the rest is as dump has it."""
    otlp = {"type": "otlp", "endpoint": "c:4317", "protocol": "grpc", "headers": {"x-key": SECRET}}
    file = tmp_path / "config.yaml"
    file.write_text(
        json.dumps({"sinks": [otlp, "stdout"], "metrics": {"otlp": otlp}, "log_level": "debug"})
    )
    config = load(file, {}, {})
    shown = hidden(config)
    assert shown["sinks"][0]["headers"] == {"x-key": "(hidden)"}
    assert shown["metrics"]["otlp"]["headers"] == {"x-key": "(hidden)"}
    assert shown["log_level"] == "debug"
    assert SECRET not in yaml.safe_dump(shown)
    # What is in force is left as it is.
    assert SECRET in str(config)


def test_a_dump_has_no_header(tmp_path: Path) -> None:
    """It is no configuration then, and says so where it is taken for one."""
    file = tmp_path / "config.yaml"
    otlp = {"type": "otlp", "endpoint": "c:4317", "headers": {"x-team": SECRET}}
    file.write_text(json.dumps({"sinks": [otlp]}))
    text = dump(load(file, {}, {}))
    assert "x-team: (hidden)" in text
    assert SECRET not in text
    file.write_text(text)
    with pytest.raises(ConfigError, match="header x-team: dump-config has hidden its value"):
        load(file, {}, {})


@pytest.mark.parametrize(
    "sink",
    [
        # Of every kind there is; the password has what ends an address, or a whole URL.
        *(f"{kind}://me:{SECRET}{end}@h:1/t" for kind in ("kafka", "grpc", "ipfix+tcp", "ipfix+udp",
          "otlp+grpc", "otlp+http", "otlp+https", "prometheus", "file", "stdout")
          for end in ("", "/", "?", "#", "@", "/?#@:")),
        # There is no such kind.
        *(f"{kind}://me:{SECRET}{end}@h:1" for kind in ("https", "ipfix", "Kafka")
          for end in "/?#@"),
        f"me:{SECRET}@h:1",
        # What is wrong is something else.
        f"kafka://h/t?sasl.password={SECRET}",
        f"kafka://h:1/t?sasl.password={SECRET}",
        f"https://h:1?token={SECRET}",
        f"grpc://h:1?token={SECRET}",
        f"grpc://h:1?queue.rows=1&queue={SECRET}",
        f"otlp+http://h:1?headers.Authorization=Bearer%20{SECRET}",
        f"otlp+http://h:1?headers.x-api-key={SECRET}",
        f"otlp+http://h:1?headers.x={SECRET}%01",
        {"type": "grpc", "target": f"me:{SECRET}@h:1"},
        {"type": f"https://me:{SECRET}@h:1"},
        {"type": "kafka", "brokers": [f"me:{SECRET}@h:1"], "topic": "t"},
        {"type": "otlp", "endpoint": f"http://me:{SECRET}@h:1"},
        {"type": "otlp", "endpoint": "h:1", "headers": {"x": [SECRET]}},
        {"type": "otlp", "endpoint": "h:1", "headers": {"x": f"{SECRET}\n"}},
        {"type": "otlp", "endpoint": "h:1", "headers": [SECRET]},
    ],
)  # fmt: skip
def test_errors_show_no_secret(sink: Any, tmp_path: Path) -> None:
    """Refused in one line, whether it came from the arguments, the environment or a file."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"sinks": [sink]}))
    ways: list[Any] = [(file, {}, {}), (None, {}, {"sinks": [sink]})]
    if isinstance(sink, str):
        ways.append((None, {"FLOW_EXPORTER_SINKS": sink}, {}))
    for way in ways:
        with pytest.raises(ConfigError) as found:
            load(*way)
        assert not re.search("nobody|may-know", str(found.value))
        assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "text",
    [
        f'sinks: [{{type: otlp, endpoint: "h:1", headers: {{x: "{SECRET}, y: 1}}}}]',
        f"headers: {{x: {SECRET}, a: b: {SECRET}}}",
        f"metrics: {{otlp: '{{headers: {SECRET}}}'}}",
        f"metrics: {{otlp: 'otlp+http://me:{SECRET}@h:1'}}",
        f"metrics: {{otlp: 'http://h:1?headers.x-key={SECRET}'}}",
        f"metrics: {{address: 'me:{SECRET}@h:1'}}",
    ],
)
def test_errors_of_files_show_no_secret(text: str, tmp_path: Path) -> None:
    """What is no YAML is said by its place, not by its text."""
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as found:
        load(file, {}, {})
    assert not re.search("nobody|may-know", str(found.value))


@pytest.mark.parametrize("text", [f"me:{SECRET}@h:1", f"kafka://me:{SECRET}@h:1", f"{SECRET}@h"])
def test_addresses_show_no_secret(text: str) -> None:
    """Of brokers and servers that a command is given, too."""
    with pytest.raises(ValueError, match="it has a user or password") as found:
        split_host_port(text)
    assert not re.search("nobody|may-know", str(found.value))
