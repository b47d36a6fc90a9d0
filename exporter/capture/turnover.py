"""
Which observation points may be given to another interface.

A record names its point by a number for the namespace and an index. The kernel gives the index of
an interface that is gone to the next one, and the records of the first are still in the maps then.
So a place is free again only when everything that was counted there has been taken out and named.

Two drains after it was left, not one: what a drain could not read stays for the next but one, and
a drain that is under way when the place is left has already cut.
"""

from __future__ import annotations

import threading

_DRAINS = 2


class Turnover:
    """Places that interfaces have left, and for how many drains. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waits: dict[tuple[int, int], int] = {}

    def leave(self, place: tuple[int, int]) -> None:
        """
        Nothing is counted there any more.

        Args:
            place: Number of the namespace and ifindex.
        """
        with self._lock:
            self._waits[place] = _DRAINS + 1

    def is_free(self, place: tuple[int, int]) -> bool:
        """Whether no record that is not named yet can be of the place."""
        with self._lock:
            return place not in self._waits

    def drained(self) -> None:
        """A drain was taken out and named, all of it."""
        with self._lock:
            self._waits = {place: left - 1 for place, left in self._waits.items() if left > 1}

    def failed(self) -> None:
        """A drain was not: what it should have read comes later."""
        with self._lock:
            self._waits = dict.fromkeys(self._waits, _DRAINS + 1)

    def __len__(self) -> int:
        return len(self._waits)
