"""
Templates: which information elements a record has, in which order, generated from the one table of
columns.

Source: RFC 7011 sections 3.4.1 and 3.4.2; IANA registry "IPFIX Information Elements".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from exporter.batch.attributes import Attribute
from exporter.batch.schema import COLUMNS

#: Length of a field whose length stands before each value. RFC 7011 section 7.
VARIABLE = 65_535

_TEMPLATE_SET, _OPTIONS_TEMPLATE_SET = 2, 3
FLOWS_IPV4, FLOWS_IPV6, SAMPLING, INTERFACES = 256, 257, 258, 259

#: Information element -> octets, as the registry's abstract data types have them.
_OCTETS = {
    1: 8, 2: 8, 4: 1, 5: 1, 6: 2, 7: 2, 8: 4, 10: 4, 11: 2, 12: 4, 14: 4, 27: 16, 28: 16, 32: 2,
    34: 4, 56: 6, 58: 2, 59: 2, 61: 1, 80: 6, 82: VARIABLE, 136: 1, 139: 2, 149: 4, 152: 8, 153: 8,
    156: 8, 157: 8, 195: 1, 245: 2, 305: 4, 306: 4, 311: 8, 352: 8,
    # What enrichment adds: flowId, biflowDirection, autonomous systems of both ends.
    148: 8, 239: 1, 16: 4, 17: 4,
}  # fmt: skip

#: Elements that are octets to NumPy.
_ADDRESSES = frozenset({8, 12, 27, 28, 56, 80})

#: Column -> its elements, where they are not just the one that the table names. A tuple for each
#: address family; order matters where said.
_ELEMENTS: dict[str, dict[int, tuple[int, ...]]] = {
    "src_addr": {4: (8,), 6: (27,)},
    "dst_addr": {4: (12,), 6: (28,)},
    # icmpTypeCode first: nfdump 1.7.1 puts both into one place, and the port must win there.
    "dst_port": {4: (32, 11), 6: (139, 11)},
    # vlanId and postVlanId, ingressInterface and egressInterface: by direction.
    "vlan_id": {4: (58, 59), 6: (58, 59)},
    "ifindex": {4: (10, 14), 6: (10, 14)},
    # ipDiffServCodePoint; ipClassOfService too, which is where collectors look.
    "dscp": {4: (195, 5), 6: (195, 5)},
}
_MILLISECONDS = {156: 152, 157: 153}


@dataclass(frozen=True)
class Template:
    """
    What a Data Set's records look like.

    Args:
        number: Template ID.
        elements: Information elements in order.
        scope: How many of the first are scope; 0 is a Template, else an Options Template.
    """

    number: int
    elements: tuple[int, ...]
    scope: int = 0

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """A record without variable fields: packed, network order, fields named by number."""
        return np.dtype([(str(number), *_format(number)) for number in self.elements])

    @property
    def octets(self) -> int:
        """Of a record without variable fields."""
        return self.dtype.itemsize

    @cached_property
    def announcement(self) -> bytes:
        """The Set that tells a collector of it."""
        record = struct.pack(">HH", self.number, len(self.elements))
        if self.scope:
            record += struct.pack(">H", self.scope)
        record += b"".join(struct.pack(">HH", n, _OCTETS[n]) for n in self.elements)
        kind = _OPTIONS_TEMPLATE_SET if self.scope else _TEMPLATE_SET
        return struct.pack(">HH", kind, 4 + len(record)) + record


def sent(added: Iterable[Attribute]) -> dict[int, Attribute]:
    """
    What enrichment adds that IPFIX carries: integers that the registry has an element for.

    Returns:
        By element, in the order given.
    """
    return {what.ipfix: what for what in added if what.number and what.ipfix in _OCTETS}


def flow_template(version: int, time: str, added: Iterable[Attribute] = ()) -> Template:
    """
    The Template of flow records.

    Args:
        version: Of IP: 4 or 6.
        time: ``milliseconds`` or ``nanoseconds``.
        added: What enrichment adds.
    """
    elements: list[int] = []
    for column in COLUMNS:
        if column.ipfix:
            elements += _ELEMENTS.get(column.name, {}).get(version, (column.ipfix,))
    if time == "milliseconds":
        elements = [_MILLISECONDS.get(number, number) for number in elements]
    elements += [number for number in sent(added) if number not in elements]
    return Template(FLOWS_IPV4 if version == 4 else FLOWS_IPV6, tuple(elements))


#: How the packets of an Observation Domain were chosen. samplingProbability is what the kernel
#: program does (each packet by itself, RFC 5477 section 8.2.4); the others are what collectors
#: read: nfdump up to 1.7.1 and pmacct interval and space, later nfdump samplingInterval. No
#: selectorAlgorithm: nfdump 1.7.1 ignores a record that has one.
SAMPLING_TEMPLATE = Template(SAMPLING, (149, 34, 305, 306, 311), scope=1)

#: Names of interfaces.
INTERFACES_TEMPLATE = Template(INTERFACES, (10, 82), scope=1)


def _format(number: int) -> tuple[str] | tuple[str, tuple[int]]:
    """NumPy's format of an element: an integer in network order, or octets."""
    octets = _OCTETS[number]
    return ("u1", (octets,)) if number in _ADDRESSES else (f">u{octets}",)
