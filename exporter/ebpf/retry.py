"""
When to try again what failed, and the thread that does.

The policy is arithmetic, the clock can be replaced: tests of either take no seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

#: Doublings after which any cap has been reached.
_MAX_DOUBLINGS = 32


class Clock(Protocol):
    """A time that can be waited for."""

    def now(self) -> float:
        """Seconds since some moment, never running backwards."""

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        """Wait on a condition that the caller holds, so long at most; ``None`` for ever."""


class SystemClock:
    """CLOCK_MONOTONIC."""

    def now(self) -> float:
        """Seconds, CLOCK_MONOTONIC."""
        return time.monotonic()

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        """Wait on a condition."""
        condition.wait(seconds)


@dataclass(frozen=True)
class RetryPolicy:
    """
    When a round of retries follows another.

    Args:
        first: Seconds from the first failure to the first round. 0.2 lets failures that come
            together be tried together; the ancestor's number.
        interval: Seconds after the first round in vain. The ancestor's number.
        growth: Whether the wait grows by an interval, or to its double, for each further round in
            vain. The ancestor's comment says exponential and its code is linear.
        cap: Seconds; no wait is longer. The ancestor has none.
        max_errors: A round ends after so many failures: each costs a system call, and what made
            them fail is likely to hold for the rest. The ancestor's number.
    """

    first: float = 0.2
    interval: float = 5.0
    growth: Literal["linear", "exponential"] = "linear"
    cap: float = 60.0
    max_errors: int = 512

    def delay(self, rounds_in_vain: int) -> float:
        """Seconds to wait after so many rounds in vain, one after the other."""
        if rounds_in_vain == 0:
            return min(self.first, self.cap)
        if self.growth == "linear":
            return min(self.interval * rounds_in_vain, self.cap)
        return min(self.interval * 2.0 ** min(rounds_in_vain - 1, _MAX_DOUBLINGS), self.cap)


@dataclass(frozen=True)
class Round:
    """
    Outcome of one round: how many succeeded, how many failed, and how many are left to be tried
    again, with those that failed.
    """

    succeeded: int
    failed: int
    left: int


class RetryController:
    """
    Runs rounds in a thread of its own, which is started when something first fails.

    Args:
        name: Of the thread.
        task: One round. Called without any lock held.
        policy: When.
        clock: By which time.
    """

    def __init__(
        self, name: str, task: Callable[[], Round], policy: RetryPolicy, clock: Clock
    ) -> None:
        self.rounds = 0
        self._name = name
        self._task = task
        self._policy = policy
        self._clock = clock
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._running = False
        self._due: float | None = None
        self._failed_meanwhile = False
        self._hastened_meanwhile = False
        self._in_vain = 0

    @property
    def due(self) -> float | None:
        """When the next round begins, by the clock; ``None`` if nothing is to be done."""
        return self._due

    def failed(self) -> None:
        """
        Something failed: a round shall come. One that is due already is not brought forward, or a
        writer that fails all the time would keep the thread busy.
        """
        with self._changed:
            if self._running:
                self._failed_meanwhile = True
            elif self._due is None:
                self._schedule(self._policy.delay(0))

    def hasten(self) -> None:
        """Something changed that may help what failed: do not wait longer than at first."""
        with self._changed:
            if self._running:
                self._hastened_meanwhile = True
            elif self._due is not None:
                wait = self._policy.delay(0)
                if self._due > self._clock.now() + wait:
                    self._schedule(wait)

    def close(self) -> None:
        """No more rounds; waits for one that runs. Again is fine."""
        with self._changed:
            self._closed = True
            self._due = None
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _schedule(self, seconds: float) -> None:
        if self._closed:
            return
        self._due = self._clock.now() + seconds
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while self._wait_until_due():
            outcome = self._task()
            self._settle(outcome)

    def _wait_until_due(self) -> bool:
        """False when closed."""
        with self._changed:
            while not self._closed:
                wait = None if self._due is None else self._due - self._clock.now()
                if wait is not None and wait <= 0:
                    self._due = None
                    self._running = True
                    self._failed_meanwhile = self._hastened_meanwhile = False
                    return True
                self._clock.wait(self._changed, wait)
            return False

    def _settle(self, outcome: Round) -> None:
        with self._changed:
            self._running = False
            self.rounds += 1
            if not outcome.left:
                self._in_vain = 0
            else:
                self._in_vain = 1 if outcome.succeeded else self._in_vain + 1
            # What failed while the round ended is not in its count.
            if outcome.left or self._failed_meanwhile:
                soon = self._hastened_meanwhile or not outcome.left
                self._schedule(self._policy.delay(0 if soon else self._in_vain))
