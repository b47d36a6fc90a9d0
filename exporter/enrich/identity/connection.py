"""Flows as connections: both directions are the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import U8

_16, _32, _48 = np.uint64(16), np.uint64(32), np.uint64(48)
_OCTET = np.uint64(0xFF)


def connections(
    words: U8,
    first: NDArray[np.uint64],
    second: NDArray[np.uint64],
    one_way: NDArray[np.int64],
    out: U8,
) -> None:
    """
    Bring the ends of every row into order: the lower address first, of equal ones the lower port.

    Args:
        words: ``FlowBatch.key_words()``, shape (n, 6).
        first: uint64, shape (n,): what stands for the source port.
        second: Likewise, for the destination port.
        one_way: Numbers of rows that stay as they are.
        out: uint64, shape (n, 5): both addresses as their octets are in memory; then the first
            end's port at bit 16, the second's at bit 0, and the protocol at bit 32.
    """
    flipped = _greater(words, first, second)
    flipped[one_way] = False
    # All ones where the ends change places.
    swap = np.uint64(0) - flipped.astype(np.uint64)
    for column in (0, 1):
        source, destination = words[:, column], words[:, column + 2]
        both = source ^ destination
        both &= swap
        np.bitwise_xor(source, both, out=out[:, column])
        np.bitwise_xor(destination, both, out=out[:, column + 2])
    both = first ^ second
    both &= swap
    protocol = words[:, 5] >> _48 & _OCTET
    out[:, 4] = protocol << _32 | (first ^ both) << _16 | second ^ both


def _greater(words: U8, first: U8, second: U8) -> NDArray[np.bool_]:
    """Whether the source is after the destination, octet by octet, then by port."""
    result = first > second
    for column in (1, 0):
        one, other = words[:, column].byteswap(), words[:, column + 2].byteswap()
        result = (one > other) | ((one == other) & result)
    return result
