"""Which socket sent each flow: what the flow program noted when it made the flow's entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.abi.layout import FLOW_KEY, FLOW_OWNER
from exporter.batch.batch import FlowBatch
from exporter.batch.group import hash_words
from exporter.ebpf.maps import BatchCursor, Map

U8 = NDArray[np.uint64]

_ROWS = 8192
_16, _32, _LOW = np.uint64(16), np.uint64(32), np.uint64(0xFFFFFFFF)
#: Bit 0 of the direction in the last word of a key.
_DIRECTION = np.uint64(1 << 56)


@dataclass(frozen=True)
class Owned:
    """
    Entries of flows and their sockets, in no order.

    Args:
        words: uint64, shape (n, 7): the flow key as ``FlowBatch.key_words()``, then the entry's
            first packet, Unix ns.
        cookies: uint64, shape (n,): the socket's.
        cgroups: uint64, shape (n,): the id of its cgroup.
    """

    words: U8
    cookies: U8
    cgroups: U8

    def __len__(self) -> int:
        return len(self.cookies)


_NONE = Owned(np.empty((0, 7), np.uint64), np.empty(0, np.uint64), np.empty(0, np.uint64))


class OwnerReader:
    """
    Empties the map of owners after each swap of the flow maps.

    A flow that began again between the swap and the reading is read one drain too early: what the
    last reading found is kept for one more drain. Which entry of a flow an owner is of is known by
    the time of the entry's first packet, so that nothing can be taken for another.
    """

    def __init__(self) -> None:
        self._keys = np.empty(_ROWS, FLOW_KEY)
        self._values = np.empty(_ROWS, FLOW_OWNER)
        self._before = self._last = _NONE
        self._offset_ns = 0

    def read(self, owners: Map, offset_ns: int) -> None:
        """
        Take everything out.

        Args:
            owners: The map flow_owner.
            offset_ns: As of the flows that are read now.

        Raises:
            BpfError: If the kernel refuses.
        """
        found: list[Owned] = []
        cursor = BatchCursor()
        while not cursor.done:
            rows = owners.take_batch(self._keys, self._values, cursor)
            values = self._values[:rows]
            words = np.empty((rows, 7), np.uint64)
            words[:, :6] = self._keys[:rows].view(np.uint64).reshape(rows, 6)
            words[:, 6] = values["first_mono_ns"]
            found.append(Owned(words, values["cookie"].copy(), values["cgroup_id"].copy()))
        self._before, self._last = self._last, _joined(found)
        self._offset_ns = offset_ns

    def of(self, batch: FlowBatch) -> tuple[U8, U8]:
        """
        The socket that sent each row.

        Args:
            batch: Of the last drain.

        Returns:
            Cookie and cgroup id, uint64, shape (n,); 0 is unknown.
        """
        known = _joined([self._before, self._last])
        cookies, cgroups = np.zeros((2, len(batch)), np.uint64)
        if not len(known):
            return cookies, cgroups
        words = np.empty((len(batch), 7), np.uint64)
        words[:, :6] = batch.key_words()
        words[:, 6] = batch.flow_start_ns - np.uint64(self._offset_ns)
        at = matches(known.words, words)
        hit = at >= 0
        cookies[hit], cgroups[hit] = known.cookies[at[hit]], known.cgroups[at[hit]]
        return cookies, cgroups

    def opposite(self, batch: FlowBatch) -> tuple[U8, U8]:
        """
        As :meth:`of`, of the flow in the opposite direction at the same interface: whose socket
        gets the row's packets. Unknown if that flow had several sockets.
        """
        known = _joined([self._before, self._last])
        cookies, cgroups = np.zeros((2, len(batch)), np.uint64)
        if not len(known):
            return cookies, cgroups
        words = np.ascontiguousarray(known.words[:, :6])
        several = _several(words, known.cookies)
        at = matches(words, _opposite(batch.key_words()))
        hit = at >= 0
        hit[hit] = ~several[at[hit]]
        cookies[hit], cgroups[hit] = known.cookies[at[hit]], known.cgroups[at[hit]]
        return cookies, cgroups


def _opposite(words: U8) -> U8:
    """Keys of the flows in the other direction; see ``FlowBatch.key_words()``."""
    result = np.empty_like(words)
    result[:, 0:2], result[:, 2:4] = words[:, 2:4], words[:, 0:2]
    ports = words[:, 4] >> _32
    swapped = (ports >> _16 | ports << _16) & _LOW
    result[:, 4] = words[:, 4] & _LOW | swapped << _32
    result[:, 5] = words[:, 5] ^ _DIRECTION
    return result


def _several(words: U8, cookies: U8) -> NDArray[np.bool_]:
    """Which keys are there with different sockets; bool, shape (k,)."""
    hashes = hash_words(words)
    order = np.argsort(hashes, kind="stable")
    first = np.concatenate(([True], np.diff(hashes[order]) != 0))
    starts = np.flatnonzero(first)
    least = np.minimum.reduceat(cookies[order], starts)
    most = np.maximum.reduceat(cookies[order], starts)
    result = np.empty(len(words), np.bool_)
    result[order] = (least != most)[np.cumsum(first) - 1]
    return result


def matches(known: U8, wanted: U8) -> NDArray[np.int64]:
    """
    Where each row is among others.

    Args:
        known: uint64, shape (k, w), at least one row; where several are equal, any of them is
            meant.
        wanted: uint64, shape (n, w).

    Returns:
        int64, shape (n,): -1 is nowhere. A row whose hash is another's too may be missed.
    """
    hashes = hash_words(known)
    order = np.argsort(hashes)
    place = np.searchsorted(hashes[order], hash_words(wanted))
    at = order[np.minimum(place, len(order) - 1)]
    return np.where((known[at] == wanted).all(axis=1), at, -1)


def _joined(some: list[Owned]) -> Owned:
    if not some:
        return _NONE
    parts: Any = zip(*((one.words, one.cookies, one.cgroups) for one in some), strict=True)
    return Owned(*map(np.concatenate, parts))
