"""
An independent reading of a capture: tshark says what is in each frame, this adds it up to flows.

What tshark does not decide is decided here from the numbers it prints, as the documentation of the
record says it: which frames are not IP, and which contradict themselves.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.packets.flow import Counts, Key, Reading

_FIELDS = """
    frame.len frame.protocols frame.time_epoch frame.section_number frame.interface_id
    frame.packet_flags_direction
    eth.src eth.dst eth.type eth.len ieee8021ad.id vlan.id vlan.etype
    sll.pkttype sll.src.eth sll.etype sll.ifindex null.family
    ip.version ip.hdr_len ip.len ip.proto ip.src ip.dst ip.id ip.flags.mf ip.frag_offset
    ip.dsfield.dscp
    ipv6.plen ipv6.nxt ipv6.src ipv6.dst ipv6.tclass.dscp ipv6.opt.jumbo
    ipv6.hopopts.nxt ipv6.hopopts.len_oct ipv6.routing.nxt ipv6.routing.len_oct
    ipv6.dstopts.nxt ipv6.dstopts.len_oct ah.next_header ah.length
    ipv6.fraghdr.nxt ipv6.fraghdr.offset ipv6.fraghdr.more ipv6.fraghdr.ident
    tcp.srcport tcp.dstport tcp.flags tcp.hdr_len udp.srcport udp.dstport sctp.srcport sctp.dstport
    icmp.type icmp.code icmpv6.type icmpv6.code
""".split()  # noqa: SIM905 - fifty quoted names would hide the list

#: Every packet by itself; what the IP header says, not what an offload may have meant by it.
_PREFERENCES = (
    "ip.defragment:FALSE",
    "ipv6.defragment:FALSE",
    "tcp.desegment_tcp_streams:FALSE",
    "ip.tso_support:FALSE",
)
#: Octets of the link-layer header, by what tshark calls it. Each tag is four.
_LINKS = {"eth": 14, "null": 4, "raw": 0}
_TAGS = ("vlan", "ieee8021ad")
_TCP, _ICMP, _ICMPV6 = 6, 1, 58
#: Protocol -> field names of what stands for ports, and the octets of a whole header.
_TRANSPORTS = {6: ("tcp", 20), 17: ("udp", 8), 132: ("sctp", 12), 1: ("icmp", 8), 58: ("icmpv6", 8)}
_EXTENSIONS = {0: "hopopts", 43: "routing", 44: "fraghdr", 51: "ah", 60: "dstopts"}
_DSCP = {"ip": "ip.dsfield", "ipv6": "ipv6.tclass"}
_IPV4, _IPV6 = 0x0800, 0x86DD
_TCP_FLAGS_END = 14
_SLL_OUTGOING, _FLAGS_OUTBOUND = 4, 2


def is_installed() -> bool:
    """Whether there is a tshark."""
    return shutil.which("tshark") is not None


def read(path: Path, preferences: Sequence[str] = ()) -> Reading:
    """What tshark says of a capture."""
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "aggregator=|"]
    for preference in (*_PREFERENCES, *preferences):
        command += ["-o", preference]
    for name in _FIELDS:
        command += ["-e", name]
    # Without the settings of whoever runs the tests.
    environment = os.environ | {"WIRESHARK_CONFIG_DIR": "/nonexistent"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    rows = [
        Row(dict(zip(_FIELDS, line.split("\t"), strict=True))) for line in done.stdout.splitlines()
    ]
    return _Reader(_interfaces_before(rows)).read(rows)


class MalformedFrame(Exception):
    """No flow can be told from the frame."""


class NotIp(Exception):
    """The frame carries something else."""


@dataclass
class Row:
    """One frame's fields. A field has as many values as headers that it stands in."""

    fields: dict[str, str]

    def numbers(self, name: str) -> list[int]:
        return [int(value, 0) for value in self.fields[name].split("|") if value]

    def text(self, name: str) -> str:
        """Of the outermost header; empty without one."""
        return self.fields[name].split("|")[0]

    def number(self, name: str) -> int:
        """Of the outermost header."""
        if not self.numbers(name):
            raise MalformedFrame(f"without {name}")
        return self.numbers(name)[0]

    def has(self, name: str) -> bool:
        return self.fields[name] != ""

    @property
    def protocols(self) -> list[str]:
        return [name for name in self.fields["frame.protocols"].split(":") if name != "ethertype"]

    @property
    def time_ns(self) -> int:
        """0 where the file has no time."""
        if not self.has("frame.time_epoch"):
            return 0
        seconds, fraction = self.fields["frame.time_epoch"].split(".")
        return int(seconds) * 10**9 + int(fraction.ljust(9, "0"))


