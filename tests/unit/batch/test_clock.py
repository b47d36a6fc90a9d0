"""A clock that somebody sets, beside one that is only slewed, or read late."""

from __future__ import annotations

import logging

import pytest

from exporter.batch.clock import Steps
from exporter.ebpf import clock


def test_steps(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Counted and said once each; what is slewed, or a read that took long, is no step."""
    offsets = iter([
        0, 10**8, -10**8,
        # 90 s forward, and stays so.
        90 * 10**9, 90 * 10**9, 90 * 10**9,
        # Between the reads of the two clocks a second passed.
        91 * 10**9, 90 * 10**9,
        89 * 10**9, 89 * 10**9,
    ])  # fmt: skip
    asked: list[int] = []

    def read(kernel_clock: int) -> int:
        asked.append(kernel_clock)
        return next(offsets)

    monkeypatch.setattr(clock, "unix_offset_ns", read)
    caplog.set_level(logging.DEBUG)
    steps = Steps()
    counts = []
    for _ in range(6):
        steps.look()
        counts.append(steps.count)
    assert counts == [0, 0, 1, 1, 1, 2]
    assert next(offsets, None) is None
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "the clock was set forward by 90.1 s",
        "the clock was set back by 1.0 s",
    ]
    # A machine that slept has not had its clock set.
    assert set(asked) == {clock.BOOT}
