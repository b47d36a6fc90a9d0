"""
What travels between the stages: the flow records of one drain, as columns.

A batch never changes. A stage that adds or removes something makes a new batch, which shares the
columns that stay as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exporter.abi.layout import FLOW_KEY
from exporter.batch.attributes import Attribute, Column, Entities

U1 = NDArray[np.uint8]
U2 = NDArray[np.uint16]
U4 = NDArray[np.uint32]
U8 = NDArray[np.uint64]

IPV4_PREFIX = bytes(10) + b"\xff\xff"


class FlowEndReason(IntEnum):
    """Why a record was cut. Source: IANA IPFIX registry, IE 136 flowEndReason."""

    IDLE_TIMEOUT = 1
    ACTIVE_TIMEOUT = 2
    END_OF_FLOW = 3
    FORCED_END = 4
    LACK_OF_RESOURCES = 5

    @property
    def text(self) -> str:
        """The registry's words, in lower case."""
        words = self.name.lower().replace("_", " ")
        return f"{words} detected" if self is FlowEndReason.END_OF_FLOW else words


class Point(NamedTuple):
    """
    An observation point: where packets are seen.

    ``netns`` is the agent's number for a network namespace (0 is its own), ``ifindex`` the
    interface within it, ``direction`` 0 for ingress and 1 for egress.
    """

    netns: int
    ifindex: int
    direction: int


@dataclass(frozen=True)
class Interface:
    """What people call an observation point's interface. ``netns`` is empty for the agent's own."""

    name: str
    netns: str = ""


@dataclass(frozen=True)
class Observer:
    """Who observed: the agent's address (any family, as text) and host name."""

    address: str = ""
    name: str = ""


@dataclass(frozen=True)
class Window:
    """The time between two drains, Unix ns."""

    start_ns: int = 0
    end_ns: int = 0


@dataclass(frozen=True)
class Totals:
    """What a batch adds up to. ``octets`` are L2."""

    flows: int = 0
    packets: int = 0
    octets: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.flows + other.flows, self.packets + other.packets, self.octets + other.octets
        )

    def __sub__(self, other: Totals) -> Totals:
        return Totals(
            self.flows - other.flows, self.packets - other.packets, self.octets - other.octets
        )


