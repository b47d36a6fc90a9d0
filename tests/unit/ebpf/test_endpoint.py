"""An address as the key of a map."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ebpf.endpoint import EndpointKey
from exporter.ebpf.errors import BpfError


@pytest.mark.parametrize(
    ("address", "octets"),
    [
        # 16 of address, family, key, cluster in host order.
        ("0.0.0.0", "00000000 00000000 00000000 00000000 01 05 0201"),
        ("192.0.2.3", "c0000203 00000000 00000000 00000000 01 05 0201"),
        ("::", "00000000 00000000 00000000 00000000 02 05 0201"),
        ("fdff::ff", "fdff0000 00000000 00000000 000000ff 02 05 0201"),
    ],
)
def test_octets(address: str, octets: str) -> None:
    """The addresses of the ancestor's test as octets, and back."""
    key = EndpointKey(ipaddress.ip_address(address), cluster=0x0102, key=5)
    assert key.pack() == bytes.fromhex(octets)
    assert len(key.pack()) == EndpointKey.SIZE == 20
    assert EndpointKey.unpack(key.pack()) == key
    assert str(key) == f"{address}@258:5"


@given(address=st.ip_addresses(), cluster=st.integers(0, (1 << 16) - 1), key=st.integers(0, 255))
def test_round_trip(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, cluster: int, key: int
) -> None:
    """Every address of either family survives, also one that the other has too."""
    one = EndpointKey(address, cluster, key)
    assert EndpointKey.unpack(one.pack()) == one


@pytest.mark.parametrize(("cluster", "key"), [(-1, 0), (1 << 16, 0), (0, -1), (0, 256)])
def test_out_of_range(cluster: int, key: int) -> None:
    """A number that its octets cannot hold is refused where it is made."""
    with pytest.raises(ValueError, match="16 bits"):
        EndpointKey(ipaddress.IPv4Address("192.0.2.1"), cluster, key)


@pytest.mark.parametrize(
    "octets",
    ["", "00" * 19, "00" * 21, "00" * 20, "00" * 16 + "03000000", "00" * 15 + "ff" + "01000000"],
)
def test_what_is_no_key(octets: str) -> None:
    """Another length, another family, or an IPv4 address of more than four octets is refused."""
    with pytest.raises(BpfError, match="read endpoint key"):
        EndpointKey.unpack(bytes.fromhex(octets))
