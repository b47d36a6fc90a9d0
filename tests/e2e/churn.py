"""Addresses that change hands all the time, as in a cluster that is being deployed to."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.e2e.cluster import Cluster, Owner, Pod
from tests.e2e.kubeclient import Refused


class Churn:
    """
    A thread that moves, hands over, finishes, deletes and makes pods.

    Args:
        cluster: Whose they are.
        pods: To begin with; their addresses change hands, no other is used.
        owners: Of pods that are made.
        seed: Which pod is next, and what happens to it.
        pause: Seconds between two changes.
        cooldown: Seconds that an address is nobody's, as network plugins wait for the sake of
            packets that are on the way; zero for pods that follow each other at once, too.
    """

    def __init__(
        self,
        cluster: Cluster,
        pods: Sequence[Pod],
        owners: Sequence[Owner | str],
        *,
        seed: int = 1,
        pause: float = 0.0,
        cooldown: float = 0.0,
    ) -> None:
        assert all(pod.holds for pod in pods), "the host's network does not change hands"
        self.live = list(pods)
        self.done: Counter[str] = Counter()
        #: Changes that a server, going away, did not answer: nobody knows whether they happened.
        self.lost = 0
        self.error: BaseException | None = None
        self._cluster = cluster
        self._owners = owners
        self._random = random.Random(seed)
        self._pause = pause
        self._made = 0
        self._cooldown = cooldown
        #: Pods that are gone, whose addresses others may have, and since when they may.
        self._free: list[tuple[float, Pod]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="churn")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
        if self.error is not None and error is None:
            raise self.error

    def _run(self) -> None:
        at_once = () if self._cooldown else (self._move, self._move, self._hand_over)
        changes: tuple[Callable[[], None], ...] = (self._finish, self._delete, *at_once)
        try:
            while not self._stopped.wait(self._pause):
                # What is free is half of the time taken first: else all would be free at last.
                is_free = bool(self._free) and self._free[0][0] < time.monotonic()
                reuses = is_free and (not self.live or self._random.random() < 0.5)
                if not reuses and not self.live:
                    continue
                change = self._reuse if reuses else self._random.choice(changes)
                try:
                    change()
                    self.done[change.__name__.strip("_")] += 1
                except ConnectionError:
                    self.lost += 1
                    self._wait_for_server()
        except BaseException as err:  # noqa: BLE001 - raised again by the thread that waits
            self.error = err

    def _wait_for_server(self) -> None:
        while not self._stopped.wait(0.1):
            with suppress(ConnectionError, Refused):
                # Not before it knows whom it lets do this.
                self._cluster.namespaces("default")
                return

    def _take(self) -> Pod:
        """Some pod, which is nobody's any more until it is given back."""
        return self.live.pop(self._random.randrange(len(self.live)))

    def _new(self) -> tuple[Owner | str, str]:
        self._made += 1
        return self._random.choice(self._owners), f"churn-{self._made}"

    def _move(self) -> None:
        self.live.append(self._cluster.move(self._take(), *self._new()))

    def _hand_over(self) -> None:
        self.live.append(self._cluster.hand_over(self._take(), *self._new()))

    def _finish(self) -> None:
        pod = self._take()
        self._cluster.finish(pod)
        self._free.append((time.monotonic() + self._cooldown, pod))

    def _delete(self) -> None:
        pod = self._take()
        self._cluster.delete(pod)
        self._free.append((time.monotonic() + self._cooldown, pod))

    def _reuse(self) -> None:
        _, gone = self._free.pop(0)
        owner, name = self._new()
        made = self._cluster.make_pod(owner, name, gone.addresses, gone.node)
        self.live.append(made)
