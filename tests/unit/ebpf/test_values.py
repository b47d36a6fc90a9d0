"""The conversion table, both ways: expectations of ebpfgo's own tests, and what they left out."""

from __future__ import annotations

import errno
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ebpf.errors import BpfError
from exporter.ebpf.values import encode, integer, network, prefix_octets, prefix_of, text

PAIR = np.dtype([("port", ">u2"), ("count", "<u4")])


@pytest.mark.parametrize(
    ("value", "size", "octets"),
    [
        # integers have no width
        (0, 0, b""),
        (0xFF, 1, b"\xff"),
        (0xFF00, 2, b"\x00\xff"),
        (0x7FFEFDFC, 4, b"\xfc\xfd\xfe\x7f"),
        (0x7FFFFFFF, 4, b"\xff\xff\xff\x7f"),
        (0x7FFFFFFFFFFFFFFF, 8, b"\xff" * 7 + b"\x7f"),
        (0xFFFFFFFFFFFFFFFF, 8, b"\xff" * 8),
        (0x7F, 1, b"\x7f"),
        (0x7F, 2, b"\x7f\0"),
        (0x7F, 4, b"\x7f\0\0\0"),
        (0x7F, 8, b"\x7f" + bytes(7)),
        (True, 1, b"\1"),
        # but a negative one
        (-1, 8, b"\xff" * 8),
        (-100, 8, b"\x9c" + b"\xff" * 7),
        (-1, 10, b"\xff" * 8 + b"\0\0"),
        # NumPy's have
        (np.uint8(0), 1, b"\0"),
        (np.uint8(1), 2, b"\1\0"),
        (np.uint8(0x7F), 4, b"\x7f\0\0\0"),
        (np.uint8(0xFF), 8, b"\xff" + bytes(7)),
        (np.uint16(0), 2, b"\0\0"),
        (np.uint16(0xFF), 4, b"\xff\0\0\0"),
        (np.uint16(0xFFFF), 8, b"\xff\xff" + bytes(6)),
        (np.uint32(0), 4, bytes(4)),
        (np.uint32(0xFF), 4, b"\xff\0\0\0"),
        (np.uint32(0xFFFF), 4, b"\xff\xff\0\0"),
        (np.uint32(0xFFFFFF), 4, b"\xff\xff\xff\0"),
        (np.uint32(0xFFFFFFFF), 4, b"\xff" * 4),
        (np.uint32(0xFFFFFFFF), 8, b"\xff" * 4 + bytes(4)),
        (np.uint64(0), 8, bytes(8)),
        (np.uint64(0xFFFFFFFF), 8, b"\xff" * 4 + bytes(4)),
        (np.uint64(0xFFFFFFFFFFFFFFFF), 8, b"\xff" * 8),
        (np.int32(-1), 4, b"\xff" * 4),
        (np.array((0x1234, 5), PAIR)[()], 6, b"\x12\x34\x05\0\0\0"),
        (np.array((0x1234, 5), PAIR)[()], 8, b"\x12\x34\x05\0\0\0\0\0"),
        # texts
        ("", 0, b""),
        ("", 1, b"\0"),
        ("a", 1, b"a"),
        ("b", 4, b"b\0\0\0"),
        ("bc", 4, b"bc\0\0"),
        ("aaaa", 4, b"aaaa"),
        ("ü", 3, b"\xc3\xbc\0"),
        # octets
        (b"", 0, b""),
        (b"", 1, b"\0"),
        (b"a", 1, b"a"),
        (b"b\0\0\0", 4, b"b\0\0\0"),
        (bytearray(b"a"), 2, b"a\0"),
        (memoryview(b"a"), 2, b"a\0"),
        # prefixes
        (network("192.168.1.0/24"), 8, b"\x18\0\0\0\xc0\xa8\x01\x00"),
        (network("192.168.1.55/24"), 8, b"\x18\0\0\0\xc0\xa8\x01\x00"),
        (network("192.168.1.1"), 8, b"\x20\0\0\0\xc0\xa8\x01\x01"),
        (IPv4Address("192.168.1.1"), 8, b"\x20\0\0\0\xc0\xa8\x01\x01"),
        (network("0.0.0.0/0"), 8, bytes(8)),
        (network("::/0"), 20, bytes(20)),
        (network("::1/64"), 20, b"\x40" + bytes(19)),
        (network("FE80::8329"), 20, b"\x80\0\0\0\xfe\x80" + bytes(12) + b"\x83\x29"),
    ],
)
def test_encode(value: Any, size: int, octets: bytes) -> None:
    """What is accepted becomes exactly these octets."""
    assert encode(value, size) == octets


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0x1FF, 1),
        (0x10FFFF, 2),
        (0x10FFFFFFFF, 4),
        (-1, 4),
        (-(1 << 63) - 1, 8),
        (1 << 64, 8),
        (np.uint8(0), 0),
        (np.uint16(1), 1),
        (np.uint32(1), 3),
        (np.uint64(1), 7),
        ("1", 0),
        ("1dasdasdsa", 3),
        (b"a", 0),
        (b"a\0\1\2\3", 3),
        (network("192.168.1.0/24"), 7),
        (network("::/0"), 8),
    ],
)
def test_what_does_not_fit(value: Any, size: int) -> None:
    """More octets than there is room for is an overflow, never a cut."""
    with pytest.raises(BpfError, match="does not fit") as caught:
        encode(value, size)
    assert caught.value.errno == errno.EOVERFLOW


