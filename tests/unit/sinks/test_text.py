"""Addresses as text against the standard library."""

from __future__ import annotations

import ipaddress

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from exporter.sinks.encodings.cells import (
    IPV4_CELLS,
    IPV6_CELLS,
    MAC_CELLS,
    Cells,
    addresses,
    ipv4s,
    ipv6s,
    macs,
)
from exporter.testing.batch import pack_address


def texts(cells: Cells) -> list[str]:
    return [row.tobytes().replace(b"\0", b"").decode() for row in cells]


def _is_plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    # How a mapped one is written differs from one Python to the next.
    return isinstance(address, ipaddress.IPv4Address) or address.ipv4_mapped is None


#: Groups of zeros often, so that there are runs of all lengths at all places.
GROUPS = st.lists(
    st.sampled_from((0, 0, 0, 1, 0x10, 0xABC, 0xFFFF)) | st.integers(0, 0xFFFF),
    min_size=8,
    max_size=8,
)


@given(st.lists(GROUPS, min_size=1, max_size=20))
def test_ipv6(rows: list[list[int]]) -> None:
    """What RFC 5952 says, for zero runs of every length and place."""
    octets = np.array(rows, ">u2").view(np.uint8).reshape(-1, 16)
    cells = ipv6s(octets)
    assert cells.shape == (len(rows), IPV6_CELLS)
    packed = [row.tobytes() for row in octets]
    # inet_ntop's dotted form of ::ffff/96 is IPv4's own business.
    expected = [
        str(ipaddress.IPv6Address(one)) if one[:12] != bytes(10) + b"\xff\xff" else None
        for one in packed
    ]
    found = texts(cells)
    assert [f for f, e in zip(found, expected, strict=True) if e] == [e for e in expected if e]


@given(st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=20))
def test_ipv4(numbers: list[int]) -> None:
    """Dotted decimal."""
    wanted = [str(ipaddress.IPv4Address(number)) for number in numbers]
    packed = b"".join(map(pack_address, wanted))
    cells = ipv4s(np.frombuffer(packed, np.uint8).reshape(-1, 16))
    assert cells.shape == (len(numbers), IPV4_CELLS)
    assert texts(cells) == wanted


@given(st.lists(st.ip_addresses().filter(_is_plain), max_size=20))
def test_both(mixed: list[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> None:
    """Rows of either family beside each other."""
    packed = b"".join(pack_address(str(one)) for one in mixed)
    octets = np.frombuffer(packed, np.uint8).reshape(-1, 16)
    is_ipv4 = np.array([one.version == 4 for one in mixed], np.bool_)
    assert texts(addresses(octets, is_ipv4)) == [str(one) for one in mixed]


@given(st.lists(st.binary(min_size=6, max_size=6), min_size=1, max_size=20))
def test_mac(packed: list[bytes]) -> None:
    """Six pairs of digits."""
    cells = macs(np.frombuffer(b"".join(packed), np.uint8).reshape(-1, 6))
    assert cells.shape == (len(packed), MAC_CELLS)
    assert texts(cells) == [mac.hex(":") for mac in packed]