@dataclass
class _Datagram:
    """An IP packet as far as its own headers go. ``octets`` is its length, ``left`` behind them."""

    family: str
    octets: int
    left: int
    ip_protocol: int
    fragment: str = ""
    identification: tuple[object, ...] = ()


def _interfaces_before(rows: list[Row]) -> dict[int, int]:
    """Section -> interfaces in the sections before it; tshark numbers them anew in each."""
    highest: dict[int, int] = {}
    for row in rows:
        if row.has("frame.interface_id"):
            section, number = row.number("frame.section_number"), row.number("frame.interface_id")
            highest[section] = max(highest.get(section, 0), number + 1)
    return {section: sum(highest[s] for s in highest if s < section) for section in highest}


class _Reader:
    """
    Adds frames up. Remembers the first fragments of datagrams, in the file's order.

    Args:
        interfaces_before: See :func:`_interfaces_before`.
    """

    def __init__(self, interfaces_before: dict[int, int]) -> None:
        self._interfaces_before = interfaces_before
        self._firsts: dict[tuple[object, ...], tuple[int, int, int]] = {}

    def read(self, rows: list[Row]) -> Reading:
        reading = Reading()
        for row in rows:
            reading.frames += 1
            try:
                key, counts = self._packet(row)
            except NotIp:
                reading.not_ip += 1
            except MalformedFrame:
                reading.malformed += 1
            else:
                reading.add(key, counts)
        return reading

    def _packet(self, row: Row) -> tuple[Key, Counts]:
        link_octets, family = _network(row)
        left = row.number("frame.len") - link_octets
        datagram = _ipv4(row, left) if family == "ip" else _ipv6(row, left)
        protocol, source_port, destination_port = self._ports(row, datagram)
        tags = [tag for tag in row.numbers("ieee8021ad.id") + row.numbers("vlan.id") if tag]
        outer, inner, *_ = (*tags, 0, 0)
        key = Key(
            row.text(f"{family}.src"),
            row.text(f"{family}.dst"),
            source_port,
            destination_port,
            protocol,
            vlan=outer,
            inner_vlan=inner,
            interface=self._interface(row),
            direction=_direction(row),
        )
        return key, _counted(row, datagram, protocol)

    def _interface(self, row: Row) -> int:
        if not row.has("frame.interface_id"):
            return 1
        before = self._interfaces_before[row.number("frame.section_number")]
        return before + row.number("frame.interface_id") + 1

    def _ports(self, row: Row, datagram: _Datagram) -> tuple[int, int, int]:
        """Protocol and ports; a later fragment's are those of its datagram's first."""
        if datagram.fragment == "later":
            unknown = datagram.ip_protocol, 0, 0
            return self._firsts.get(datagram.identification, unknown)
        told = datagram.ip_protocol, *_transport(row, datagram)
        if datagram.fragment == "first":
            self._firsts[datagram.identification] = told
        return told


def _network(row: Row) -> tuple[int, str]:
    """Octets up to the network header, and its protocol's name. Raises NotIp."""
    names = row.protocols
    link, *behind = names or ("",)
    if not link:
        raise MalformedFrame("there is nothing")
    if link in ("ip", "ipv6"):  # a link type that is nothing but this
        return 0, link
    octets = _LINKS[link] if link != "sll" else 20 if row.has("sll.ifindex") else 16
    tags = 0
    while behind and behind[0] in _TAGS:
        tags, behind = tags + 1, behind[1:]
    if behind and behind[0] in ("ip", "ipv6"):
        return octets + 4 * tags, behind[0]
    announced = [
        value
        for name in ("eth.type", "sll.etype", "vlan.etype", "eth.len", "null.family")
        for value in row.numbers(name)
    ]
    if not (announced or "data" in behind) or announced[-1:] in ([_IPV4], [_IPV6]):
        raise MalformedFrame("the link layer is cut, or its IP is none")
    if "vlan" in names and not row.has("vlan.etype"):
        raise MalformedFrame("the tag is cut")
    raise NotIp


def _direction(row: Row) -> str:
    flagged = row.has("frame.packet_flags_direction") and (
        row.number("frame.packet_flags_direction") == _FLAGS_OUTBOUND
    )
    cooked = row.has("sll.pkttype") and row.number("sll.pkttype") == _SLL_OUTGOING
    return "egress" if flagged or cooked else "ingress"


def _ipv4(row: Row, left: int) -> _Datagram:
    header, octets = row.number("ip.hdr_len"), row.number("ip.len")
    if row.number("ip.version") != 4 or header < 20 or not header <= octets <= left:
        raise MalformedFrame("lengths of the IPv4 header")
    ends = row.text("ip.src"), row.text("ip.dst")
    if not all(ends):
        raise MalformedFrame("the IPv4 header is cut")
    protocol = row.number("ip.proto")
    return _Datagram(
        "ip",
        octets,
        octets - header,
        protocol,
        _fragment(row.number("ip.frag_offset"), row.number("ip.flags.mf")),
        (*ends, protocol, row.number("ip.id")),
    )


