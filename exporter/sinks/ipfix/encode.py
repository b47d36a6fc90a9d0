"""
Data Records from columns, without touching a single row.

Records of one address family are all of one length: they are a structured array in network order.
Into how many messages they go is decided when they are delivered, because what a path takes
changes; so what is encoded here are records in a row, and headers come around them there.

Source: RFC 7011 sections 3 and 6.
"""

from __future__ import annotations

import ipaddress
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.batch.attributes import Attribute
from exporter.batch.batch import FlowBatch, Interface, Observer, Point
from exporter.fanout.contract import Message
from exporter.sinks.ipfix.template import INTERFACES_TEMPLATE, SAMPLING_TEMPLATE, Template, sent

#: Of the message header and of a set header.
HEADER_OCTETS, SET_OCTETS = 16, 4
_VERSION = 10
#: From 1900, where NTP counts from, to 1970.
_NTP_EPOCH = np.uint64(2_208_988_800)
_SECOND, _MILLISECOND = np.uint64(1_000_000_000), np.uint64(1_000_000)
#: An interface's name is sent with its length in one octet.
_LONGEST_NAME = 254


@dataclass(frozen=True)
class Flows(Message):
    """
    Data Records of one template in a row, without headers.

    Args:
        template: Theirs.
        names: Interface number -> name, of all that the batch knows.
        sampling: 1 in so many packets was taken; the highest of the batch.
    """

    template: Template
    names: Mapping[int, str] = field(default_factory=dict)
    sampling: int = 1


def encode(batch: FlowBatch, templates: Mapping[int, Template], max_flows: int) -> Iterator[Flows]:
    """
    A batch as Data Records.

    Args:
        batch: Enriched or not.
        templates: By version of IP.
        max_flows: Records in a message at most.

    Yields:
        Messages; every row of the batch is in exactly one. IPv4 comes first.
    """
    if not len(batch):
        return
    names = interface_names(batch.interfaces)
    sampling = int(batch.sampling_interval.max())
    ipv4 = batch.is_ipv4()
    for version, chosen in ((4, ipv4), (6, ~ipv4)):
        if not chosen.any():
            continue
        part = batch if chosen.all() else batch.take(np.flatnonzero(chosen))
        for start in range(0, len(part), max_flows):
            rows = part.take(slice(start, start + max_flows))
            payload = records(rows, templates[version])
            yield Flows(payload, rows, templates[version], names, sampling)


def records(batch: FlowBatch, template: Template) -> bytes:
    """Data Records of rows that are all of the template's address family."""
    out = np.zeros(len(batch), template.dtype)
    added = sent(batch.attributes())
    for element in template.elements:
        if element in _COLUMNS:
            out[str(element)] = _COLUMNS[element](batch)
        elif element in added:
            out[str(element)] = _added(batch, added[element], out.dtype[str(element)])
    return out.tobytes()


def _added(batch: FlowBatch, what: Attribute, kind: np.dtype[Any]) -> NDArray[Any]:
    """Integers that enrichment added; 0 where nothing is known, or an element is too narrow."""
    largest = np.iinfo(kind).max
    if what in batch.added:
        column = batch.added[what]
        return np.where(column <= largest, column, column.dtype.type(0))
    (some,) = (some for some in batch.entities if what in some.values)
    used, place = some.used()
    values = (some.values[what][number] for number in used.tolist())
    fits = [v if isinstance(v, int) and 0 <= v <= largest else 0 for v in values]
    return np.array(fits, kind)[place[some.rows]]


def header(octets: int, export_time: int, sequence: int, domain: int) -> bytes:
    """
    A message header. RFC 7011 section 3.1.

    Args:
        octets: Of the message, this header included.
        export_time: Unix seconds.
        sequence: Data Records sent before in this Transport Session; modulo 2^32 here.
        domain: Observation Domain ID.
    """
    return struct.pack(
        ">HHIII", _VERSION, octets, export_time & 0xFFFFFFFF, sequence & 0xFFFFFFFF, domain
    )


def data_set(template: Template, octets: int) -> bytes:
    """A Set Header before so many octets of records."""
    return struct.pack(">HH", template.number, SET_OCTETS + octets)


def sampling_record(domain: int, interval: int) -> bytes:
    """How an Observation Domain's packets were chosen: a record of SAMPLING_TEMPLATE."""
    interval = max(interval, 1)
    assert SAMPLING_TEMPLATE.elements == (149, 34, 305, 306, 311)
    return struct.pack(">IIIId", domain, interval, 1, interval - 1, 1 / interval)