@pytest.mark.parametrize("value", [None, 1.5, [1], object()])
def test_other_kinds(value: Any) -> None:
    """A kind that has no octets of its own is refused by its name."""
    with pytest.raises(BpfError, match=f"{type(value).__name__} is not a kind"):
        encode(value, 8)


@pytest.mark.parametrize("words", ["", "garbage", "1.2.3", "1.2.3.4/33", "::/129", "1.2.3.4/x"])
def test_no_prefix(words: str) -> None:
    """A text that is no prefix is an error, where ebpfgo gives nothing and no error."""
    with pytest.raises(BpfError, match="prefix") as caught:
        network(words)
    assert caught.value.errno == errno.EINVAL


@given(st.ip_addresses(), st.integers(0, 128))
def test_prefixes_come_back(address: Any, length: int) -> None:
    """A prefix that was encoded is read again."""
    prefix = network(f"{address}/{min(length, address.max_prefixlen)}")
    assert prefix_of(prefix_octets(prefix)) == prefix


@pytest.mark.parametrize("octets", [b"", bytes(5), b"\x21\0\0\0\1\2\3\4", bytes(21)])
def test_octets_that_are_no_prefix(octets: bytes) -> None:
    """Neither 8 nor 20 octets, or longer than the address, is an error."""
    with pytest.raises(BpfError, match="read a prefix"):
        prefix_of(octets)


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"\xff", 0xFF),
        (b"\0\xff", 0xFF00),
        (b"\xe8\3", 1000),
        (b"\xfc\xfd\xfe\x7f", 0x7FFEFDFC),
        (b"\xff\xff\xff\x7f", 0x7FFFFFFF),
        (b"\xff" * 7 + b"\x7f", 0x7FFFFFFFFFFFFFFF),
        (b"\xff" * 8, 0xFFFFFFFFFFFFFFFF),
        (b"\x7f\0\0\0", 0x7F),
        (b"\x7f" + bytes(7), 0x7F),
        (b"\1\2\3", 0x030201),
    ],
)
def test_integer(octets: bytes, expected: int) -> None:
    """One to eight octets, the lowest first."""
    assert integer(octets) == expected


def test_signed_integers() -> None:
    """Two's complement of as many octets as there are."""
    assert integer(b"\xff" * 8, signed=True) == -1
    assert integer(b"\x9c\xff", signed=True) == -100


@pytest.mark.parametrize("octets", [b"", bytes(9)])
def test_no_integer(octets: bytes) -> None:
    """No octets, or more than eight, are no integer."""
    with pytest.raises(BpfError, match="1 to 8 octets"):
        integer(octets)


@pytest.mark.parametrize(
    ("octets", "expected"),
    [(b"abc", "abc"), (b"def\0g", "def"), (b"\0h", ""), (b"\0", ""), (b"", ""), (b"\xff\0", "�")],
)
def test_text(octets: bytes, expected: str) -> None:
    """Up to the first NUL."""
    assert text(octets) == expected


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_integers_come_back(value: int) -> None:
    """What fits in eight octets is read as it was written."""
    assert integer(encode(value, 8), signed=True) == value


def test_networks_are_the_standard_librarys() -> None:
    """Either family."""
    assert network("10.1.2.3/8") == IPv4Network("10.0.0.0/8")
    assert network("2001:db8::1") == IPv6Network("2001:db8::1/128")
