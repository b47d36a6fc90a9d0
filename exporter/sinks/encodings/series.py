"""
Sums of flows by chosen attributes: a bounded number of series, on whole batches.

What comes when there is no room for another series is summed in one overflow series, so that the
sums over all series are those of all flows. A series that nothing was added to for a while is
forgotten; should its flows come back, it begins at zero, with a later start.

Sums are exact: unsigned 64-bit integers, which wrap as counters do.

Source: https://opentelemetry.io/docs/specs/otel/metrics/sdk/#cardinality-limits.
"""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import FlowBatch, Interface, Point, mac_numbers
from exporter.batch.group import group_rows
from exporter.batch.record import WITH_PORTS, address_text
from exporter.errors import ConfigError

U8 = NDArray[np.uint64]
I8 = NDArray[np.int64]

#: What an attribute of a series is: text or a number, in no schema's words yet.
Value = str | int

#: Columns of the sums.
FLOWS, PACKETS, OCTETS_L2, OCTETS_L3 = range(4)
_SUMS = 4
#: Texts are pruned when there are so many more of them than series.
_SLACK = 1024


class _Texts:
    """Numbers for texts and what else has no words, so that they can be words of a key."""

    def __init__(self) -> None:
        self._numbers: dict[Value, int] = {}
        self._texts: dict[int, Value] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._texts)

    def number(self, text: Value) -> int:
        number = self._numbers.get(text)
        if number is None:
            number = self._next
            self._next += 1
            self._numbers[text] = number
            self._texts[number] = text
        return number

    def text(self, number: int) -> Value:
        return self._texts[number]

    def keep(self, numbers: set[int]) -> None:
        """Forget all others."""
        self._texts = {n: text for n, text in self._texts.items() if n in numbers}
        self._numbers = {text: n for n, text in self._texts.items()}


@dataclass(frozen=True)
class Attribute:
    """
    Something of a flow that a series can be told by.

    Args:
        width: Words of 64 bits.
        words: (batch, texts) -> integers, shape (n,) or (n, width).
        value: (words of one series, texts) -> what they stand for.
        meaning: For the reference.
        is_text: Its words are numbers of texts.
    """

    width: int
    words: Callable[[FlowBatch, _Texts], NDArray[Any]]
    value: Callable[[list[int], _Texts], Value]
    meaning: str
    is_text: bool = False


def _number(words: list[int], _texts: _Texts) -> Value:
    return words[0]


def _address(words: list[int], _texts: _Texts) -> Value:
    return address_text(np.array(words, np.uint64).tobytes())


def _mac(words: list[int], _texts: _Texts) -> Value:
    return words[0].to_bytes(6, "big").hex(":")


def _text(words: list[int], texts: _Texts) -> Value:
    return texts.text(words[0])


def _plain(name: str, meaning: str) -> Attribute:
    """A column as it is."""
    return Attribute(1, lambda batch, _texts: getattr(batch, name), _number, meaning)


def _port(name: str, meaning: str) -> Attribute:
    """A port, 0 of a protocol without ports."""

    def words(batch: FlowBatch, _texts: _Texts) -> NDArray[Any]:
        has_ports = np.isin(batch.ip_protocol, list(WITH_PORTS))
        return np.where(has_ports, getattr(batch, name), 0)

    return Attribute(1, words, _number, meaning)


def _service_port(batch: FlowBatch, _texts: _Texts) -> NDArray[Any]:
    has_ports = np.isin(batch.ip_protocol, list(WITH_PORTS))
    return np.where(has_ports, np.minimum(batch.src_port, batch.dst_port), 0)


def _interface(batch: FlowBatch, texts: _Texts) -> NDArray[Any]:
    if batch.point_lists:
        # The counted point is the first of its list: lists are few.
        names = [_name(batch, points[0]) if points else "" for points in batch.point_lists]
        return np.array([texts.number(name) for name in names], np.uint64)[batch.points]
    # netns at bit 33, ifindex at bit 1, the direction at bit 0.
    codes = (
        batch.netns.astype(np.uint64) << np.uint64(33)
        | batch.ifindex.astype(np.uint64) << np.uint64(1)
        | batch.flow_direction
    )
    found, inverse = np.unique(codes, return_inverse=True)
    points = [Point(code >> 33, code >> 1 & 0xFFFFFFFF, code & 1) for code in found.tolist()]
    numbers = [texts.number(_name(batch, point)) for point in points]
    return np.array(numbers, np.uint64)[inverse]


