"""Single records back to a batch: for what comes in one by one, as JSON lines do."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.abi.layout import FLOW_KEY
from exporter.batch.attributes import Attribute, Entities, Value
from exporter.batch.batch import IPV4_PREFIX, FlowBatch, Interface, Observer, Point
from exporter.batch.record import FlowRecord, PointName

_ENDS = (("source", "src"), ("destination", "dst"))
_COLUMNS: dict[str, tuple[str, Any]] = {
    "flow_start_ns": ("time_flow_start_ns", np.uint64),
    "flow_end_ns": ("time_flow_end_ns", np.uint64),
    "packet_count": ("packets", np.uint64),
    "octet_count_l2": ("octets_l2", np.uint64),
    "octet_count_l3": ("octets_l3", np.uint64),
    "sampling_interval": ("sampling_interval", np.uint32),
    "tcp_control_bits": ("tcp_control_bits", np.uint16),
    "tcp_flag_sets": ("tcp_flag_sets", np.uint8),
    "dscp": ("dscp", np.uint8),
    "flow_end_reason": ("end_reason", np.uint8),
    "duplicate": ("duplicate", np.bool_),
}
_KEYS = {
    "src_port": "source_port",
    "dst_port": "destination_port",
    "ip_protocol": "ip_protocol",
    "vlan_id": "vlan_id",
    "inner_vlan_id": "inner_vlan_id",
    "direction": "direction",
}


def assemble(records: Sequence[FlowRecord]) -> FlowBatch:
    """
    Records as a batch of n rows, in order.

    Namespaces are numbered anew, so that interfaces with one index, as all are that come without
    one, stay apart. The observer is the first record's.

    Args:
        records: Any number; values within the columns' types, as ``exporter.decode`` gives them.
    """
    key = np.zeros(len(records), FLOW_KEY)
    for end, short in _ENDS:
        packed = b"".join(_packed(getattr(record, end)) for record in records)
        key[f"{short}_addr"] = np.frombuffer(packed, np.uint8).reshape(-1, 16)
    for name, attribute in _KEYS.items():
        key[name] = [getattr(record, attribute) for record in records]
    places = _Places()
    lists: dict[tuple[Point, ...], int] = {}
    points = [
        lists.setdefault(tuple(places.point(one) for one in record.points), len(lists))
        for record in records
    ]
    first = {number: some[0] for some, number in lists.items() if some}
    for row, number in enumerate(points):
        if number in first:
            key[row]["netns"], key[row]["ifindex"] = first[number][:2]
    columns: dict[str, Any] = {
        name: np.array([getattr(record, attribute) for record in records], kind)
        for name, (attribute, kind) in _COLUMNS.items()
    }
    for end, short in _ENDS:
        macs = b"".join(_mac(getattr(record, f"{end}_mac")) for record in records)
        columns[f"{short}_mac"] = np.frombuffer(macs, np.uint8).reshape(-1, 6)
    return FlowBatch(
        key=key,
        **columns,
        points=np.array(points, np.uint32),
        point_lists=tuple(lists),
        interfaces=places.interfaces,
        observer=Observer(records[0].agent_ip, records[0].agent_name) if records else Observer(),
        entities=_entities(records),
    )


def by_observer(records: Sequence[FlowRecord]) -> Iterator[tuple[NDArray[np.int64], FlowBatch]]:
    """
    Records as a batch for each observer: the numbers of its rows, ascending, and the batch.

    Args:
        records: As :func:`assemble` takes them.
    """
    places: dict[tuple[str, str], list[int]] = {}
    for number, record in enumerate(records):
        places.setdefault((record.agent_ip, record.agent_name), []).append(number)
    for numbers in places.values():
        yield np.array(numbers, np.int64), assemble([records[number] for number in numbers])


class _Places:
    """Points by name: those that are called differently are in different namespaces."""

    def __init__(self) -> None:
        self.interfaces: dict[Point, Interface] = {}
        self._points: dict[PointName, Point] = {}

    def point(self, name: PointName) -> Point:
        found = self._points.get(name)
        if found is None:
            interface = Interface(name.name, name.netns, name.details)
            numbers = (Point(netns, name.ifindex, name.direction) for netns in count())
            found = next(p for p in numbers if self.interfaces.get(p, interface) == interface)
            self._points[name] = found
            self.interfaces[found] = interface
        return found


def _entities(records: Sequence[FlowRecord]) -> tuple[Entities, ...]:
    """What enrichment added, each attribute by itself."""
    attributes = dict.fromkeys(what for record in records for what in record.metadata)
    return tuple(_of(attribute, records) for attribute in attributes)


def _of(attribute: Attribute, records: Sequence[FlowRecord]) -> Entities:
    values: dict[Value, int] = {None: 0}
    rows = [values.setdefault(record.metadata.get(attribute), len(values)) for record in records]
    return Entities(np.array(rows, np.uint32), {attribute: tuple(values)})


@functools.lru_cache(maxsize=1 << 16)
def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


@functools.lru_cache(maxsize=1 << 16)
def _packed(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    return IPV4_PREFIX + address.packed if address.version == 4 else address.packed
