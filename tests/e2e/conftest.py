"""Servers that are started once for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.broker import Broker


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Apache Kafka. Each test makes a topic of its own."""
    made = Broker(tmp_path_factory.mktemp("kafka"))
    try:
        made.start()
        yield made
    finally:
        made.kill()