def _name(batch: FlowBatch, point: Point) -> str:
    return (batch.interfaces.get(point) or Interface(str(point.ifindex))).name


def _added(name: str) -> Attribute:
    """
    Something that enrichment adds, by its ``Attribute.name``; empty text where it is not known, or
    a batch has nothing of it.
    """

    def words(batch: FlowBatch, texts: _Texts) -> NDArray[Any]:
        for some in batch.entities:
            for what, values in some.values.items():
                if what.name == name:
                    used, place = some.used()
                    found = [values[n] for n in used.tolist()]
                    return _numbers(found, texts)[place[some.rows]]
        for what, column in batch.added.items():
            if what.name == name:
                different, inverse = np.unique(column, return_inverse=True)
                plain = different.tolist()
                if column.dtype.kind == "S":
                    plain = [text.decode() for text in plain]
                return _numbers(plain, texts)[inverse]
        return np.full(len(batch), texts.number(""), np.uint64)

    return Attribute(1, words, _text, "", is_text=True)


def _numbers(values: Sequence[Value | None], texts: _Texts) -> NDArray[np.uint64]:
    return np.array([texts.number("" if value is None else value) for value in values], np.uint64)


#: Every column. What enrichment adds comes besides, by its name. Names in a schema's words are the
#: sinks' business.
ATTRIBUTES: dict[str, Attribute] = {
    "src_addr": Attribute(
        2, lambda batch, _: batch.key_words()[:, 0:2], _address, "Source address."
    ),
    "dst_addr": Attribute(
        2, lambda batch, _: batch.key_words()[:, 2:4], _address, "Destination address."
    ),
    "src_port": _port("src_port", "Source port of TCP, UDP and SCTP; else 0."),
    "dst_port": _port("dst_port", "Destination port of TCP, UDP and SCTP; else 0."),
    "ip_protocol": _plain("ip_protocol", "IANA protocol number."),
    "ip_version": Attribute(
        1, lambda batch, _: np.where(batch.is_ipv4(), 4, 6), _number, "4 or 6."
    ),
    "interface": Attribute(
        1, _interface, _text, "Name of the interface that was counted at.", is_text=True
    ),
    "flow_direction": _plain("flow_direction", "0 ingress, 1 egress, at that interface."),
    "vlan_id": _plain("vlan_id", "Outer VLAN tag; 0 is untagged."),
    "inner_vlan_id": _plain("inner_vlan_id", "Inner VLAN tag of two; 0 is none."),
    "dscp": _plain("dscp", "Differentiated services code point of the latest packet."),
    "src_mac": Attribute(1, lambda batch, _: mac_numbers(batch.src_mac), _mac, "Source MAC."),
    "dst_mac": Attribute(1, lambda batch, _: mac_numbers(batch.dst_mac), _mac, "Destination MAC."),
}

#: For views, not for configurations: no schema has a name for it.
DERIVED: dict[str, Attribute] = {
    "service_port": Attribute(
        1, _service_port, _number, "The lower one of both ports of TCP, UDP and SCTP; else 0."
    ),
}


@dataclass(frozen=True)
class Reading:
    """
    The series at one moment, as copies.

    Args:
        values: Of each series, in the order of its attributes; the overflow series has none and is
            the last, if ``overflow``.
        sums: uint64, shape (g, 4): flows, packets, L2 octets and L3 octets since ``start_ns``.
        start_ns: uint64, shape (g,): when counting began, Unix ns.
        slots: int64, shape (g,): the numbers that :meth:`Series.add` gave rows of these series.
        overflow: Whether flows came that there was no room for.
    """

    values: tuple[tuple[Value, ...], ...]
    sums: U8
    start_ns: U8
    slots: I8
    overflow: bool

    def __len__(self) -> int:
        return len(self.values)

    @property
    def flows(self) -> U8:
        """uint64, shape (g,), a view."""
        return self.sums[:, FLOWS]

    @property
    def packets(self) -> U8:
        """uint64, shape (g,), a view."""
        return self.sums[:, PACKETS]

    @property
    def octets_l2(self) -> U8:
        """uint64, shape (g,), a view."""
        return self.sums[:, OCTETS_L2]

    @property
    def octets_l3(self) -> U8:
        """uint64, shape (g,), a view."""
        return self.sums[:, OCTETS_L3]


