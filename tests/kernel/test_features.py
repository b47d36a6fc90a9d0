"""Probes: yes, no, or could not tell, and never a guess."""

from __future__ import annotations

import errno as errnos
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.ebpf import _libbpf, features
from exporter.ebpf.errors import FeatureMissing
from exporter.ebpf.features import Answer, Feature, Probe


@pytest.mark.parametrize("name", features.PROBES)
def test_every_probe_is_conclusive_here(name: str) -> None:
    """As root each probe says yes or no, and the required ones yes; but for what is forbidden."""
    found = features.probe(name)
    if found.answer is Answer.UNKNOWN:
        assert "not permitted" in found.reason
    if name in features.REQUIRED:
        assert found.answer is Answer.YES


def test_probing_leaves_nothing_behind() -> None:
    """Rounds of all probes leave as many descriptors as there were."""

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    for _ in range(3):
        for feature in features.PROBES.values():
            try:
                feature.ask()
            except OSError:
                continue
    assert descriptors() == before


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | Probe], list[int]]:
    """Sets what the probe ``pretended`` says or raises; the list grows whenever it is asked."""

    def pretend(outcome: BaseException | Probe) -> list[int]:
        asked: list[int] = []

        def ask() -> Probe:
            asked.append(1)
            if isinstance(outcome, Probe):
                return outcome
            raise outcome

        monkeypatch.setattr(features, "_answers", {})
        monkeypatch.setitem(
            features.PROBES, "pretended", Feature("pretence", "9.9", "nothing", ask)
        )
        return asked

    return pretend


Pretend = Callable[[BaseException | Probe], list[int]]


@pytest.mark.parametrize(
    ("outcome", "answer", "asked"),
    [
        pytest.param(Probe(Answer.YES), Answer.YES, 1, id="yes"),
        pytest.param(Probe(Answer.NO), Answer.NO, 1, id="no"),
        pytest.param(OSError(errnos.EINVAL, ""), Answer.NO, 1, id="EINVAL"),
        pytest.param(OSError(524, ""), Answer.NO, 1, id="the kernel's own ENOTSUPP"),
        pytest.param(OSError(errnos.EPERM, ""), Answer.UNKNOWN, 2, id="EPERM"),
        pytest.param(OSError(errnos.ENOMEM, ""), Answer.UNKNOWN, 2, id="ENOMEM"),
        pytest.param(_libbpf.MissingLibrary("none"), Answer.UNKNOWN, 2, id="no libbpf"),
    ],
)
def test_only_conclusive_answers_are_remembered(
    pretended: Pretend, outcome: BaseException | Probe, answer: Answer, asked: int
) -> None:
    """Yes and no are asked for once, however they were found; what is unknown is asked again."""
    times = pretended(outcome)
    assert [features.probe("pretended").answer for _ in range(2)] == [answer, answer]
    assert len(times) == asked


def test_what_is_missing_is_named(pretended: Pretend) -> None:
    """The error has the feature, the release that brought it and the one that runs."""
    pretended(Probe(Answer.NO))
    with pytest.raises(FeatureMissing, match=r"no pretence: Linux 9\.9 brought it") as caught:
        features.require("bpf", "pretended")
    assert os.uname().release in str(caught.value)


def test_what_is_not_known_is_not_missing(pretended: Pretend) -> None:
    """Who may not ask is not told that there is none."""
    pretended(PermissionError(errnos.EPERM, ""))
    features.require("pretended")
