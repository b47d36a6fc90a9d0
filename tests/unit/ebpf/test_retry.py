"""When a round of retries comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from exporter.ebpf.retry import RetryController, RetryPolicy, Round, SystemClock
from tests.unit.ebpf.tables import HandClock, eventually

DONE, STUCK, BETTER = Round(1, 0, 0), Round(0, 1, 1), Round(1, 1, 1)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (RetryPolicy(), [0.2, 5, 10, 15, 20]),
        (RetryPolicy(growth="exponential"), [0.2, 5, 10, 20, 40]),
        (RetryPolicy(cap=12), [0.2, 5, 10, 12, 12]),
        (RetryPolicy(growth="exponential", cap=12), [0.2, 5, 10, 12, 12]),
        (RetryPolicy(first=3, cap=1), [1, 1, 1, 1, 1]),
    ],
)
def test_delays(policy: RetryPolicy, expected: list[float]) -> None:
    """First soon, then after an interval that grows up to the cap."""
    assert [policy.delay(rounds) for rounds in range(5)] == expected


def test_delay_after_very_many_rounds() -> None:
    """The wait is capped however long nothing has helped."""
    assert RetryPolicy(growth="exponential").delay(10**9) == 60


class Task:
    """Rounds with outcomes that the test names."""

    def __init__(self) -> None:
        self.outcomes: list[Round] = []
        self.begun = threading.Event()
        self.hold = threading.Event()
        self.hold.set()

    def __call__(self) -> Round:
        self.begun.set()
        assert self.hold.wait(10)
        return self.outcomes.pop(0)


class Rig:
    """A controller whose time stands still."""

    def __init__(self) -> None:
        self.clock, self.task = HandClock(), Task()
        self.controller = RetryController("test", self.task, RetryPolicy(), self.clock)

    def wait(self) -> float | None:
        """Seconds until the next round."""
        due = self.controller.due
        return None if due is None else round(due - self.clock.now(), 6)

    def round(self, outcome: Round, after: float) -> float | None:
        """Let a round come after so many seconds, and not earlier; the wait for the next one."""
        before = self.controller.rounds
        self.task.outcomes.append(outcome)
        self.clock.advance(after - 0.001)
        assert self.controller.rounds == before
        self.clock.advance(0.001001)
        eventually(lambda: self.controller.rounds == before + 1)
        return self.wait()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    try:
        yield made
    finally:
        made.task.hold.set()
        made.controller.close()


def test_schedule(rig: Rig) -> None:
    """200 ms after the first failure, then 5 s, 10 s; 5 s again once something succeeded."""
    rig.controller.failed()
    assert rig.wait() == 0.2
    assert rig.round(STUCK, 0.2) == 5
    assert rig.round(STUCK, 5) == 10
    assert rig.round(BETTER, 10) == 5
    assert rig.round(DONE, 5) is None


def test_a_failure_brings_nothing_forward(rig: Rig) -> None:
    """A writer that fails again and again does not make rounds come more often."""
    rig.controller.failed()
    rig.round(STUCK, 0.2)
    for _ in range(10):
        rig.controller.failed()
    assert rig.wait() == 5


def test_hasten(rig: Rig) -> None:
    """What may help brings a round forward to 200 ms, and makes none where nothing waits."""
    rig.controller.hasten()
    assert rig.wait() is None
    rig.controller.failed()
    rig.round(STUCK, 0.2)
    rig.controller.hasten()
    assert rig.wait() == 0.2
    rig.clock.advance(0.1)
    rig.controller.hasten()
    assert rig.wait() == 0.1


@pytest.mark.parametrize(
    ("outcome", "call", "expected"),
    [(DONE, "failed", 0.2), (STUCK, "failed", 5), (STUCK, "hasten", 0.2), (DONE, "hasten", None)],
)
def test_meanwhile(rig: Rig, outcome: Round, call: str, expected: float | None) -> None:
    """What happens while a round runs is not lost, although the round may not have seen it."""
    rig.task.hold.clear()
    rig.task.outcomes.append(outcome)
    rig.controller.failed()
    rig.clock.advance(0.201)
    assert rig.task.begun.wait(10)
    getattr(rig.controller, call)()
    rig.task.hold.set()
    eventually(lambda: rig.controller.rounds == 1)
    assert rig.wait() == expected


def test_close(rig: Rig) -> None:
    """After close no round comes, whatever fails; closing again is fine."""
    rig.controller.failed()
    rig.controller.close()
    rig.controller.close()
    rig.controller.failed()
    assert rig.wait() is None
    assert not any(thread.name == "test" for thread in threading.enumerate())


def test_nothing_starts_before_it_is_needed() -> None:
    """A controller to which nothing failed has no thread."""
    controller = RetryController("idle", lambda: DONE, RetryPolicy(), SystemClock())
    assert not any(thread.name == "idle" for thread in threading.enumerate())
    controller.close()


def test_system_clock() -> None:
    """By the real clock a round comes after its wait, without anybody moving it."""
    clock, done = SystemClock(), threading.Event()

    def task() -> Round:
        done.set()
        return DONE

    controller = RetryController("real", task, RetryPolicy(first=0.02), clock)
    begun = clock.now()
    controller.failed()
    assert done.wait(10)
    assert clock.now() - begun >= 0.02
    controller.close()
