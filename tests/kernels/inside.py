"""
What a guest runs: ``python -m tests.kernels.inside RESULTS``.

Writes the answers of all probes to ``features.json`` and a line for every test to ``tests.jsonl``
as it ends, so that a guest that hangs has said where.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.kernels.selection import capability, files


@dataclass(frozen=True)
class Outcome:
    """A test that has ended. ``outcome`` is passed, failed or skipped; ``detail`` says why."""

    test: str
    outcome: str
    seconds: float
    detail: str


class Recorder:
    """Keeps to the selection, and writes down how it went."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seconds: dict[str, float] = {}

    @pytest.hookimpl
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        others = [item for item in items if capability(item.nodeid) is None]
        items[:] = [item for item in items if capability(item.nodeid) is not None]
        config.hook.pytest_deselected(items=others)

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seconds = self._seconds[report.nodeid] = (
            self._seconds.get(report.nodeid, 0) + report.duration
        )
        if report.when == "call" or report.outcome != "passed":
            detail = "" if report.passed else _detail(report)
            line = asdict(Outcome(report.nodeid, report.outcome, round(seconds, 1), detail))
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def _detail(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return str(report.longrepr)


def _features() -> dict[str, dict[str, str]]:
    from exporter.ebpf import features

    answers = {name: features.probe(name) for name in features.PROBES}
    return {
        name: {"answer": found.answer.value, "reason": found.reason}
        for name, found in answers.items()
    }


def main() -> int:
    """Probe, then test."""
    results = Path(sys.argv[1])
    # As on every Debian host; virtme's init leaves it out, and there is no udev.
    subprocess.run(["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"], check=True)
    subprocess.run(["modprobe", "tun"], check=True)
    found = {"release": os.uname().release, "features": _features()}
    (results / "features.json").write_text(json.dumps(found))
    return pytest.main(
        ["-q", "-p", "no:cacheprovider", *files()], plugins=[Recorder(results / "tests.jsonl")]
    )


if __name__ == "__main__":
    sys.exit(main())
