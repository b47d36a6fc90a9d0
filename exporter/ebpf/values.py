"""
Keys and values: what a caller has, as the octets of a map, and back. Pure.

What is accepted, by size ``n`` of the map's key or value:

=============================== ==================================================================
int                             little-endian; must fit in ``n`` octets; a negative one needs n = 8
bool                            0 or 1
NumPy scalar                    its octets, as those of bytes: an integer has its own width, and a
                                field of a struct its own byte order
bytes, bytearray, memoryview    as they are, zero padded; must fit
str                             UTF-8, as bytes
IPv4Network, IPv6Network        prefix length as u32 little-endian, address in network order
IPv4Address, IPv6Address        as a network of full length
=============================== ==================================================================

Source: include/uapi/linux/bpf.h struct bpf_lpm_trie_key.
"""

from __future__ import annotations

import errno as errnos
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import numpy as np

from exporter.ebpf.errors import BpfError

Network = IPv4Network | IPv6Network
#: Everything that :func:`encode` takes.
Value = (
    int
    | str
    | bytes
    | bytearray
    | memoryview
    | np.generic
    | IPv4Network
    | IPv6Network
    | IPv4Address
    | IPv6Address
)

#: A negative integer has no width of its own: it takes that of the widest.
_NEGATIVE_OCTETS = 8
_PREFIX_LENGTH_OCTETS = 4


def encode(value: Value, size: int) -> bytes:
    """
    A key or value as the octets of a map.

    Args:
        value: One of the kinds in the module's table.
        size: Octets wanted.

    Returns:
        ``size`` octets.

    Raises:
        BpfError: EOVERFLOW if the value does not fit; EINVAL if it is of another kind.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        octets = bytes(value)
    elif isinstance(value, str):
        octets = value.encode()
    elif isinstance(value, np.generic):
        octets = value.tobytes()
    elif isinstance(value, int):
        octets = _integer(value, size)
    elif isinstance(value, (IPv4Address, IPv6Address)):
        octets = prefix_octets(ip_network(value))
    elif isinstance(value, (IPv4Network, IPv6Network)):
        octets = prefix_octets(value)
    else:
        raise BpfError(
            "convert a value", errnos.EINVAL, f"{type(value).__name__} is not a kind of value"
        )
    if len(octets) > size:
        raise _too_large(value, size)
    return octets.ljust(size, b"\0")


def network(text: str) -> Network:
    """
    The prefix that a text names: host bits are cleared, a bare address is a prefix of one address.

    Raises:
        BpfError: EINVAL if the text is neither.
    """
    try:
        return ip_network(text, strict=False)
    except ValueError as err:
        raise BpfError(f"read prefix {text!r}", errnos.EINVAL, str(err)) from err


def prefix_octets(prefix: Network) -> bytes:
    """The key of a prefix in an LPM trie: 8 octets of IPv4, 20 of IPv6."""
    length = prefix.prefixlen.to_bytes(_PREFIX_LENGTH_OCTETS, "little")
    return length + prefix.network_address.packed


def prefix_of(octets: bytes) -> Network:
    """
    The prefix of a key in an LPM trie.

    Raises:
        BpfError: EINVAL unless these are 8 or 20 octets with a prefix length that is one.
    """
    length = int.from_bytes(octets[:_PREFIX_LENGTH_OCTETS], "little")
    try:
        return ip_network((octets[_PREFIX_LENGTH_OCTETS:], length), strict=False)
    except ValueError as err:
        raise BpfError("read a prefix", errnos.EINVAL, str(err)) from err


def integer(octets: bytes, *, signed: bool = False) -> int:
    """
    A little-endian integer of 1 to 8 octets.

    Raises:
        BpfError: EINVAL if there are none, or more.
    """
    if not 1 <= len(octets) <= 8:
        raise BpfError("read an integer", errnos.EINVAL, f"it has 1 to 8 octets, not {len(octets)}")
    return int.from_bytes(octets, "little", signed=signed)


def text(octets: bytes) -> str:
    """UTF-8 up to the first NUL, or all of it; octets that are none are shown as U+FFFD."""
    return octets.split(b"\0", 1)[0].decode(errors="replace")


def _integer(value: int, size: int) -> bytes:
    if value < 0:
        if size < _NEGATIVE_OCTETS or value < -(1 << 63):
            raise _too_large(value, size)
        return value.to_bytes(size, "little", signed=True)[:_NEGATIVE_OCTETS]
    try:
        return value.to_bytes(size, "little")
    except OverflowError:
        raise _too_large(value, size) from None


def _too_large(value: object, size: int) -> BpfError:
    return BpfError(
        "convert a value", errnos.EOVERFLOW, f"{value!r} does not fit in {size} octet(s)"
    )
