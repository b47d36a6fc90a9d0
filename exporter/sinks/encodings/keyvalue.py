r"""
Flow records as ``key=value`` pairs, one record per line.

The keys are those of the JSON records, also of what enrichment added; a nested one is its path with
dots, as in ``source.port``, and a list is its values with commas. What is absent there is absent
here. A value is quoted if it is empty or has a blank, ``"``, ``=``, ``\`` or a character that does
not print; within quotes ``"`` and ``\`` have a ``\`` before them, and what does not print is ``\u``
and four hexadecimal digits, or ``\U`` and eight. This is what logfmt readers take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from exporter.batch.attributes import SHARED, Attribute, Value
from exporter.batch.batch import FlowBatch
from exporter.batch.record import PointName
from exporter.sinks.encodings.additions import Additions, Form, Values, joined
from exporter.sinks.encodings.cells import Cells
from exporter.sinks.encodings.columns import DIRECTIONS, HOLES, MASKS, point_lists, same
from exporter.sinks.encodings.template import Part, Template

#: With ``(name,)`` where what enrichment added to an object stands; without a name, to the record.
_OTEL: tuple[Part | tuple[str], ...] = (
    "time.start=<start> time.end=<end> source.address=<source>",
    ("ports", " source.port=<source_port>"),
    ("source_mac", " source.mac=<source_mac>"),
    ("source",),
    " destination.address=<destination>",
    ("ports", " destination.port=<destination_port>"),
    ("destination_mac", " destination.mac=<destination_mac>"),
    ("destination",),
    " network.type=ipv<version> network.transport=<transport> network.iana_number=<protocol>",
    ("vlan", " network.vlan.id=<vlan>"),
    ("inner_vlan", " network.inner.vlan.id=<inner_vlan>"),
    ("network",),
    " flow.bytes=<octets> flow.ip_bytes=<ip_octets> flow.packets=<packets>",
    " flow.direction=<direction> flow.dscp=<dscp>",
    ("tcp", " flow.tcp_flags=<control_bits>"),
    ("icmp", " flow.icmp.type=<icmp_type> flow.icmp.code=<icmp_code>"),
    ("ended", ' flow.end_reason="<end_reason>"'),
    ("duplicate", " flow.duplicate=true"),
    "<interfaces>",
    ("flow",),
    " observer.address=<agent> observer.name=<agent_name> sampling.interval=<sampling>",
    ("",),
    "\n",
)
_NETOBSERV: tuple[Part | tuple[str], ...] = (
    "SrcMac=<source_mac> DstMac=<destination_mac> Etype=<ethertype> TimeFlowStartMs=<start_ms>",
    " TimeFlowEndMs=<end_ms> TimeReceived=<received> AgentIP=<agent><interfaces> Bytes=<octets>",
    " Packets=<packets> Sampling=<sampling> SrcAddr=<source> DstAddr=<destination>",
    " Proto=<protocol> Dscp=<dscp>",
    ("ports", " SrcPort=<source_port> DstPort=<destination_port>"),
    ("tcp", " Flags=<flags>"),
    ("icmp", " IcmpType=<icmp_type> IcmpCode=<icmp_code>"),
    ("",),
    "\n",
)


def encode(batch: FlowBatch, schema: Literal["otel", "netobserv"]) -> bytes:
    """One line for each row, in order."""
    observer = batch.observer
    more = {
        "agent": same(quoted(observer.address)),
        "agent_name": same(quoted(observer.name)),
        "received": same(b"%d" % time.time()),
        "interfaces": point_lists(batch, _LISTS[schema]),
    }
    parts, form = (_OTEL, _NESTED) if schema == "otel" else (_NETOBSERV, _FLAT)
    additions = Additions(batch, form)
    template = Template(*additions.within(parts))
    holes = additions.all_holes({**HOLES, **more})
    return b"".join(template.fill(batch, holes, additions.all_masks(MASKS)))


def quoted(text: str) -> bytes:
    """A value as it is written."""
    plain = text.isprintable() and not any(one in ' "=\\' for one in text)
    if plain and text:
        return text.encode()
    return b'"%s"' % "".join(map(_escaped, text)).encode()


def _escaped(one: str) -> str:
    if one in '"\\':
        return f"\\{one}"
    if one.isprintable():
        return one
    return f"\\u{ord(one):04x}" if ord(one) < 1 << 16 else f"\\U{ord(one):08x}"


def _key(attribute: Attribute, schema: str) -> str:
    """Empty if the schema has none."""
    key = attribute.otel if schema == "otel" else attribute.netobserv
    # What a key may not have: a label is called what somebody likes.
    return "".join("_" if one in ' "=\\' or not one.isprintable() else one for one in key)


def _form(schema: str, places: tuple[str, ...]) -> Form:
    def write(values: Values, _place: str) -> list[bytes]:
        return joined(values, member_texts)

    def member_texts(attribute: Attribute, column: Sequence[Value]) -> list[bytes]:
        key = _key(attribute, schema)
        if not key:
            return [b""] * len(column)
        before = f" {key}=".encode()
        return [b"" if value in (None, "") else before + quoted(str(value)) for value in column]

    def member(attribute: Attribute, _place: str) -> str:
        key = _key(attribute, schema)
        return f" {key}={{}}" if key else ""

    return Form(f"key=value {schema}", places, write, member, _quoted_cells)


def _quoted_cells(column: Cells) -> Cells:
    """ASCII text that needs quotes only for ``=``."""
    needs = (column == ord("=")).any(axis=1) * np.uint8(ord('"'))
    return np.concatenate((needs[:, np.newaxis], column, needs[:, np.newaxis]), axis=1)


_NESTED, _FLAT = _form("otel", SHARED), _form("netobserv", ())


def _otel(points: tuple[PointName, ...]) -> bytes:
    """Parallel lists; a namespace's name is empty for the agent's own, and absent if all are."""
    if not points:
        return b""
    text = _pair("flow.interfaces.name", [point.name for point in points])
    text += _pair("flow.interfaces.index", [str(point.ifindex) for point in points])
    text += _pair("flow.interfaces.direction", [DIRECTIONS[point.direction] for point in points])
    if any(point.netns for point in points):
        text += _pair("flow.interfaces.netns", [point.netns for point in points])
    return text


def _netobserv(points: tuple[PointName, ...]) -> bytes:
    if not points:
        return b""
    directions = _pair("IfDirections", [str(point.direction) for point in points])
    return directions + _pair("Interfaces", [point.name for point in points])


def _pair(key: str, values: list[str]) -> bytes:
    return b" %s=%s" % (key.encode(), quoted(",".join(values)))


_LISTS: dict[str, Callable[[tuple[PointName, ...]], bytes]] = {
    "otel": _otel,
    "netobserv": _netobserv,
}
