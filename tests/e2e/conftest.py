"""Servers that are started once for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.broker import Broker
from tests.e2e.clickhouse import ClickHouse
from tests.e2e.container import ROOT
from tests.e2e.wheel import build, install


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Apache Kafka. Each test makes a topic of its own."""
    made = Broker(tmp_path_factory.mktemp("kafka"))
    try:
        made.start()
        yield made
    finally:
        made.kill()


@pytest.fixture
def clickhouse(tmp_path: Path) -> Iterator[ClickHouse]:
    """With the tables and views of docs/downstream/clickhouse, for one test."""
    directory = tmp_path / "clickhouse"
    directory.mkdir()
    with ClickHouse(directory) as started:
        for name in ("flows", "counted-once"):
            started.run(f"{name}.sql")
        yield started


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that has it."""
    made = tmp_path_factory.mktemp("installed") / "environment"
    install(wheel, made)
    return made
