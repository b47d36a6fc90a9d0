"""Names of IP protocols."""

from __future__ import annotations

#: Keywords of the IANA protocol numbers registry, in lower case.
PROTOCOLS = {
    1: "icmp", 2: "igmp", 4: "ipv4", 6: "tcp", 17: "udp", 33: "dccp", 41: "ipv6", 46: "rsvp",
    47: "gre", 50: "esp", 51: "ah", 58: "ipv6-icmp", 59: "ipv6-nonxt", 88: "eigrp", 89: "ospfigp",
    94: "ipip", 103: "pim", 108: "ipcomp", 112: "vrrp", 115: "l2tp", 132: "sctp", 136: "udplite",
    137: "mpls-in-ip",
}  # fmt: skip


def protocol_name(number: int) -> str:
    """The IANA keyword in lower case; the number where there is none here."""
    return PROTOCOLS.get(number, str(number))
