"""
An independent reader of IPFIX messages: it knows RFC 7011 and the registry's types, and learns
everything else from the templates that come along.

It shares no code with the encoder. What it reads is strict: whatever is not in order is an error.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

#: IANA registry: number -> name, abstract data type.
ELEMENTS = {
    1: ("octetDeltaCount", "unsigned64"),
    2: ("packetDeltaCount", "unsigned64"),
    4: ("protocolIdentifier", "unsigned8"),
    5: ("ipClassOfService", "unsigned8"),
    6: ("tcpControlBits", "unsigned16"),
    7: ("sourceTransportPort", "unsigned16"),
    8: ("sourceIPv4Address", "ipv4Address"),
    10: ("ingressInterface", "unsigned32"),
    11: ("destinationTransportPort", "unsigned16"),
    12: ("destinationIPv4Address", "ipv4Address"),
    14: ("egressInterface", "unsigned32"),
    16: ("bgpSourceAsNumber", "unsigned32"),
    17: ("bgpDestinationAsNumber", "unsigned32"),
    27: ("sourceIPv6Address", "ipv6Address"),
    28: ("destinationIPv6Address", "ipv6Address"),
    32: ("icmpTypeCodeIPv4", "unsigned16"),
    34: ("samplingInterval", "unsigned32"),
    56: ("sourceMacAddress", "macAddress"),
    58: ("vlanId", "unsigned16"),
    59: ("postVlanId", "unsigned16"),
    61: ("flowDirection", "unsigned8"),
    80: ("destinationMacAddress", "macAddress"),
    82: ("interfaceName", "string"),
    136: ("flowEndReason", "unsigned8"),
    139: ("icmpTypeCodeIPv6", "unsigned16"),
    148: ("flowId", "unsigned64"),
    149: ("observationDomainId", "unsigned32"),
    152: ("flowStartMilliseconds", "dateTimeMilliseconds"),
    153: ("flowEndMilliseconds", "dateTimeMilliseconds"),
    156: ("flowStartNanoseconds", "dateTimeNanoseconds"),
    157: ("flowEndNanoseconds", "dateTimeNanoseconds"),
    195: ("ipDiffServCodePoint", "unsigned8"),
    239: ("biflowDirection", "unsigned8"),
    245: ("dot1qCustomerVlanId", "unsigned16"),
    305: ("samplingPacketInterval", "unsigned32"),
    306: ("samplingPacketSpace", "unsigned32"),
    311: ("samplingProbability", "float64"),
    352: ("layer2OctetDeltaCount", "unsigned64"),
}
_OCTETS = {
    "unsigned8": 1, "unsigned16": 2, "unsigned32": 4, "unsigned64": 8, "float64": 8,
    "ipv4Address": 4, "ipv6Address": 16, "macAddress": 6,
    "dateTimeMilliseconds": 8, "dateTimeNanoseconds": 8,
}  # fmt: skip
_VARIABLE = 0xFFFF
#: Seconds from NTP's epoch to Unix's.
_NTP = (70 * 365 + 17) * 86_400


@dataclass
class Told:
    """A template: elements with lengths, and how many of them are scope."""

    elements: list[tuple[int, int]]
    scope: int


@dataclass
class Read:
    """One message: its header, and its Data Records by template."""

    octets: int
    export_time: int
    sequence: int
    domain: int
    templates: list[int] = field(default_factory=list)
    records: list[tuple[int, dict[str, Any]]] = field(default_factory=list)


@dataclass
class Reader:
    """
    A collecting process: keeps the templates and the sequence number of one Transport Session.

    ``missing`` are the Data Records that the sequence numbers say were sent and did not come.
    """

    templates: dict[int, Told] = field(default_factory=dict)
    expected: int | None = None
    missing: int = 0

    def stream(self, octets: bytes) -> Iterator[Read]:
        """Messages in a row; a torn last one is left out."""
        while len(octets) >= 16:
            (length,) = struct.unpack_from(">H", octets, 2)
            if length > len(octets):
                return
            yield self.message(octets[:length])
            octets = octets[length:]

    def message(self, octets: bytes) -> Read:
        version, length, export_time, sequence, domain = struct.unpack_from(">HHIII", octets)
        assert version == 10
        assert length == len(octets)
        read = Read(length, export_time, sequence, domain)
        at = 16
        while at < length:
            number, size = struct.unpack_from(">HH", octets, at)
            assert size > 4, "an empty set"
            assert at + size <= length, "a set that goes on behind the message"
            self._set(number, octets[at + 4 : at + size], read)
            at += size
        expected = self.expected if self.expected is not None else sequence
        self.missing += (sequence - expected) % 2**32
        self.expected = (sequence + len(read.records)) % 2**32
        return read

    def _set(self, number: int, octets: bytes, read: Read) -> None:
        if number in (2, 3):
            while octets:
                octets = self._template(octets, options=number == 3, read=read)
            return
        assert number >= 256
        told = self.templates[number]
        while octets:
            record, octets = _record(told, octets)
            read.records.append((number, record))

    def _template(self, octets: bytes, *, options: bool, read: Read) -> bytes:
        number, count = struct.unpack_from(">HH", octets)
        at, scope = 4, 0
        if options:
            (scope,) = struct.unpack_from(">H", octets, 4)
            assert 0 < scope < count
            at = 6
        pairs = [struct.unpack_from(">HH", octets, at + 4 * i) for i in range(count)]
        for element, length in pairs:
            kind = ELEMENTS[element][1]
            assert length == (_VARIABLE if kind == "string" else _OCTETS[kind])
        self.templates[number] = Told([(e, n) for e, n in pairs], scope)
        read.templates.append(number)
        return octets[at + 4 * count :]


def _record(told: Told, octets: bytes) -> tuple[dict[str, Any], bytes]:
    record: dict[str, Any] = {}
    for element, told_length in told.elements:
        length = told_length
        if length == _VARIABLE:
            length, octets = octets[0], octets[1:]
            assert length < 255
        assert len(octets) >= length, "a record that goes on behind its set"
        name, kind = ELEMENTS[element]
        assert name not in record
        record[name] = _value(kind, octets[:length])
        octets = octets[length:]
    return record, octets


def _value(kind: str, octets: bytes) -> Any:
    match kind:
        case "ipv4Address" | "ipv6Address":
            return str(ipaddress.ip_address(octets))
        case "macAddress":
            return octets.hex(":")
        case "string":
            return octets.decode()
        case "float64":
            return struct.unpack(">d", octets)[0]
        case "dateTimeNanoseconds":
            seconds, fraction = struct.unpack(">II", octets)
            # The lower bits are below a nanosecond: cut off.
            return (seconds - _NTP) * 10**9 + (fraction * 10**9 >> 32)
    return int.from_bytes(octets)