@dataclass(frozen=True)
class FlowBatch:
    """
    Flow records as columns of equal length n. ``batch.schema`` says what each column means.

    ``key`` holds the flow key with the observation point that was counted; its fields are columns
    too. ``points`` numbers a list of observation points in ``point_lists``: lists are few, rows are
    many. ``interfaces`` and ``observer`` are what enrichment found out about them, ``entities`` and
    ``added`` what it found out about rows.
    """

    key: NDArray[Any]
    flow_start_ns: U8
    flow_end_ns: U8
    packet_count: U8
    octet_count_l2: U8
    octet_count_l3: U8
    sampling_interval: U4
    tcp_control_bits: U2
    tcp_flag_sets: U1
    dscp: U1
    src_mac: U1
    dst_mac: U1
    flow_end_reason: U1
    duplicate: NDArray[np.bool_]
    points: U4
    point_lists: tuple[tuple[Point, ...], ...] = ()
    interfaces: Mapping[Point, Interface] = field(default_factory=dict)
    observer: Observer = Observer()
    window: Window = Window()
    entities: tuple[Entities, ...] = ()
    added: Mapping[Attribute, Column] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.key)

    @property
    def src_addr(self) -> U1:
        """uint8, shape (n, 16), a view."""
        return self.key["src_addr"]

    @property
    def dst_addr(self) -> U1:
        """uint8, shape (n, 16), a view."""
        return self.key["dst_addr"]

    @property
    def src_port(self) -> U2:
        """uint16, shape (n,), a view."""
        return self.key["src_port"]

    @property
    def dst_port(self) -> U2:
        """uint16, shape (n,), a view. ICMP: type * 256 + code."""
        return self.key["dst_port"]

    @property
    def ip_protocol(self) -> U1:
        """uint8, shape (n,), a view."""
        return self.key["ip_protocol"]

    @property
    def vlan_id(self) -> U2:
        """uint16, shape (n,), a view."""
        return self.key["vlan_id"]

    @property
    def inner_vlan_id(self) -> U2:
        """uint16, shape (n,), a view."""
        return self.key["inner_vlan_id"]

    @property
    def ifindex(self) -> U4:
        """uint32, shape (n,), a view."""
        return self.key["ifindex"]

    @property
    def netns(self) -> U2:
        """uint16, shape (n,), a view: the agent's number for the network namespace."""
        return self.key["netns"]

    @property
    def flow_direction(self) -> U1:
        """uint8, shape (n,), a view."""
        return self.key["direction"]

    def is_ipv4(self) -> NDArray[np.bool_]:
        """bool, shape (n,): the addresses are IPv4. The kernel program keeps the families apart."""
        words = self.key_words()
        low = words[:, 1] & np.uint64(0xFFFFFFFF)
        return np.asarray((words[:, 0] == 0) & (low == 0xFFFF0000))

    def is_icmp(self) -> NDArray[np.bool_]:
        """bool, shape (n,): ICMP or ICMPv6, whose type and code are in ``dst_port``."""
        return np.asarray((self.ip_protocol == 1) | (self.ip_protocol == 58))

    def key_words(self) -> U8:
        """
        The flow keys as uint64, shape (n, 6), a view of contiguous keys.

        0-1 source, 2-3 destination; 4: ifindex, then ports at bits 32 and 48; 5: netns, VLANs at
        bits 16 and 32, protocol at 48, direction at 56.
        """
        keys = np.ascontiguousarray(self.key)
        return keys.view(np.uint64).reshape(len(keys), FLOW_KEY.itemsize // 8)

    @functools.cached_property
    def totals(self) -> Totals:
        """Sums over all rows."""
        return Totals(len(self), int(self.packet_count.sum()), int(self.octet_count_l2.sum()))

    def take(self, rows: NDArray[Any] | slice) -> FlowBatch:
        """The rows that an index array, a mask or a slice selects. A slice copies nothing."""
        columns = {name: getattr(self, name)[rows] for name in ROW_COLUMNS}
        if self.entities:
            columns["entities"] = tuple(some.take(rows) for some in self.entities)
        if self.added:
            columns["added"] = {what: column[rows] for what, column in self.added.items()}
        return replace(self, **columns)

    def attributes(self) -> tuple[Attribute, ...]:
        """What enrichment added, in the order that it did."""
        of_entities = (attribute for some in self.entities for attribute in some.values)
        return (*of_entities, *self.added)


#: Attributes of FlowBatch that have one element per row.
ROW_COLUMNS = (
    "key",
    "flow_start_ns",
    "flow_end_ns",
    "packet_count",
    "octet_count_l2",
    "octet_count_l3",
    "sampling_interval",
    "tcp_control_bits",
    "tcp_flag_sets",
    "dscp",
    "src_mac",
    "dst_mac",
    "flow_end_reason",
    "duplicate",
    "points",
)


def concatenate(batches: list[FlowBatch]) -> FlowBatch:
    """
    All rows of batches, in order; at least one batch. They are not enriched or deduplicated yet, or
    are rows of one batch.
    """
    if len(batches) == 1:
        return batches[0]
    last = batches[-1]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(batch, name) for batch in batches]) for name in ROW_COLUMNS
    }
    columns["entities"] = tuple(
        Entities(np.concatenate([batch.entities[number].rows for batch in batches]), some.values)
        for number, some in enumerate(last.entities)
    )
    columns["added"] = {
        what: np.concatenate([batch.added[what] for batch in batches]) for what in last.added
    }
    return replace(last, **columns)


def mac_numbers(macs: U1) -> U8:
    """
    MAC addresses as integers: 11:22:33:44:55:66 is 0x112233445566.

    Args:
        macs: uint8, shape (n, 6).

    Returns:
        uint64, shape (n,).
    """
    wide = np.zeros((len(macs), 8), np.uint8)
    wide[:, 2:] = macs
    return wide.view(">u8").astype(np.uint64).reshape(-1)
