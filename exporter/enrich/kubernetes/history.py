"""
Who had an address when, as far as one can know.

What the API says is late, and by how much is not said. So each time that something held an address
has two beginnings and two ends: *sure* is when nobody else can have had it, *possible* when it may
have. A flow is given to who surely had the address all the while; else to the only one that can
have had it, if that was there when the flow began; else to nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import U8

#: An end that is not there yet, and what is later than any flow: ns.
FOREVER = (1 << 63) - 1

I8 = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Hold:
    """
    One object's time with one address. Unix ns, bounds belong to it.

    Args:
        slot: Number of the object.
        possible_from: It did not have it before.
        there_from: The object was there, though it may not have had the address yet.
        sure_from: It has it since then at the latest.
        before: Another's time with the same address: earlier, or at the same time.
    """

    __slots__ = (
        "before",
        "possible_from",
        "possible_to",
        "slot",
        "sure_from",
        "sure_to",
        "there_from",
    )

    def __init__(
        self,
        slot: int,
        possible_from: int,
        there_from: int,
        sure_from: int,
        before: Hold | None = None,
    ) -> None:
        self.slot = slot
        self.possible_from = min(possible_from, sure_from)
        self.there_from = min(there_from, sure_from)
        self.sure_from = sure_from
        self.sure_to = FOREVER
        self.possible_to = FOREVER
        self.before = before

    @property
    def lasts(self) -> bool:
        """Whether it has not ended."""
        return self.possible_to == FOREVER

    def end(self, sure_to: int, possible_to: int) -> None:
        """It did not have it after ``possible_to``; it had it until ``sure_to`` at least."""
        self.sure_to = sure_to
        self.possible_to = max(possible_to, self.possible_from)


def chain(newest: Hold | None) -> list[Hold]:
    """All times with one address, the one that was learned last first."""
    found = []
    while newest is not None:
        found.append(newest)
        newest = newest.before
    return found


@dataclass(frozen=True)
class Holds:
    """
    The times of m addresses, at most k for each.

    Args:
        slots: int64, shape (m, k): 0 where there is none.
        bounds: int64, shape (5, m, k): possible_from, there_from, sure_from, sure_to, possible_to.
    """

    slots: I8
    bounds: I8

    def decide(self, which: I8, start_ns: U8, end_ns: U8) -> tuple[I8, int]:
        """
        Who had the address of each flow.

        Args:
            which: int64, shape (r,): number of the address.
            start_ns: uint64, shape (r,): of the flow, Unix ns.
            end_ns: Likewise.

        Returns:
            Slots, int64, shape (r,), 0 for nobody that is known; and how many of the flows more
            than one can have had.
        """
        start = np.minimum(start_ns, FOREVER).astype(np.int64)
        end = np.maximum(np.minimum(end_ns, FOREVER).astype(np.int64), start)
        sure, sures = np.zeros(len(which), np.int64), np.zeros(len(which), np.int64)
        only, others = np.zeros_like(sure), np.zeros_like(sure)
        for number in range(self.slots.shape[1]):
            slot = self.slots[which, number]
            bounds = self.bounds[:, which, number]
            possible_from, there_from, sure_from, sure_to, possible_to = bounds
            there = slot != 0
            is_sure = there & (sure_from <= start) & (end <= sure_to)
            sure[is_sure] = slot[is_sure]
            sures += is_sure
            overlaps = there & (possible_from <= end) & (start <= possible_to)
            others += overlaps
            begins = overlaps & (there_from <= start)
            only[begins] = slot[begins]
        only[others != 1] = 0
        chosen = np.where(sures == 1, sure, np.where(sures == 0, only, 0))
        doubtful = int(((others > 1) & (chosen == 0)).sum())
        return chosen, doubtful


def holds_of(chains: list[list[Hold]]) -> Holds:
    """The times of addresses as arrays; each has one at least."""
    width = max(map(len, chains), default=1)
    slots = np.zeros((len(chains), width), np.int64)
    bounds = np.zeros((5, len(chains), width), np.int64)
    for row, times in enumerate(chains):
        for column, one in enumerate(times):
            slots[row, column] = one.slot
            bounds[:, row, column] = (
                one.possible_from,
                one.there_from,
                one.sure_from,
                one.sure_to,
                one.possible_to,
            )
    return Holds(slots, bounds)
