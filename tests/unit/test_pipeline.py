"""What the composition root decides before anything is opened."""

from __future__ import annotations

import pytest

from exporter.config import load
from exporter.errors import ConfigError
from exporter.reload import named


def names(*sinks: object) -> list[str]:
    return [sink.name for sink in named(load(None, {}, {"sinks": list(sinks)}).sinks)]


def test_sinks_get_names_that_differ() -> None:
    """The type, with a number from the second on; given names stay, and are not given twice."""
    assert names("stdout", "null", "grpc://h:1", "grpc://h:2", "grpc://h:3") == [
        *("stdout", "null", "grpc", "grpc2", "grpc3"),
    ]
    assert names("null", {"type": "null", "name": "null2"}, "null") == ["null", "null2", "null3"]
    assert names({"type": "stdout", "name": "null"}, "null") == ["null", "null2"]


def test_two_sinks_of_one_name() -> None:
    """The ledger keeps one account for each name."""
    with pytest.raises(ConfigError, match="two sinks have the same name"):
        names({"type": "null", "name": "a"}, {"type": "stdout", "name": "a"})
