"""Addresses as text against the standard library."""

from __future__ import annotations

import ipaddress

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from exporter.sinks.encodings.ragged import Cells, Mask
from exporter.sinks.encodings.text import (
    IPV4_CELLS,
    IPV6_CELLS,
    MAC_CELLS,
    ipv4_cells,
    ipv6_cells,
    mac_cells,
)
from exporter.testing.batch import pack_address


def texts(cells: Cells, mask: Mask) -> list[str]:
    return [row[chosen].tobytes().decode() for row, chosen in zip(cells, mask, strict=True)]


#: Groups of zeros often, so that there are runs of all lengths at all places.
GROUPS = st.lists(
    st.sampled_from((0, 0, 0, 1, 0x10, 0xABC, 0xFFFF)) | st.integers(0, 0xFFFF),
    min_size=8,
    max_size=8,
)


@given(st.lists(GROUPS, min_size=1, max_size=20))
def test_ipv6(rows: list[list[int]]) -> None:
    """What RFC 5952 says, for zero runs of every length and place."""
    addresses = np.array(rows, ">u2").view(np.uint8).reshape(-1, 16)
    cells, mask = ipv6_cells(addresses)
    assert cells.shape == mask.shape == (len(rows), IPV6_CELLS)
    packed = [row.tobytes() for row in addresses]
    # inet_ntop's dotted form of ::ffff/96 is IPv4's own business.
    expected = [
        str(ipaddress.IPv6Address(one)) if one[:12] != bytes(10) + b"\xff\xff" else None
        for one in packed
    ]
    found = texts(cells, mask)
    assert [f for f, e in zip(found, expected, strict=True) if e] == [e for e in expected if e]


@given(st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=20))
def test_ipv4(numbers: list[int]) -> None:
    """Dotted decimal."""
    wanted = [str(ipaddress.IPv4Address(number)) for number in numbers]
    packed = b"".join(map(pack_address, wanted))
    cells, mask = ipv4_cells(np.frombuffer(packed, np.uint8).reshape(-1, 16))
    assert cells.shape == mask.shape == (len(numbers), IPV4_CELLS)
    assert texts(cells, mask) == wanted


@given(st.lists(st.binary(min_size=6, max_size=6), min_size=1, max_size=20))
def test_mac(macs: list[bytes]) -> None:
    """Six pairs of digits."""
    cells = mac_cells(np.frombuffer(b"".join(macs), np.uint8).reshape(-1, 6))
    assert cells.shape == (len(macs), MAC_CELLS)
    assert [row.tobytes().decode() for row in cells] == [mac.hex(":") for mac in macs]
