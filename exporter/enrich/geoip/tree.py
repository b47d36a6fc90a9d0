"""
The search tree of a MaxMind DB, walked for many addresses at once: a step for each bit, not each
address.

maxminddb walks it for one address at a time, and decodes the record of each. Here only the place of
the record is found; who has seen it before need not decode it.

Source: MaxMind DB File Format Specification 2.0, "Binary Search Tree Section".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import U1, U8
from exporter.batch.group import distinct

#: What an IPv6 tree has IPv4 addresses under: ::/96.
_PREFIX_BITS = 96
#: Octets of addresses that are walked together. Many addresses of a batch are of few /16, /64.
_PARTS4, _PARTS6 = (2, 2), (4, 4, 6, 2)


class Tree:
    """
    Never changes.

    Args:
        file: The whole database.
        node_count: Of its metadata, as the others.
        record_size: Bits: 24, 28 or 32.
        ip_version: 4 or 6.

    Raises:
        ValueError: If the file is too short for its nodes, or its records are of another size.
    """

    def __init__(self, file: Any, node_count: int, record_size: int, ip_version: int) -> None:
        if record_size not in (24, 28, 32):
            raise ValueError(f"records of {record_size} bits")
        self._size = record_size
        self._stride = record_size // 4
        self._count = node_count
        self._ip_version = ip_version
        if node_count <= 0 or node_count * self._stride + 4 > len(file):
            raise ValueError("it is cut short")
        # A big-endian word at every octet: overlapping, so that a record is one access.
        self._words: NDArray[Any] = np.ndarray(
            (node_count * self._stride + 1,), ">u4", file, 0, (1,)
        )
        self._start4 = self._ipv4_start() if ip_version == 6 else 0

    def find(self, octets: U1, ipv4: NDArray[np.bool_]) -> NDArray[np.int64]:
        """
        Where in the file's data section each address's record is.

        Args:
            octets: uint8, shape (u, 16); IPv4 as ::ffff/96.
            ipv4: bool, shape (u,): which are IPv4.

        Returns:
            int64, shape (u,): the record's number, equal for addresses that share one; 0 for none.
        """
        found = np.zeros(len(octets), np.int64)
        found[ipv4] = self._walk(octets[ipv4, 12:], self._start4, _PARTS4)
        if self._ip_version == 6:
            found[~ipv4] = self._walk(octets[~ipv4], 0, _PARTS6)
        found[found <= self._count] = 0
        return found

    def _walk(self, octets: U1, start: int, parts: tuple[int, ...]) -> NDArray[np.int64]:
        """
        What the tree has for addresses.

        Args:
            octets: uint8, shape (u, 4) or (u, 16).
            start: Node that all begin at.
            parts: Octets that are walked together, in all as many as an address has.
        """
        nodes = np.full(len(octets), start, np.int64)
        at = 0
        for size in parts:
            rows = np.flatnonzero(nodes < self._count)
            if not len(rows):
                break
            # What many addresses have in common is walked once for all of them.
            part = np.zeros((len(rows), 8), np.uint8)
            part[:, 8 - size :] = octets[rows, at : at + size]
            words = np.column_stack((nodes[rows].view(np.uint64), part.view(">u8").reshape(-1)))
            first, numbers = distinct(words)
            one_each = words.take(first, axis=0)
            ends = self._steps(one_each[:, 0].astype(np.int64), one_each[:, 1], 8 * size)
            nodes[rows] = ends.take(numbers)
            at += size
        return nodes

    def _steps(self, nodes: NDArray[np.int64], path: U8, count: int) -> NDArray[np.int64]:
        """So many steps from each node, or until it is none: the lowest bits of ``path``."""
        found = nodes.copy()
        rows = np.arange(len(nodes))
        for bit in range(count - 1, -1, -1):
            nodes = self._record(nodes, path >> np.uint64(bit) & np.uint64(1))
            ended = nodes >= self._count
            if ended.any():
                found[rows[ended]] = nodes[ended]
                rows, nodes, path = rows[~ended], nodes[~ended], path[~ended]
                if not len(rows):
                    break
        found[rows] = nodes
        return found

    def _record(self, nodes: NDArray[np.int64], sides: U8) -> NDArray[np.int64]:
        """What stands on one side of each node."""
        places = nodes * self._stride
        which = sides.view(np.int64)
        if self._size == 28:
            # The middle octet has the highest bits of both.
            words = self._words.take(places + which * 3).astype(np.int64)
            left = words >> 8 | (words & 0xF0) << 20
            return np.where(which == 0, left, words & 0x0FFFFFFF)
        words = self._words.take(places + which * (self._stride // 2)).astype(np.int64)
        return words >> 8 if self._size == 24 else words

    def _ipv4_start(self) -> int:
        node = 0
        for _ in range(_PREFIX_BITS):
            if node >= self._count:
                break
            node = int(self._record(np.array([node]), np.zeros(1, np.uint64))[0])
        return node
