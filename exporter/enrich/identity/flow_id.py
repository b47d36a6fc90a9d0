"""
An id of each flow that every agent computes alike: the upper 63 bits of XXH64 of its key. OTLP's
integers have no 64th bit.

The octets that are hashed, 41 of them: source address and destination address (16 each, IPv4 as
::ffff/96), source port, destination port (of ICMP type and code), outer VLAN, inner VLAN (2 each,
in network order), protocol (1). Seed 0. Either direction is a flow, with an id of its own (RFC
7011); the time is not in it, so that all records of one flow have one id, nor is the interface.

Source: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md, XXH64.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from exporter.batch.attributes import Attribute
from exporter.batch.batch import U8, FlowBatch
from exporter.enrich.base import Local

FLOW_ID = Attribute(
    "flow.id", "Upper 63 bits of XXH64 of the flow key.", netobserv="FlowId", ipfix=148, number=True
)
LENGTH = 41
_MASK = (1 << 64) - 1
_PRIMES = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
_P1, _P2, _P3, _P4, _P5 = (np.uint64(prime) for prime in _PRIMES)
_STARTS = tuple(
    np.uint64(start & _MASK) for start in (_PRIMES[0] + _PRIMES[1], _PRIMES[1], 0, -_PRIMES[0])
)
#: Rows that are hashed together: their words stay in the CPU's cache.
_BLOCK = 16_384


class FlowId(Local):
    """Adds the id to every row."""

    name = "flow_id"
    requires: tuple[str, ...] = ("key",)
    provides: tuple[str, ...] = ("added",)
    attributes: tuple[Attribute, ...] = (FLOW_ID,)

    def apply(self, batch: FlowBatch) -> FlowBatch:
        """The batch with one column more: uint64."""
        ids = np.empty(len(batch), np.uint64)
        words = batch.key_words()
        for start in range(0, len(batch), _BLOCK):
            ids[start : start + _BLOCK] = flow_ids(words[start : start + _BLOCK])
        return replace(batch, added={**batch.added, FLOW_ID: ids})


def flow_ids(words: U8) -> U8:
    """
    Upper 63 bits of XXH64 of flow keys.

    Args:
        words: ``FlowBatch.key_words()``, shape (n, 6).

    Returns:
        uint64, shape (n,).
    """
    lanes = [_round(start, words[:, lane]) for lane, start in enumerate(_STARTS)]
    result = _rotated(lanes[0], 1)
    for lane, places in zip(lanes[1:], (7, 12, 18), strict=True):
        result += _rotated(lane, places)
    for lane in lanes:
        result ^= _round(np.uint64(0), lane)
        result *= _P1
        result += _P4
    result += np.uint64(LENGTH)
    result ^= _round(np.uint64(0), _ports_and_vlans(words))
    result = _rotated(result, 27)
    result *= _P1
    result += _P4
    result ^= (words[:, 5] >> np.uint64(48) & np.uint64(0xFF)) * _P5
    result = _rotated(result, 11)
    result *= _P1
    for places, prime in ((33, _P2), (29, _P3)):
        result ^= result >> np.uint64(places)
        result *= prime
    result ^= result >> np.uint64(32)
    return result >> np.uint64(1)


def _ports_and_vlans(words: U8) -> U8:
    """Ports and VLANs, each in network order, as one little-endian lane."""
    lane = words[:, 4] >> np.uint64(32) | (words[:, 5] & np.uint64(0xFFFFFFFF0000)) << np.uint64(16)
    return lane.view(np.uint16).byteswap().view(np.uint64)


def _round(start: np.uint64, lane: U8) -> U8:
    mixed = lane * _P2
    mixed += start
    mixed = _rotated(mixed, 31)
    mixed *= _P1
    return mixed


def _rotated(words: U8, places: int) -> U8:
    result = words >> np.uint64(64 - places)
    result |= words << np.uint64(places)
    return result
