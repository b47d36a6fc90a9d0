"""What tests of enrichers share."""

from __future__ import annotations

import pytest

from exporter.enrich import files


@pytest.fixture(autouse=True)
def _watched_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at again at once."""
    monkeypatch.setattr(files, "INTERVAL", 0.02)
