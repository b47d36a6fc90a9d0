"""
Columns as text, whole arrays at a time.

A cell is a fixed number of octets with the text somewhere in it, NUL where there is none: text
without its NULs is what the values are written as. No value's own text has a NUL.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: uint8, shape (n, width).
Cells = NDArray[np.uint8]

#: Widths of addresses.
IPV4_CELLS, IPV6_CELLS, MAC_CELLS = 15, 40, 17

_POWERS = np.array([10**power for power in range(1, 20)], np.uint64)
_TEN_THOUSAND = np.uint64(10_000)
_SECOND = np.uint64(1_000_000_000)
_DAY = np.uint64(86_400)
_COLON = ord(":")


def constant(text: bytes) -> Cells:
    """One cell, shape (1, width), which stands for every row."""
    return np.frombuffer(text, np.uint8).reshape(1, -1)


def table(texts: list[bytes]) -> Cells:
    """One cell for each text, shape (len(texts), longest text)."""
    width = max(map(len, texts), default=0)
    joined = b"".join(text.ljust(width, b"\0") for text in texts)
    return np.frombuffer(joined, np.uint8).reshape(len(texts), width)


def look_up(cells: Cells, numbers: NDArray[Any]) -> Cells:
    """The cells of a table that are asked for by number, shape (len(numbers), width)."""
    if not cells.shape[1]:
        return np.zeros((len(numbers), 0), np.uint8)
    # As one item each: a fourth of the time that rows of octets take.
    return _octets(_items(cells).take(numbers), cells.shape[1])


def decimals(values: NDArray[Any]) -> Cells:
    """
    Unsigned integers in decimal.

    Args:
        values: Of any unsigned dtype, shape (n,).
    """
    wide = values.astype(np.uint64)
    width = len(str(int(wide.max(initial=0))))
    cells = _zero_padded(wide, width)
    if width > 1:
        digits = np.searchsorted(_POWERS, wide, side="right") + 1
        cells *= np.arange(width) >= width - digits[:, np.newaxis]
    return cells


def times(unix_ns: NDArray[np.uint64]) -> Cells:
    """RFC 3339 in UTC with nanoseconds, shape (n, 30)."""
    cells = np.empty((len(unix_ns), 30), np.uint8)
    seconds = unix_ns // _SECOND
    days = seconds // _DAY
    cells[:, :10] = _dates(days)
    cells[:, 10] = ord("T")
    cells[:, 11:19] = look_up(_clock(), seconds - days * _DAY)
    cells[:, 19] = ord(".")
    cells[:, 20:29] = _zero_padded(unix_ns - seconds * _SECOND, 9)
    cells[:, 29] = ord("Z")
    return cells


def macs(octets: NDArray[np.uint8]) -> Cells:
    """
    MAC addresses with colons, shape (n, 17).

    Args:
        octets: uint8, shape (n, 6).
    """
    pairs = _hexadecimal()[octets].view(np.uint8)
    cells = np.full((len(octets), MAC_CELLS), _COLON, np.uint8)
    cells[:, 0::3], cells[:, 1::3] = pairs[:, 0::2], pairs[:, 1::2]
    return cells


def addresses(octets: NDArray[np.uint8], ipv4: NDArray[np.bool_]) -> Cells:
    """
    IPv4 in decimal, IPv6 as RFC 5952 writes it.

    Args:
        octets: uint8, shape (n, 16); IPv4 as ::ffff/96.
        ipv4: bool, shape (n,): which are IPv4.

    Returns:
        Shape (n, 15) if all are IPv4, else (n, 40).
    """
    if ipv4.all():
        return ipv4s(octets)
    if not ipv4.any():
        return ipv6s(octets)
    cells = np.zeros((len(octets), IPV6_CELLS), np.uint8)
    cells[ipv4, :IPV4_CELLS] = ipv4s(octets[ipv4])
    cells[~ipv4] = ipv6s(octets[~ipv4])
    return cells


def ipv4s(octets: NDArray[np.uint8]) -> Cells:
    """
    Dotted decimal, shape (n, 15).

    Args:
        octets: uint8, shape (n, 16), ::ffff/96.
    """
    numbers = octets[:, 12:].astype(np.intp)
    # The last one has no dot.
    numbers[:, 3] += 256
    return _octet_texts().take(numbers).view(np.uint8)[:, :IPV4_CELLS]


def ipv6s(octets: NDArray[np.uint8]) -> Cells:
    """
    Eight groups, each after its colon, of which the first needs none; the first longest run of two
    or more zero groups is ``::``. Shape (n, 40).

    Args:
        octets: uint8, shape (n, 16).

    Source: RFC 5952 section 4.
    """
    groups = np.ascontiguousarray(octets).view(">u2").astype(np.uint16)
    zeros = np.packbits(groups == 0, axis=1).reshape(-1)
    colons, shown, doubled = (column[zeros] for column in _runs())
    cells = np.zeros((len(octets), 8, 5), np.uint8)
    cells[:, :, 0] = colons * np.uint8(_COLON)
    digits = _group_texts()[groups]
    cells[:, :, 1:] = (digits * shown).view(np.uint8).reshape(-1, 8, 4)
    cells[:, :, 1] |= doubled * np.uint8(_COLON)
    return cells.reshape(-1, IPV6_CELLS)


def compact(cells: Cells) -> bytes:
    """All cells one after the other, without what is empty in them."""
    # One pass over the octets: measured 0.4 ns each, as the empty ones stand together.
    return cells.tobytes().translate(None, b"\0")


@functools.cache
def _runs() -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """
    By which groups are zero, first group in the highest bit: where there is a colon before a group,
    whether a group is shown, and where ``::`` has its second colon; each of shape (256, 8).
    """
    colons = np.ones((256, 8), np.uint8)
    shown = np.ones((256, 8), np.uint32)
    doubled = np.zeros((256, 8), np.uint8)
    colons[:, 0] = 0
    for zeros in range(256):
        start, length = _longest_run(f"{zeros:08b}")
        if length > 1:
            shown[zeros, start : start + length] = 0
            colons[zeros, start : start + length + 1] = 0
            colons[zeros, start] = doubled[zeros, start] = 1
    return colons, shown, doubled


def _longest_run(zeros: str) -> tuple[int, int]:
    """Where the first longest run of ones begins, and how long it is."""
    length = max(map(len, zeros.split("0")))
    return zeros.index("1" * length), length


def _zero_padded(values: NDArray[np.uint64], width: int) -> Cells:
    """The last ``width`` decimal digits."""
    fours = -(-width // 4)
    cells = np.empty((len(values), fours), np.uint32)
    rest = values
    for place in range(fours - 1, 0, -1):
        higher = rest // _TEN_THOUSAND
        cells[:, place] = _four_digits()[rest - higher * _TEN_THOUSAND]
        rest = higher
    cells[:, 0] = _four_digits()[rest]
    return cells.view(np.uint8)[:, 4 * fours - width :]


def _dates(days: NDArray[np.uint64]) -> Cells:
    """Year, month and day of days since 1970, shape (n, 10) or (1, 10)."""
    if len(days) and days.min() == days.max():
        days = days[:1]
    different, numbers = np.unique(days, return_inverse=True)
    texts = [str(day).encode() for day in different.astype("datetime64[D]")]
    return look_up(table(texts), numbers)


@functools.cache
def _clock() -> Cells:
    """Hours, minutes and seconds of every second of a day, shape (86400, 8)."""
    return table([b"%02d:%02d:%02d" % (s // 3600, s // 60 % 60, s % 60) for s in range(86_400)])


@functools.cache
def _four_digits() -> NDArray[np.uint32]:
    """Zero to 9999 with leading zeros."""
    return _items(table([b"%04d" % number for number in range(10_000)]), np.uint32)


@functools.cache
def _hexadecimal() -> NDArray[np.uint16]:
    return _items(table([b"%02x" % octet for octet in range(256)]), np.uint16)


@functools.cache
def _octet_texts() -> NDArray[np.uint32]:
    """Octets in decimal with a dot after them, then without."""
    texts = [b"%d." % n for n in range(256)] + [b"%d" % n for n in range(256)]
    return _items(table([text.ljust(4, b"\0") for text in texts]), np.uint32)


@functools.cache
def _group_texts() -> NDArray[np.uint32]:
    """Groups of an IPv6 address in hexadecimal, without leading zeros."""
    return _items(table([b"%x" % group for group in range(65_536)]), np.uint32)


def _items(cells: Cells, dtype: Any = None) -> NDArray[Any]:
    """Each cell as one item."""
    kind = np.dtype(f"V{cells.shape[1]}") if dtype is None else dtype
    return np.ascontiguousarray(cells).view(kind).reshape(-1)


def _octets(items: NDArray[Any], width: int) -> Cells:
    return items.view(np.uint8).reshape(len(items), width)
