"""Who talks to whom in the captures, all of it reserved for documentation (RFC 5737, RFC 3849)."""

from __future__ import annotations

import struct
from typing import Any

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

CLIENT, SERVER = "192.0.2.1", "198.51.100.2"
CLIENT6, SERVER6 = "2001:db8::1", "2001:db8:ffff::2"
#: Locally administered.
CLIENT_MAC, SERVER_MAC = "02:00:5e:00:00:01", "02:00:5e:00:00:02"
#: None of them makes a decoder look into the data.
CLIENT_PORT, SERVER_PORT = 40001, 50443

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def ethernet(payload: Any, **fields: Any) -> bytes:
    """An Ethernet frame from the client to the server."""
    return bytes(Ether(**({"src": CLIENT_MAC, "dst": SERVER_MAC} | fields)) / payload)


def reply(payload: Any) -> bytes:
    """An Ethernet frame from the server to the client."""
    return ethernet(payload, src=SERVER_MAC, dst=CLIENT_MAC)


def ipv4(payload: Any, **fields: Any) -> Any:
    """An IPv4 packet from the client to the server."""
    return IP(**({"src": CLIENT, "dst": SERVER} | fields)) / payload


def ipv6(payload: Any, **fields: Any) -> Any:
    """An IPv6 packet from the client to the server."""
    return IPv6(**({"src": CLIENT6, "dst": SERVER6} | fields)) / payload


def udp(octets: int = 4, sport: int = CLIENT_PORT, dport: int = SERVER_PORT) -> Any:
    """A UDP datagram."""
    return UDP(sport=sport, dport=dport) / Raw(bytes(octets))


def tcp(
    bits: int = ACK, octets: int = 0, sport: int = CLIENT_PORT, dport: int = SERVER_PORT
) -> Any:
    """A TCP segment with any of the twelve control bits."""
    segment = TCP(sport=sport, dport=dport, seq=1000, ack=2000, flags=bits & 0x1FF)
    segment.reserved = bits >> 9
    return segment / Raw(bytes(octets)) if octets else segment


def data(*octets: int) -> Raw:
    """Octets that scapy leaves alone."""
    return Raw(bytes(octets))


def with_octets(frame: bytes, at: int, layout: str, *values: int) -> bytes:
    """The frame with other octets in one place, to say what no builder would."""
    changed = bytearray(frame)
    struct.pack_into(layout, changed, at, *values)
    return bytes(changed)