def interface_record(number: int, name: str) -> bytes:
    """An interface's name: a record of INTERFACES_TEMPLATE."""
    # Cut where a character ends.
    text = name.encode()[:_LONGEST_NAME].decode(errors="ignore").encode()
    assert INTERFACES_TEMPLATE.elements == (10, 82)
    return struct.pack(">IB", number, len(text)) + text


def interface_names(interfaces: Mapping[Point, Interface]) -> dict[int, str]:
    """Interface number -> name; in other namespaces than the agent's own ``netns/name``."""
    return {
        interface_number(point.netns, point.ifindex): (
            f"{interface.netns}/{interface.name}" if interface.netns else interface.name
        )
        for point, interface in interfaces.items()
    }


def interface_number(netns: int, ifindex: int) -> int:
    """
    An interface's number, unique within the agent: its index in the agent's own network namespace;
    else bit 31, 15 bits of the namespace's number and 16 of the index.
    """
    if netns == 0:
        return ifindex
    return 1 << 31 | (netns & 0x7FFF) << 16 | ifindex & 0xFFFF


def observation_domain(observer: Observer) -> int:
    """
    The Observation Domain ID of an agent, stable as long as its address is: an IPv4 address as a
    number; else a checksum of an IPv6 address, or of the host's name. Never 0, which means none.
    """
    address = ipaddress.ip_address(observer.address) if observer.address else None
    if isinstance(address, ipaddress.IPv4Address):
        return int(address) or 1
    return zlib.crc32(address.packed if address else observer.name.encode()) or 1


def _interfaces(batch: FlowBatch) -> NDArray[np.uint32]:
    """:func:`interface_number` of every row."""
    foreign = (
        np.uint32(1 << 31)
        | (batch.netns.astype(np.uint32) & np.uint32(0x7FFF)) << np.uint32(16)
        | batch.ifindex & np.uint32(0xFFFF)
    )
    return np.where(batch.netns == 0, batch.ifindex, foreign)


def _ntp(nanoseconds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """
    dateTimeNanoseconds: NTP's seconds and 2^-32 fractions of one. RFC 7011 section 6.1.10.

    The fraction is rounded up: whoever cuts it off at nanoseconds, as one does, or rounds to the
    nearest, finds the same again. 999,999,999 ns stays below a second.
    """
    seconds = nanoseconds // _SECOND
    rest = nanoseconds - seconds * _SECOND
    fraction = ((rest << np.uint64(32)) + _SECOND - np.uint64(1)) // _SECOND
    return (seconds + _NTP_EPOCH) << np.uint64(32) | fraction


def _if(batch: FlowBatch, direction: int, values: NDArray[Any]) -> NDArray[Any]:
    """Values of rows that were seen in one direction; 0 for others."""
    return np.where(batch.flow_direction == direction, values, values.dtype.type(0))


def _icmp(batch: FlowBatch) -> NDArray[np.uint16]:
    return np.where(batch.is_icmp(), batch.dst_port, np.uint16(0))


#: Information element -> its values.
_COLUMNS: dict[int, Callable[[FlowBatch], Any]] = {
    1: lambda batch: batch.octet_count_l3,
    2: lambda batch: batch.packet_count,
    4: lambda batch: batch.ip_protocol,
    # The two bits of congestion notification are not kept: they are sent as 0.
    5: lambda batch: batch.dscp << np.uint8(2),
    6: lambda batch: batch.tcp_control_bits,
    7: lambda batch: batch.src_port,
    8: lambda batch: batch.src_addr[:, 12:],
    10: lambda batch: _if(batch, 0, _interfaces(batch)),
    # Of ICMP type and code as well, which is where collectors of NetFlow look.
    11: lambda batch: batch.dst_port,
    12: lambda batch: batch.dst_addr[:, 12:],
    14: lambda batch: _if(batch, 1, _interfaces(batch)),
    27: lambda batch: batch.src_addr,
    28: lambda batch: batch.dst_addr,
    32: _icmp,
    34: lambda batch: batch.sampling_interval,
    56: lambda batch: batch.src_mac,
    58: lambda batch: _if(batch, 0, batch.vlan_id),
    59: lambda batch: _if(batch, 1, batch.vlan_id),
    61: lambda batch: batch.flow_direction,
    80: lambda batch: batch.dst_mac,
    136: lambda batch: batch.flow_end_reason,
    139: _icmp,
    152: lambda batch: batch.flow_start_ns // _MILLISECOND,
    153: lambda batch: batch.flow_end_ns // _MILLISECOND,
    156: lambda batch: _ntp(batch.flow_start_ns),
    157: lambda batch: _ntp(batch.flow_end_ns),
    195: lambda batch: batch.dscp,
    245: lambda batch: batch.inner_vlan_id,
    352: lambda batch: batch.octet_count_l2,
}
