"""Flow keys as pairs of ends: both directions of a connection are found together."""

from __future__ import annotations

import numpy as np

from exporter.batch.batch import U8
from exporter.batch.group import hash_words

#: Keys that are hashed together: their words stay in the CPU's cache.
_BLOCK = 8192
_16, _32, _48 = np.uint64(16), np.uint64(32), np.uint64(48)
_LOW, _PORT = np.uint64(0xFFFFFFFF), np.uint64(0xFFFF)
#: Bit 0 of the direction in the last word of a key.
DIRECTION = np.uint64(1 << 56)


def hash_ends(words: U8) -> tuple[U8, U8]:
    """
    A hash of the source's address and port, and the destination's likewise: equal ends have equal
    hashes, wherever they stand.

    Args:
        words: ``FlowBatch.key_words()``, uint64, shape (n, 6).

    Returns:
        uint64, shape (n,) each.
    """
    sources, destinations = np.empty((2, len(words)), np.uint64)
    end = np.empty((min(_BLOCK, len(words)), 3), np.uint64)
    for start in range(0, len(words), _BLOCK):
        some = words[start : start + _BLOCK]
        block = slice(start, start + len(some))
        one = end[: len(some)]
        one[:, :2], one[:, 2] = some[:, 0:2], some[:, 4] >> _32 & _PORT
        sources[block] = hash_words(one)
        one[:, :2], one[:, 2] = some[:, 2:4], some[:, 4] >> _48
        destinations[block] = hash_words(one)
    return sources, destinations


def hash_flows(words: U8) -> U8:
    """
    A hash of whole flow keys, the same for the flow in the other direction at the same interface.

    Args:
        words: ``FlowBatch.key_words()``, uint64, shape (n, 6).

    Returns:
        uint64, shape (n,).
    """
    source, destination = hash_ends(words)
    # Both differ in the direction. Ends that are one and the same leave it to the interface.
    last = words[:, 5] ^ (source > destination) * DIRECTION
    last[source == destination] &= ~DIRECTION
    both = np.empty((len(words), 3), np.uint64)
    np.add(source, destination, out=both[:, 0])
    np.bitwise_and(words[:, 4], _LOW, out=both[:, 1])
    both[:, 2] = last
    return hash_words(both)


def opposite(words: U8) -> U8:
    """Keys of the flows in the other direction, as ``words``."""
    result = np.empty_like(words)
    result[:, 0:2], result[:, 2:4] = words[:, 2:4], words[:, 0:2]
    ports = words[:, 4] >> _32
    swapped = (ports >> _16 | ports << _16) & _LOW
    result[:, 4] = words[:, 4] & _LOW | swapped << _32
    result[:, 5] = words[:, 5] ^ DIRECTION
    return result
