"""
A Transport Session: what the collector at the other end has been told, and how many Data Records.

Source: RFC 7011 sections 2 (Transport Session), 3.1 (Sequence Number), 8 (Template management).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

from exporter.sinks.ipfix.encode import (
    HEADER_OCTETS,
    SET_OCTETS,
    Flows,
    data_set,
    header,
    interface_record,
    sampling_record,
)
from exporter.sinks.ipfix.template import INTERFACES_TEMPLATE, SAMPLING_TEMPLATE, Template

#: Octets of a message and how many Data Records are in it.
Framed = tuple[bytes, int]


class Session:
    """
    Numbers messages, and knows which templates and options are due.

    Args:
        domain: Observation Domain ID.
        templates: Of flow records.
        repeat: Seconds after which everything is told again; 0 for never.
    """

    def __init__(self, domain: int, templates: Iterable[Template], repeat: float) -> None:
        self.domain = domain
        self.sequence = 0
        self._templates = (*templates, SAMPLING_TEMPLATE, INTERFACES_TEMPLATE)
        self._repeat = repeat
        self._names: dict[int, str] = {}
        self._sampling = 0
        self._told = -1.0

    def header(self, octets: int, records: int, export_time: int) -> bytes:
        """
        The header of the next message, which is sent.

        Args:
            octets: Of its sets.
            records: Data Records in it.
            export_time: Unix seconds.
        """
        made = header(HEADER_OCTETS + octets, export_time, self.sequence, self.domain)
        self.sequence += records
        return made

    def due(self, flows: Flows, limit: int) -> Iterator[Framed]:
        """
        What must be told before these records: templates that were not yet, or long ago; their
        interfaces' names and sampling, if they are news.

        Args:
            flows: What comes next.
            limit: Octets of a message at most.

        Yields:
            Messages, with their number of Data Records; they count as sent.
        """
        now = time.monotonic()
        sets: list[Framed] = []
        if self._told < 0 or (self._repeat and now - self._told >= self._repeat):
            sets += ((template.announcement, 0) for template in self._templates)
            # A host's interfaces come and go: what is gone is forgotten with each repetition.
            self._told, self._names, self._sampling = now, {}, 0
        if flows.sampling != self._sampling:
            self._sampling = flows.sampling
            sets.append(_set(SAMPLING_TEMPLATE, [sampling_record(self.domain, flows.sampling)]))
        sets += self._new_names(flows.names, limit)
        for octets, records in _packed(sets, limit - HEADER_OCTETS):
            yield self.header(len(octets), records, int(time.time())) + octets, records

    def _new_names(self, names: Mapping[int, str], limit: int) -> Iterator[Framed]:
        news = {number: name for number, name in names.items() if self._names.get(number) != name}
        self._names |= news
        records = [(interface_record(number, name), 1) for number, name in news.items()]
        room = limit - HEADER_OCTETS - SET_OCTETS
        for octets, count in _packed(records, room):
            yield data_set(INTERFACES_TEMPLATE, len(octets)) + octets, count


def _set(template: Template, records: list[bytes]) -> Framed:
    joined = b"".join(records)
    return data_set(template, len(joined)) + joined, len(records)


def _packed(parts: Iterable[Framed], limit: int) -> Iterator[Framed]:
    """Parts in a row, as many together as the limit in octets allows, one at least."""
    octets, records = b"", 0
    for part, count in parts:
        if octets and len(octets) + len(part) > limit:
            yield octets, records
            octets, records = b"", 0
        octets, records = octets + part, records + count
    if octets:
        yield octets, records