def check_attributes(names: Sequence[str], added: Collection[str] | None = None) -> tuple[str, ...]:
    """
    Names of attributes, for configurations.

    Args:
        names: What is configured.
        added: Names of what enrichment adds; ``None`` if that is not known here, and any may be.

    Raises:
        ValueError: If there is no such attribute, or it is named twice.
    """
    if len(set(names)) < len(names):
        raise ValueError("an attribute is named twice")
    for name in names if added is not None else ():
        if name not in ATTRIBUTES and name not in (added or ()):
            known = [*ATTRIBUTES, *(added or ())]
            near = difflib.get_close_matches(name, known, 1, cutoff=0.6)
            advice = f"did you mean {near[0]}?" if near else f"use {', '.join(known)}"
            raise ValueError(f"there is no attribute {name!r}: {advice}")
    return tuple(names)


def _of(name: str) -> Attribute:
    return ATTRIBUTES.get(name) or DERIVED.get(name) or _added(name)


class Series:
    """
    Sums by attributes. May be read from any thread while one adds.

    Args:
        attributes: Names out of :data:`ATTRIBUTES` and :data:`DERIVED`, and of what enrichment
            adds; none gives one series.
        limit: Series at most, 2 at least; the last one is for overflow, as OpenTelemetry counts.
        idle: Seconds after which :meth:`expire` forgets a series that nothing was added to.
        clock: Seconds from anywhere, never stepped.

    Raises:
        ConfigError: If an attribute is named twice.
    """

    def __init__(
        self,
        attributes: Sequence[str],
        limit: int = 2000,
        idle: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            self.attributes = check_attributes(attributes)
        except ValueError as err:
            raise ConfigError(str(err)) from err
        self._chosen = [_of(name) for name in self.attributes]
        self._limit = max(limit, 2)
        self._idle = idle
        self._clock = clock
        self._lock = threading.Lock()
        self._texts = _Texts()
        # Untouched pages of zeros cost nothing: a large limit is no large memory.
        width = sum(attribute.width for attribute in self._chosen)
        self._words = np.zeros((self._limit, width), np.uint64)
        self._sums = np.zeros((self._limit, _SUMS), np.uint64)
        self._start_ns = np.zeros(self._limit, np.uint64)
        self._touched = np.zeros(self._limit, np.float64)
        self._values: list[tuple[Value, ...]] = []
        self._overflow = False

    def __len__(self) -> int:
        """How many series there are, the overflow series among them."""
        return len(self._values) + self._overflow

    @property
    def overflow_slot(self) -> int:
        """The number that :meth:`add` gives to rows without a series of their own."""
        return self._limit - 1

    def add(self, batch: FlowBatch, start_ns: int) -> I8:
        """
        Add the flows of a batch. Those marked as duplicates are seen elsewhere: not added.

        Args:
            batch: Any rows.
            start_ns: When the counting of these flows began, Unix ns: the start of the series that
                this batch is the first of.

        Returns:
            int64, shape (n,): number of each row's series, until the next :meth:`expire`; -1 for a
            duplicate.
        """
        duplicate = batch.duplicate
        slots = np.full(len(batch), -1, np.int64)
        with self._lock:
            if not duplicate.any():
                return self._add(batch, start_ns) if len(batch) else slots
            counted = np.flatnonzero(~duplicate)
            if len(counted):
                slots[counted] = self._add(batch.take(counted), start_ns)
        return slots

    def expire(self) -> int:
        """Forget series that are idle, and give the others new numbers. Returns how many went."""
        with self._lock:
            oldest = self._clock() - self._idle
            last = self.overflow_slot
            gone = 0
            if self._overflow and self._touched[last] < oldest:
                self._overflow = False
                self._sums[last] = 0
                gone = 1
            count = len(self._values)
            keep = np.flatnonzero(self._touched[:count] >= oldest)
            if len(keep) < count:
                for column in (self._words, self._sums, self._start_ns, self._touched):
                    column[: len(keep)] = column[keep]
                self._sums[len(keep) : count] = 0
                self._values = [self._values[slot] for slot in keep.tolist()]
            self._prune()
            return gone + count - len(keep)

    def read(self) -> Reading:
        """What there is now."""
        with self._lock:
            slots = np.arange(len(self._values), dtype=np.int64)
            if self._overflow:
                slots = np.append(slots, np.int64(self.overflow_slot))
            values = tuple(self._values) + ((),) * self._overflow
            return Reading(
                values, self._sums[slots], self._start_ns[slots], slots, overflow=self._overflow
            )

    def _add(self, batch: FlowBatch, start_ns: int) -> I8:
        known = len(self._values)
        words = np.concatenate((self._words[:known], self._keys(batch)))
        groups = group_rows(words)
        order, starts = groups.order, groups.starts
        # The smallest row of a group is a known series' own key, or its first flow.
        first = np.minimum.reduceat(order, starts)
        slots = self._place(first, words, start_ns)
        rows = np.zeros((len(words), _SUMS), np.uint64)
        rows[known:, FLOWS] = 1
        rows[known:, PACKETS] = batch.packet_count
        rows[known:, OCTETS_L2] = batch.octet_count_l2
        rows[known:, OCTETS_L3] = batch.octet_count_l3
        sums = np.add.reduceat(rows[order], starts, axis=0)
        over = slots == self.overflow_slot
        self._sums[slots[~over]] += sums[~over]
        self._sums[self.overflow_slot] += sums[over].sum(axis=0, dtype=np.uint64)
        self._touched[slots[sums[:, FLOWS] > 0]] = self._clock()
        if len(self._texts) > 2 * self._limit + _SLACK:
            # Of series that there was no room for.
            self._prune()
        result = np.empty(len(words), np.int64)
        result[order] = slots[groups.labels()]
        return result[known:]

    def _keys(self, batch: FlowBatch) -> U8:
        keys = np.empty((len(batch), self._words.shape[1]), np.uint64)
        column = 0
        for attribute in self._chosen:
            words = attribute.words(batch, self._texts)
            keys[:, column : column + attribute.width] = words.reshape(len(batch), -1)
            column += attribute.width
        return keys

    def _place(self, first: I8, words: U8, start_ns: int) -> I8:
        """Series numbers of groups: the known ones', then new ones in order, then overflow."""
        known = len(self._values)
        slots = first.copy()
        new = np.flatnonzero(first >= known)
        new = new[np.argsort(first[new])]
        room = self.overflow_slot - known
        kept, rest = new[:room], new[room:]
        slots[kept] = np.arange(known, known + len(kept))
        self._words[slots[kept]] = words[first[kept]]
        self._start_ns[slots[kept]] = start_ns
        self._values += [self._decode(row) for row in words[first[kept]].tolist()]
        if len(rest):
            slots[rest] = self.overflow_slot
            if not self._overflow:
                self._overflow = True
                self._start_ns[self.overflow_slot] = start_ns
        return slots

    def _decode(self, words: list[int]) -> tuple[Value, ...]:
        values, column = [], 0
        for attribute in self._chosen:
            values.append(attribute.value(words[column : column + attribute.width], self._texts))
            column += attribute.width
        return tuple(values)

    def _prune(self) -> None:
        """Forget texts that no series has any more."""
        if len(self._texts) <= len(self._values) + _SLACK:
            return
        used: set[int] = set()
        column = 0
        for attribute in self._chosen:
            if attribute.is_text:
                used.update(self._words[: len(self._values), column].tolist())
            column += attribute.width
        self._texts.keep(used)
