"""
Addresses as text, whole columns at a time, as cells and a mask of those that a row has.

Source: RFC 5952 (IPv6; the first of the longest runs of two or more zero groups is ``::``).
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from exporter.sinks.encodings.ragged import Cells, Mask

IPV4_CELLS, IPV6_CELLS, MAC_CELLS = 16, 56, 17

_GROUPS = 8
_COLON = ord(":")


def _words(texts: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Texts of four octets at most, and their masks, four to a word."""
    cells = np.array([text.encode() for text in texts], "S4").view(np.uint32)
    masks = np.frombuffer(cells.tobytes(), np.uint8) != 0
    return cells, masks.view(np.uint32)


# Made when they are first needed: 20 ms that an agent without such a sink has no use for.


@functools.cache
def _octets() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """``0.`` to ``255.``, then without the dot."""
    return _words([f"{n}." for n in range(256)] + [str(n) for n in range(256)])


@functools.cache
def _groups() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """``0`` to ``ffff``."""
    return _words([f"{n:x}" for n in range(1 << 16)])


@functools.cache
def _hex_pairs() -> NDArray[np.uint16]:
    """``00`` to ``ff``."""
    return np.array([f"{n:02x}".encode() for n in range(256)], "S2").view(np.uint16)


def ipv4_cells(addresses: NDArray[np.uint8]) -> tuple[Cells, Mask]:
    """
    Dotted decimal.

    Args:
        addresses: uint8, shape (n, 16), ::ffff/96.

    Returns:
        Cells and mask, shape (n, 16).
    """
    octets = addresses[:, 12:].astype(np.intp)
    octets[:, 3] += 256
    texts, masks = _octets()
    return texts.take(octets).view(np.uint8), masks.take(octets).view(np.bool_)


def ipv6_cells(addresses: NDArray[np.uint8]) -> tuple[Cells, Mask]:
    """
    As RFC 5952 wants it.

    Args:
        addresses: uint8, shape (n, 16).

    Returns:
        Cells and mask, shape (n, 56): for each group a colon, two colons, four digits.
    """
    rows = len(addresses)
    groups = np.ascontiguousarray(addresses).view(">u2").astype(np.intp)
    inside, start = _zeros(groups)
    cells = np.full((rows, _GROUPS, 7), _COLON, np.uint8)
    mask = np.empty((rows, _GROUPS, 7), np.bool_)
    texts, masks = _groups()
    cells[:, :, 3:] = texts.take(groups).view(np.uint8).reshape(rows, _GROUPS, 4)
    digits = masks.take(groups).view(np.bool_).reshape(rows, _GROUPS, 4)
    mask[:, :, 3:] = digits & ~inside[:, :, np.newaxis]
    mask[:, 0, 0] = False
    mask[:, 1:, 0] = ~inside[:, 1:] & ~inside[:, :-1]
    mask[:, :, 1:3] = (np.arange(_GROUPS) == start[:, np.newaxis])[:, :, np.newaxis]
    return cells.reshape(rows, IPV6_CELLS), mask.reshape(rows, IPV6_CELLS)


def mac_cells(macs: NDArray[np.uint8]) -> Cells:
    """
    ``02:00:00:00:00:01``.

    Args:
        macs: uint8, shape (n, 6).

    Returns:
        Cells, shape (n, 17); a row has all of them.
    """
    cells = np.full((len(macs), 6, 3), _COLON, np.uint8)
    cells[:, :, :2] = _hex_pairs().take(macs.astype(np.intp)).view(np.uint8).reshape(-1, 6, 2)
    return cells.reshape(-1, 18)[:, :MAC_CELLS]


def _zeros(groups: NDArray[np.intp]) -> tuple[Mask, NDArray[np.intp]]:
    """The groups that ``::`` stands for, shape (n, 8), and the first of them; 8 for none."""
    runs = np.zeros((len(groups), _GROUPS + 1), np.intp)
    for group in reversed(range(_GROUPS)):
        runs[:, group] = (runs[:, group + 1] + 1) * (groups[:, group] == 0)
    start = runs.argmax(axis=1)
    length = runs.max(axis=1)
    start[length < 2] = _GROUPS
    index = np.arange(_GROUPS)
    begin = start[:, np.newaxis]
    return (index >= begin) & (index < begin + length[:, np.newaxis]), start
