"""
Who began a connection: the source of a record, or its destination.

What proves it, in this order:

- ``syn``: of TCP, the record has a SYN. Control bits are of all packets together: only where no
  packet had SYN and ACK both (``tcp_flag_sets``) was there a SYN alone, and its sender began;
  whoever sent both answered. Two that both sent a SYN alone: the earlier record's.
- ``remembered``: another record of the connection had a SYN, in this drain or an earlier one.
- ``icmp``: a request's sender began, a reply's sender answered.
- ``port``: the end with the lower class of port answers: below 1024, below 32768 (above it Linux
  takes the ports of clients), the rest; within a class but the last the end with the lower port.

Else it is unknown: RFC 5103's "arbitrary".
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from exporter.batch.attributes import Attribute, Entities, Value
from exporter.batch.batch import U1, U8, FlowBatch
from exporter.batch.ends import hash_ends
from exporter.batch.group import OTHER_SEED, SEED, hash_words
from exporter.batch.record import ICMP, ICMPV6, SCTP, TCP, UDP
from exporter.enrich.base import Local, State
from exporter.enrich.identity.memory import Memory

INITIATOR = Attribute(
    "flow.initiator", "Which end began the connection: source or destination.", "Initiator"
)
RULE = Attribute(
    "flow.initiator_rule", "How that is known: syn, remembered, icmp or port.", "InitiatorRule"
)
BIFLOW_DIRECTION = Attribute(
    "flow.biflow_direction",
    "RFC 5103: 1 if the source began the connection, 2 if the destination did.",
    "BiflowDirection",
    ipfix=239,
    number=True,
)
NOBODY, SOURCE, DESTINATION = 0, 1, 2
RULES = ("syn", "remembered", "icmp", "port")
_SYN_RULE, _REMEMBERED, _ICMP_RULE, _PORT = range(len(RULES))
_SYN, _SYN_ACK = 0x02, 1
_SYSTEM, _CLIENTS = 1024, 32_768
#: Source: RFC 792; RFC 4443 section 4; RFC 4861; RFC 2710.
_REQUESTS = {ICMP: (8, 10, 13, 15, 17), ICMPV6: (128, 130, 133, 135, 139, 144)}
_REPLIES = {ICMP: (0, 9, 14, 16, 18), ICMPV6: (129, 131, 134, 136, 140, 145)}


class Initiator(Local):
    """
    Adds who began.

    Args:
        entries: Connections that are remembered.
        expiry_ns: How long quiet ones are.
    """

    name = "initiator"
    requires: tuple[str, ...] = ("key", "window")
    provides: tuple[str, ...] = ("entities",)
    attributes: tuple[Attribute, ...] = (INITIATOR, RULE, BIFLOW_DIRECTION)

    def __init__(self, entries: int, expiry_ns: int) -> None:
        self._memory = Memory(entries, expiry_ns)
        self._hits = self._misses = 0

    def state(self) -> State:
        """Hits are records whose connection's SYN was in another one, misses TCP without any."""
        memory = self._memory
        return State(
            hits=self._hits,
            misses=self._misses,
            evictions=memory.evictions,
            entries=len(memory),
        )

    def apply(self, batch: FlowBatch) -> FlowBatch:
        """The batch with one more set of entities."""
        if not len(batch):
            return batch
        verdict, rule = _by_port(batch)
        _by_type(batch, verdict, rule)
        self._by_syn(batch, verdict, rule)
        numbers = np.where(verdict == NOBODY, 0, (verdict - 1) * len(RULES) + rule + 1)
        some = Entities(numbers.astype(np.uint32), _VALUES)
        return replace(batch, entities=(*batch.entities, some))

    def _by_syn(self, batch: FlowBatch, verdict: U1, rule: U1) -> None:
        """What SYNs say, of these rows and of earlier ones of their connections."""
        tcp = np.flatnonzero(batch.ip_protocol == TCP)
        if not len(tcp):
            return
        claim = _claims(batch.tcp_control_bits[tcp], batch.tcp_flag_sets[tcp])
        words = batch.key_words()
        one, other = hash_ends(words if len(tcp) == len(words) else words.take(tcp, axis=0))
        flipped = one > other
        # Two hashes of a connection, whichever end the source is.
        hashes = hash_words((one + other)[:, np.newaxis], SEED)
        tags = hash_words((one ^ other)[:, np.newaxis], OTHER_SEED)
        # Of a connection, not of a row: 0 if the low end began, 1 if the high one did.
        began = ((claim == DESTINATION) ^ flipped).astype(np.uint8)
        claims = _earliest(tags, began, np.flatnonzero(claim), batch.flow_start_ns[tcp])
        known, found = self._memory.exchange(hashes, tags, began, claims, batch.window.end_ns)
        claimed = claim != NOBODY
        # One that the memory had no room for still says it of itself.
        began = np.where(found, known, began)
        said = np.flatnonzero(found | claimed)
        verdict[tcp[said]] = np.where((began == 1) ^ flipped, DESTINATION, SOURCE)[said]
        rule[tcp[said]] = np.where(claimed[said], _SYN_RULE, _REMEMBERED)
        self._hits += int(np.count_nonzero(found & ~claimed))
        self._misses += len(tcp) - len(said)


