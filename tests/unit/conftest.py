"""
How much the property tests try: enough to find what is rare, little enough to be run always. And
who signs certificates.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.certificates import Authority

# A machine under load must not fail a test that is right: no deadline.
settings.register_profile("unit", max_examples=100, deadline=None, print_blob=True)
settings.load_profile("unit")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """That is believed."""
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """That is not."""
    return Authority(tmp_path_factory.mktemp("tls") / "stranger")
