"""Instructions: constants that are read, immediates that are replaced."""

from __future__ import annotations

import pytest

from exporter.ebpf.errors import BpfError
from exporter.ebpf.instructions import constant, replaced

EXIT = bytes.fromhex("9500000000000000")


@pytest.mark.parametrize(
    ("code", "value"),
    [
        pytest.param("b700000030000000", 48, id="small"),
        pytest.param("b7000000ffffffff", -1, id="negative"),
        pytest.param("1800000000000080 0000000000000000", 1 << 31, id="wide"),
        pytest.param("18000000feffffff 00000000ffffffff", -2, id="wide and negative"),
    ],
)
def test_a_constant(code: str, value: int) -> None:
    """A move or a wide load into r0, and nothing else."""
    assert constant(bytes.fromhex(code) + EXIT) == value


@pytest.mark.parametrize("code", ["", "b701000030000000", "bf10000000000000", "8500000007000000"])
def test_no_constant(code: str) -> None:
    """Another register, a copy, a call: it is said instead of guessed."""
    with pytest.raises(BpfError, match="does not return a constant"):
        constant(bytes.fromhex(code) + EXIT)


def test_only_wide_loads_are_replaced() -> None:
    """
    A map and a setting get their values; the same number in a move, in the second half of a load,
    or in a load whose upper half is not zero, stays.
    """
    place = "00b0577e"
    program = bytes.fromhex(
        f"18110000{place} 0000000000000000"  # r1 = map
        f"18020000{place} 0000000000000000"  # r2 = setting
        f"b7030000{place}"
        f"1804000001000000 00000000{place}"
        f"18050000{place} 0000000001000000"
    )
    expected = bytes.fromhex(
        "1811000007000000 0000000000000000"
        "1802000007000000 0000000000000000"
        f"b7030000{place}"
        f"1804000001000000 00000000{place}"
        f"18050000{place} 0000000001000000"
    )
    assert replaced(program + EXIT, {0x7E57B000: 7}) == expected + EXIT
    assert replaced(program, {}) == program
