"""
Boots what was asked for while the other tests run, and prints the tables of all kernels at the end.

A guest is emulated and takes minutes, as long as a third of all other tests. It has a kernel of its
own, so that only the processors are shared. Guests are one after the other: the next is started
when the results of the one before it are read.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.kernels.boot import Boot, Ended
from tests.kernels.guest import missing_parts
from tests.kernels.images import Kernel
from tests.kernels.report import tables


class Boots:
    """
    All kernels whose tests were collected, in the order of the tests.

    Args:
        series: Of each.
    """

    def __init__(self, series: list[str]) -> None:
        self._waiting = series
        self._directory = tempfile.TemporaryDirectory(prefix="kernels-")
        self._booted: dict[str, Boot] = {}
        self.start_next()

    def start_next(self) -> None:
        """Without waiting for it."""
        if self._waiting:
            series = self._waiting.pop(0)
            results = Path(self._directory.name) / series
            results.mkdir()
            self._booted[series] = Boot(series, results)

    def ended(self, kernel: Kernel) -> tuple[Ended, Path]:
        """Wait for one, and start the next: how it went, and its results."""
        boot = self._booted[kernel.series]
        try:
            return boot.wait(), boot.results
        finally:
            self.start_next()

    def close(self) -> None:
        """End those that nobody waited for."""
        for boot in self._booted.values():
            boot.kill()
        self._directory.cleanup()


_KEY = pytest.StashKey[Boots]()


def _kernel(item: pytest.Item) -> Kernel | None:
    """Which one a test is about, if it needs one that is booted."""
    callspec = getattr(item, "callspec", None)
    found = callspec.params.get("run") if callspec else None
    return found if isinstance(found, Kernel) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of other kernels come last."""
    items.sort(key=lambda item: _kernel(item) is not None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """The first is booted before the first test is run."""
    kernels = [kernel for item in session.items if (kernel := _kernel(item))]
    series = list(dict.fromkeys(kernel.series for kernel in kernels))
    if series and not session.config.option.collectonly and not missing_parts():
        session.config.stash[_KEY] = Boots(series)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Nothing is left behind, however the tests ended."""
    boots = config.stash.get(_KEY, None)
    if boots:
        boots.close()


@pytest.fixture(scope="session")
def boots(pytestconfig: pytest.Config) -> Boots:
    """The guests of this session."""
    return pytestconfig.stash[_KEY]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """After the tests, before the summary of skips."""
    for line in tables():
        terminalreporter.write_line(line)
