"""The configuration as a report of a fault has it."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from exporter.config import hidden, load

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
