"""
Debian's kernels, booted: what each can do, and that capture is exact on each.

``make test-kernels`` boots all of them and ``make test`` only 6.1: where every instruction is
emulated a guest takes minutes. TEST_KERNELS says which: ``all``, or series with commas between.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.kernels.conftest import Boots
from tests.kernels.expected import SKIPS, has_features
from tests.kernels.guest import missing_parts
from tests.kernels.images import KERNELS, Kernel
from tests.kernels.inside import Outcome
from tests.kernels.report import Row, write
from tests.kernels.selection import CAPABILITIES, capability


def _chosen() -> list[Kernel | None]:
    wanted = os.environ.get("TEST_KERNELS", "").split(",")
    chosen = [kernel for kernel in KERNELS if "all" in wanted or kernel.series in wanted]
    return [*chosen] or [None]


@dataclass(frozen=True)
class Run:
    """What one kernel showed."""

    kernel: Kernel
    release: str
    features: dict[str, dict[str, str]]
    outcomes: list[Outcome]
    console: str

    def of(self, title: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if capability(outcome.test) == title]


@pytest.fixture(scope="module", params=_chosen(), ids=str)
def run(request: pytest.FixtureRequest) -> Run:
    """One kernel, booted once for all tests here, at the beginning of the session."""
    kernel: Kernel | None = request.param
    if kernel is None:
        pytest.skip("no other kernel was asked for: TEST_KERNELS has none")
    lacking = missing_parts()
    if lacking:
        missing(f"to boot kernels: {', '.join(lacking)}")
    boots: Boots = request.getfixturevalue("boots")
    ended, results = boots.ended(kernel)
    if ended.lacking:
        missing(ended.lacking)
    assert not ended.problem, ended.problem
    probed = _read(results / "features.json", ended.console)
    lines = _read(results / "tests.jsonl", ended.console).splitlines()
    outcomes = [Outcome(**json.loads(line)) for line in lines]
    found = json.loads(probed)
    done = Run(kernel, found["release"], found["features"], outcomes, ended.console)
    write(Row(done.release, done.features, _tallies(done), ended.seconds))
    return done


def _read(path: Path, console: str) -> str:
    assert path.exists(), f"the guest did not come to {path.name}:\n{console}"
    return path.read_text()


def _tallies(done: Run) -> dict[str, dict[str, int]]:
    return {
        title: dict(Counter(outcome.outcome for outcome in done.of(title)))
        for title in CAPABILITIES
    }


def test_the_kernel_is_the_one_asked_for(run: Run) -> None:
    """The series is what Debian's suite has; the newest is newer than all others."""
    if run.kernel.series == "newest":
        assert int(run.release.split(".")[0]) >= 7
    else:
        assert run.release.startswith(f"{run.kernel.series}.")


def test_features(run: Run) -> None:
    """Every probe is conclusive, and says what this kernel is known to have."""
    answers = {name: found["answer"] for name, found in run.features.items()}
    has = has_features(run.kernel.series)
    assert answers == {name: "yes" if name in has else "no" for name in answers}
    assert has <= set(answers)


@pytest.mark.parametrize("title", CAPABILITIES)
def test_capability(run: Run, title: str) -> None:
    """Its tests pass on this kernel; what is skipped is what this kernel is known to lack."""
    outcomes = run.of(title)
    if not outcomes:
        pytest.skip(f"no test of {title} is there yet")
    failed = [f"{each.test}\n{each.detail}" for each in outcomes if each.outcome == "failed"]
    assert not failed, "\n\n".join(failed)
    skipped = [each for each in outcomes if each.outcome == "skipped"]
    unexplained = [
        f"{each.test}: {each.detail}" for each in skipped if not _may_skip(each, run.kernel)
    ]
    assert not unexplained
    assert any(each.outcome == "passed" for each in outcomes)


def _may_skip(outcome: Outcome, kernel: Kernel) -> bool:
    return any(
        reason in outcome.detail and kernel.series in series for reason, series in SKIPS.items()
    )


def test_everything_selected_was_run(run: Run) -> None:
    """The guest came to the end of its tests and powered itself off."""
    assert "script exited with code 0" in run.console, run.console[-20_000:]
