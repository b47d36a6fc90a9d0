"""Prints the tables of all kernels once they have all been run."""

from __future__ import annotations

import pytest

from tests.kernels.report import tables


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """After the tests, before the summary of skips."""
    for line in tables():
        terminalreporter.write_line(line)
