"""
Protobuf by hand, for whole columns: tags, varints of a fixed width, length-delimited fields.

A varint may be longer than it must: continuation bits up to its last octet. So a number of any size
has the same place in every row.

Source: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Wire types.
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def varint(value: int, width: int = 0) -> bytes:
    """``value`` in base 128, least significant first, over-long up to ``width`` octets."""
    octets = bytearray()
    while value > 0x7F or len(octets) + 1 < width:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def tag(number: int, wire_type: int) -> bytes:
    """What a field begins with."""
    return varint(number << 3 | wire_type)


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return tag(number, LENGTH) + varint(len(payload)) + payload


def width(values: NDArray[Any]) -> int:
    """Octets of the largest value's varint; at least one value."""
    return len(varint(int(values.max())))


def varints(values: NDArray[Any], octets: int) -> NDArray[np.uint8]:
    """
    Base 128 at a fixed width.

    Args:
        values: Unsigned, shape (n,), below ``1 << 7 * octets``.
        octets: Of each.

    Returns:
        uint8, shape (n, octets).
    """
    wide = values.astype(np.uint64)
    result = np.empty((len(wide), octets), np.uint8)
    for place in range(octets):
        result[:, place] = wide >> np.uint64(7 * place)
    result[:, :-1] |= 0x80
    result[:, -1] &= 0x7F
    return result
