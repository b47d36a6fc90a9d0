"""
The Community ID of flows, version 1: one text for both directions, equal in every tool that has it.

Source: https://github.com/corelight/community-id-spec. ICMP's types take the places of ports, a
request's and its reply's for each other, as Zeek has it; a type without counterpart is one-way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.batch.attributes import Attribute
from exporter.batch.batch import U8, FlowBatch
from exporter.batch.group import distinct
from exporter.batch.record import ICMP, ICMPV6
from exporter.enrich.base import Local
from exporter.enrich.identity.connection import connections
from exporter.enrich.identity.sha1 import sha1

COMMUNITY_ID = Attribute(
    "network.community_id", "Community ID v1, the same for both directions.", "CommunityId"
)
#: Rows that are hashed together: their words stay in the CPU's cache. Measured: 8192 rows take 15 %
#: longer, more than 16384 no less.
_BLOCK = 16_384
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
#: Types that answer each other. Source: Zeek, src/packet_analysis/protocol/icmp/ICMP.cc.
_PAIRS = {
    1: ((8, 0), (13, 14), (15, 16), (10, 9), (17, 18)),
    58: ((128, 129), (130, 131), (133, 134), (135, 136), (139, 140), (144, 145)),
}
_WITH_PORTS = (1, 6, 17, 58, 132)
_WORD = np.uint64(0xFFFFFFFF)
#: Second word of an IPv4 address, as far as it is the same in all.
_MAPPED = np.uint64(0xFFFF0000)


def _counterparts() -> NDArray[np.int16]:
    """The type that answers a type, shape (256, 256) of protocol and type; -1 for none."""
    table = np.full((256, 256), -1, np.int16)
    for protocol, pairs in _PAIRS.items():
        for one, other in pairs:
            table[protocol, one], table[protocol, other] = other, one
    return table


_COUNTERPARTS = _counterparts()
_HAS_PORTS = np.isin(np.arange(256), _WITH_PORTS)


class CommunityId(Local):
    """
    Adds the Community ID to every row.

    Args:
        seed: 0 to 65535.
        base64: As the standard has it; else hexadecimal.
    """

    name = "community_id"
    requires: tuple[str, ...] = ("key",)
    provides: tuple[str, ...] = ("added",)
    attributes: tuple[Attribute, ...] = (COMMUNITY_ID,)

    def __init__(self, seed: int = 0, *, base64: bool = True) -> None:
        self._seed = seed
        self._text, self._dtype = (_base64, "S30") if base64 else (_hexadecimal, "S42")

    def apply(self, batch: FlowBatch) -> FlowBatch:
        """The batch with one column more: ``S30``, or ``S42`` in hexadecimal."""
        keys = batch.key_words()
        tuples = np.empty((len(keys), 5), np.uint64)
        for start in range(0, len(keys), _BLOCK):
            some = slice(start, start + _BLOCK)
            _canonical(keys[some], tuples[some])
        # Both directions of a flow are equal by now, and are hashed once.
        first, numbers = distinct(tuples)
        texts = self._texts(tuples.take(first, axis=0)).take(numbers)
        return replace(batch, added={**batch.added, COMMUNITY_ID: texts})

    def _texts(self, tuples: U8) -> NDArray[Any]:
        """The ID of each tuple."""
        ipv4 = (tuples[:, 0] == 0) & (tuples[:, 1] & _WORD == _MAPPED)
        texts = np.empty(len(tuples), self._dtype)
        for rows, four in ((np.flatnonzero(ipv4), True), (np.flatnonzero(~ipv4), False)):
            for start in range(0, len(rows), _BLOCK):
                some = rows[start : start + _BLOCK]
                words = sha1(_blocks(tuples.take(some, axis=0), self._seed, ipv4=four))
                digests = words.T.astype(">u4", order="C").view(np.uint8)
                texts[some] = self._text(digests.reshape(len(some), 20))
        return texts


def _canonical(keys: U8, out: U8) -> None:
    """
    What is hashed of rows: their ends in order, ICMP's types as ports.

    Args:
        keys: ``FlowBatch.key_words()``, shape (n, 6).
        out: As that of :func:`connections`.
    """
    protocol = keys[:, 5] >> np.uint64(48) & np.uint64(0xFF)
    first, second = keys[:, 4] >> np.uint64(32) & np.uint64(0xFFFF), keys[:, 4] >> np.uint64(48)
    portless = ~_HAS_PORTS[protocol]
    first[portless] = second[portless] = 0
    icmp = np.flatnonzero((protocol == ICMP) | (protocol == ICMPV6))
    kind, code = second[icmp] >> np.uint64(8), second[icmp] & np.uint64(0xFF)
    answer = _COUNTERPARTS[protocol[icmp], kind]
    first[icmp] = kind
    second[icmp] = np.where(answer < 0, code, answer.astype(np.uint64))
    connections(keys, first, second, icmp[answer < 0], out)


def _blocks(tuples: U8, seed: int, *, ipv4: bool) -> NDArray[np.uint32]:
    """Seed, addresses, protocol, a zero octet, ports if there are any, padding: shape (16, m)."""
    blocks = np.zeros((16, len(tuples)), np.uint32)
    before = np.full(len(tuples), seed, np.uint32)
    at = 0
    for word in _addresses(tuples, ipv4=ipv4):
        blocks[at] = before << np.uint32(16) | word >> np.uint32(16)
        before, at = word, at + 1
    protocol = (tuples[:, 4] >> np.uint64(32)).astype(np.uint32)
    blocks[at] = before << np.uint32(16) | protocol << np.uint32(8)
    with_ports = _HAS_PORTS[protocol]
    end = np.uint32(1 << 31)
    blocks[at + 1] = np.where(with_ports, (tuples[:, 4] & _WORD).astype(np.uint32), end)
    blocks[at + 2] = np.where(with_ports, end, np.uint32(0))
    blocks[15] = 32 * (at + 1) + 32 * with_ports
    return blocks


def _addresses(tuples: U8, *, ipv4: bool) -> list[NDArray[np.uint32]]:
    """Both addresses as words of 32 bits, most significant first."""
    found = []
    for column in (1, 3) if ipv4 else (0, 1, 2, 3):
        whole = tuples[:, column].byteswap()
        words = (whole & _WORD,) if ipv4 else (whole >> np.uint64(32), whole & _WORD)
        found += [word.astype(np.uint32) for word in words]
    return found


#: Two letters for every twelve bits.
_LETTERS = np.array([[a, b] for a in _ALPHABET for b in _ALPHABET], np.uint8).view(np.uint16)
_PREFIX = np.frombuffer(b"1:", np.uint16)
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


def _base64(digests: NDArray[np.uint8]) -> NDArray[Any]:
    """``1:`` and base64 of each, S30. Source: RFC 4648, section 4."""
    count, letters = len(digests), _LETTERS.reshape(-1)
    padded = np.zeros((count, 21), np.uint8)
    padded[:, :20] = digests
    three = padded.astype(np.uint16)
    text = np.empty((count, 15), np.uint16)
    text[:, 0] = _PREFIX
    text[:, 1::2] = letters.take(three[:, 0::3] << 4 | three[:, 1::3] >> 4)
    text[:, 2::2] = letters.take((three[:, 1::3] & 15) << 8 | three[:, 2::3])
    text.view(np.uint8)[:, 29] = ord("=")
    return text.view("S30").reshape(count)


def _hexadecimal(digests: NDArray[np.uint8]) -> NDArray[Any]:
    """``1:`` and two digits for each octet, S42."""
    count = len(digests)
    text = np.empty((count, 42), np.uint8)
    text[:, 0], text[:, 1] = b"1:"
    text[:, 2::2], text[:, 3::2] = _DIGITS[digests >> 4], _DIGITS[digests & 15]
    return text.view("S42").reshape(count)
