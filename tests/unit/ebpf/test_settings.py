"""Python values to the octets of a global."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ebpf.btf import Array, Enum, Int, Member, Struct, Type
from exporter.ebpf.settings import SettingError, encode, size_of

U8, U16, S32, U64 = Int(1, False), Int(2, False), Int(4, True), Int(8, False)
CHAR = Int(1, True)
MODE = Enum("mode", 4, (("OFF", 0), ("ON", 7)))
SIGNED = Enum("level", 4, (("LOW", -1), ("HIGH", 1)))
PAIR = Struct("pair", 8, (Member("port", 0, U16), Member("delta", 4, S32)))
PAIRS = Array(PAIR, 2)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (U16, 0x1234, "3412"),
        (U16, True, "0100"),
        (S32, -2, "feffffff"),
        (S32, np.int8(-2), "feffffff"),
        (U64, np.uint8(9), "0900000000000000"),
        (U64, 2**64 - 1, "ff" * 8),
        (MODE, "ON", "07000000"),
        (MODE, 3, "03000000"),
        (SIGNED, "LOW", "ffffffff"),
        (Array(U16, 3), [1, 2, 3], "010002000300"),
        (Array(U16, 3), (1, 2, 65535), "01000200ffff"),
        (Array(U16, 2), np.array([5, 6], "<u2"), "05000600"),
        (Array(Array(U8, 2), 2), [[1, 2], b"\3\4"], "01020304"),
        (Array(CHAR, 6), "ab", "616200000000"),
        (Array(U8, 4), "\u00e9", "c3a90000"),
        (Array(U8, 2), b"\xff\xfe", "fffe"),
        (PAIR, {"delta": -1}, "1111222 2ffffffff".replace(" ", "")),
        (PAIR, {"port": 5, "delta": 6}, "0500222206000000"),
        (PAIRS, [{"port": 1}, {"delta": 2}], "01002222 33333333 11112222 02000000"),
        (None, bytes(8), "00" * 8),
    ],
)
def test_values(kind: Type | None, value: Any, expected: str) -> None:
    """Little-endian, signed as the type is; what is not named keeps its octets."""
    size = len(bytes.fromhex(expected))
    current = bytes.fromhex("1111222233333333" * 8)[:size]
    assert encode(kind, size, value, current) == bytes.fromhex(expected)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (U16, 65536, "it is unsigned and has 16 bits: 65536 does not fit"),
        (U16, -1, "it is unsigned and has 16 bits: -1 does not fit"),
        (S32, -(2**31) - 1, "it is signed and has 32 bits: -2147483649 does not fit"),
        (S32, "5", "it is a number, not str"),
        (S32, 1.5, "it is a number, not float"),
        (U16, b"\1", "it has 2 octets, not 1"),
        (MODE, "AUTO", "it is one of OFF, ON, not AUTO"),
        (MODE, -1, "it is unsigned and has 32 bits: -1 does not fit"),
        (Array(U16, 3), [1, 2], "it has 3 elements, not 2"),
        (Array(U16, 3), [1, 2, 65536], "[2] is unsigned and has 16 bits: 65536 does not fit"),
        (Array(U16, 3), 5, "it is an array, not int"),
        (Array(U16, 3), "abc", "it is no array of characters"),
        (Array(CHAR, 3), "abc", "it has room for 2 octets of text, not 3"),
        (PAIR, {"prot": 1}, "it has no member prot: port, delta"),
        (PAIR, 5, "it is a struct, not int"),
        (PAIRS, [{}, {"delta": 2**31}], "[1].delta is signed and has 32 bits: 2147483648 does"),
        (PAIRS, [{}, bytes(7)], "[1] has 8 octets, not 7"),
        (None, 5, "its type has no Python value: give it as 4 octets"),
    ],
)
def test_what_does_not_fit(kind: Type | None, value: Any, message: str) -> None:
    """The error says which part of the value, and why."""
    with pytest.raises(SettingError) as got:
        encode(kind, 4 if kind is None else size_of(kind), value)
    assert str(got.value).startswith(message)


@given(st.integers(), st.sampled_from([1, 2, 4, 8]), st.booleans())
def test_numbers_are_exact_or_refused(number: int, size: int, signed: bool) -> None:
    """Every number comes back as it was, or is refused: none is cut."""
    try:
        octets = encode(Int(size, signed), size, number)
    except SettingError:
        low, high = (-(1 << 8 * size - 1), 1 << 8 * size - 1) if signed else (0, 1 << 8 * size)
        assert not low <= number < high
    else:
        assert int.from_bytes(octets, "little", signed=signed) == number