def _claims(control_bits: NDArray[np.uint16], flag_sets: U1) -> U1:
    """What each row's own SYN says."""
    answered = flag_sets & _SYN_ACK != 0
    began = control_bits & _SYN != 0
    return np.where(answered, DESTINATION, np.where(began, SOURCE, NOBODY)).astype(np.uint8)


def _earliest(tags: U8, began: U1, rows: NDArray[np.int64], start_ns: U8) -> NDArray[np.int64]:
    """A row of each connection; where they do not say the same, the one that began first."""
    ordered = rows.take(np.argsort(tags.take(rows)))
    of_ordered = tags.take(ordered)
    same = of_ordered[1:] == of_ordered[:-1]
    if (same & (began[ordered[1:]] != began[ordered[:-1]])).any():
        ordered = rows[np.lexsort((start_ns[rows], tags[rows]))]
        same = tags[ordered[1:]] == tags[ordered[:-1]]
    first = np.concatenate((np.ones(min(len(ordered), 1), np.bool_), ~same))
    return np.asarray(ordered[first])


def _by_port(batch: FlowBatch) -> tuple[U1, U1]:
    """What the ports say of every row; nobody where they say nothing."""
    source, destination = batch.src_port, batch.dst_port
    # As one number that orders first by class: every client's port is the same.
    one = np.minimum(source, _CLIENTS)
    other = np.minimum(destination, _CLIENTS)
    protocol = batch.ip_protocol
    with_ports = (protocol == TCP) | (protocol == UDP) | (protocol == SCTP)
    verdict = ((one > other) * SOURCE + (one < other) * DESTINATION) * with_ports
    return verdict.astype(np.uint8), np.full(len(batch), _PORT, np.uint8)


def _types() -> U1:
    """Who began, by protocol and ICMP type: uint8, shape (256, 256)."""
    table = np.zeros((256, 256), np.uint8)
    for kinds, who in ((_REQUESTS, SOURCE), (_REPLIES, DESTINATION)):
        for protocol, numbers in kinds.items():
            table[protocol, list(numbers)] = who
    return table


_TYPES = _types()


def _by_type(batch: FlowBatch, verdict: U1, rule: U1) -> None:
    icmp = np.flatnonzero(batch.is_icmp())
    verdict[icmp] = _TYPES[batch.ip_protocol[icmp], batch.dst_port[icmp] >> 8]
    rule[icmp] = _ICMP_RULE


def _values() -> dict[Attribute, tuple[Value, ...]]:
    """By who and by rule, after the one of which nothing is known."""
    ends = ("source", "destination")
    return {
        INITIATOR: (None, *(end for end in ends for _ in RULES)),
        RULE: (None, *(rule for _ in ends for rule in RULES)),
        BIFLOW_DIRECTION: (None, *(number for number in (1, 2) for _ in RULES)),
    }


_VALUES = _values()