def _fragment(offset: int, more: int) -> str:
    return "later" if offset else "first" if more else ""


def _ipv6(row: Row, left: int) -> _Datagram:
    ends = row.text("ipv6.src"), row.text("ipv6.dst")
    if not all(ends) or any(address.startswith("::ffff:") for address in ends):
        raise MalformedFrame("the IPv6 header is cut, or has an IPv4-mapped address")
    octets = 40 + row.number("ipv6.plen")
    if octets == 40 and left > 40 + 0xFFFF:
        octets = 40 + row.number("ipv6.opt.jumbo") if row.has("ipv6.opt.jumbo") else left
    if octets > left:
        raise MalformedFrame("longer than the frame")
    datagram = _Datagram("ipv6", octets, octets - 40, row.number("ipv6.nxt"))
    _walk(row, datagram)
    return datagram


def _walk(row: Row, datagram: _Datagram) -> None:
    """From extension header to extension header, up to the upper layer."""
    following = {name: _following(row, name) for name in _EXTENSIONS.values()}
    lengths = {name: _lengths(row, name) for name in _EXTENSIONS.values()}
    while datagram.fragment != "later" and datagram.ip_protocol in _EXTENSIONS:
        name = _EXTENSIONS[datagram.ip_protocol]
        if not following[name] or not lengths[name]:
            raise MalformedFrame(f"the {name} header is cut")
        if name == "fraghdr":
            offset = row.number("ipv6.fraghdr.offset")
            datagram.fragment = _fragment(offset, row.number("ipv6.fraghdr.more"))
            ends = row.text("ipv6.src"), row.text("ipv6.dst")
            datagram.identification = (*ends, row.number("ipv6.fraghdr.ident"))
        datagram.ip_protocol = following[name].pop(0)
        datagram.left -= lengths[name].pop(0)
        if datagram.left < 0:
            raise MalformedFrame(f"the {name} header is longer than the packet")


def _following(row: Row, name: str) -> list[int]:
    return row.numbers("ah.next_header" if name == "ah" else f"ipv6.{name}.nxt")


def _lengths(row: Row, name: str) -> list[int]:
    """Octets of the extension headers of a kind."""
    if name == "fraghdr":
        return [8 for _ in row.numbers("ipv6.fraghdr.nxt")]
    if name == "ah":
        return [(words + 2) * 4 for words in row.numbers("ah.length")]
    return row.numbers(f"ipv6.{name}.len_oct")


def _transport(row: Row, datagram: _Datagram) -> tuple[int, int]:
    """The ports; of ICMP, nothing and type * 256 + code."""
    if datagram.ip_protocol not in _TRANSPORTS:
        return 0, 0
    name, whole = _TRANSPORTS[datagram.ip_protocol]
    if datagram.left < whole:
        if not datagram.fragment:
            raise MalformedFrame("the transport header is longer than the packet")
        if datagram.left < 4:
            return 0, 0
    if datagram.ip_protocol in (_ICMP, _ICMPV6):
        return 0, row.number(f"{name}.type") * 256 + row.number(f"{name}.code")
    return row.number(f"{name}.srcport"), row.number(f"{name}.dstport")


def _counted(row: Row, datagram: _Datagram, protocol: int) -> Counts:
    return Counts(
        packets=1,
        octets_l2=row.number("frame.len"),
        octets_l3=datagram.octets,
        tcp_flags=_tcp_flags(row, datagram) if protocol == _TCP else None,
        dscp=row.number(f"{_DSCP[datagram.family]}.dscp"),
        start_ns=row.time_ns,
        end_ns=row.time_ns,
        source_mac=_mac(row, "eth.src") or _mac(row, "sll.src.eth"),
        destination_mac=_mac(row, "eth.dst"),
    )


def _tcp_flags(row: Row, datagram: _Datagram) -> int:
    if datagram.fragment == "later" or (datagram.fragment and datagram.left < _TCP_FLAGS_END):
        return 0
    header = row.number("tcp.hdr_len")
    if header < 20 or (header > datagram.left and not datagram.fragment):
        raise MalformedFrame("length of the TCP header")
    return row.number("tcp.flags")


def _mac(row: Row, name: str) -> str:
    """Of the frame's own link layer; a record has no address where it is zero."""
    text = row.text(name) if row.protocols[0] in name else ""
    return "" if text == "00:00:00:00:00:00" else text
