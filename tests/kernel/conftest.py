"""What the kernel tests share: each loader in turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from exporter.capture.loader import Loader
from tests.conftest import missing
from tests.kernel.loader import LOADERS, bcc_is_missing, choose


@pytest.fixture
def _bcc() -> None:
    """The test needs BCC and kernel headers."""
    reason = bcc_is_missing()
    if reason:
        missing(reason)


@pytest.fixture(params=LOADERS)
def loader(request: pytest.FixtureRequest) -> Iterator[Loader]:
    """The loader that the test's programs are brought into the kernel by."""
    if request.param == "bcc":
        request.getfixturevalue("_bcc")
    before = choose(request.param)
    yield request.param
    choose(before)
