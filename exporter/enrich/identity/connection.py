"""Flows as connections: both directions are the same, and which of them a row is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import U8

_16, _48 = np.uint64(16), np.uint64(48)


@dataclass(frozen=True)
class Connections:
    """
    Rows with their ends in order: the lower address first, of equal ones the lower port.

    Args:
        low, high: uint64, shape (n, 2): the ends' addresses, as their octets are in memory.
        ports: uint64, shape (n,): the low end's port at bit 16, the high end's at bit 0.
        protocol: uint64, shape (n,).
        flipped: bool, shape (n,): the source is the high end.
    """

    low: U8
    high: U8
    ports: U8
    protocol: U8
    flipped: NDArray[np.bool_]

    def words(self) -> U8:
        """For hashing and comparing, uint64, shape (n, 5)."""
        last = self.ports | self.protocol << np.uint64(32)
        return np.column_stack((self.low, self.high, last))


def connections(
    words: U8,
    first: NDArray[np.uint64] | None = None,
    second: NDArray[np.uint64] | None = None,
    one_way: NDArray[np.bool_] | None = None,
) -> Connections:
    """
    Bring the ends of every row into order.

    Args:
        words: ``FlowBatch.key_words()``, shape (n, 6).
        first: uint64, shape (n,): what stands for the source port.
        second: Likewise, for the destination port.
        one_way: bool, shape (n,): rows that stay as they are.
    """
    ports = words[:, 4] >> np.uint64(32)
    first = ports & np.uint64(0xFFFF) if first is None else first
    second = ports >> _16 if second is None else second
    flipped = _greater(words, first, second)
    if one_way is not None:
        flipped &= ~one_way
    swap = flipped[:, np.newaxis]
    source, destination = words[:, 0:2], words[:, 2:4]
    return Connections(
        low=np.where(swap, destination, source),
        high=np.where(swap, source, destination),
        ports=np.where(flipped, second << _16 | first, first << _16 | second),
        protocol=words[:, 5] >> _48 & np.uint64(0xFF),
        flipped=flipped,
    )


def _greater(words: U8, first: U8, second: U8) -> NDArray[np.bool_]:
    """Whether the source is after the destination, octet by octet, then by port."""
    result = first > second
    for column in (1, 0):
        one, other = words[:, column].byteswap(), words[:, column + 2].byteswap()
        result = (one > other) | ((one == other) & result)
    return result
