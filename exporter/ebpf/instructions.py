"""
BPF instructions: what stands in their immediates, and putting something else there.

Source: Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from exporter.ebpf.errors import BpfError

OCTETS = 8
_INSTRUCTION = struct.Struct("<BBhi")
_MOVE, _LOAD_64, _EXIT = 0xB7, 0x18, 0x95


def constant(function: bytes) -> int:
    """
    What a function returns that does nothing else.

    Raises:
        BpfError: If it is not a constant.
    """
    decoded = list(_INSTRUCTION.iter_unpack(function))
    if len(decoded) == 2 and decoded[0][:2] == (_MOVE, 0) and decoded[1][0] == _EXIT:
        return int(decoded[0][3])
    if len(decoded) == 3 and decoded[0][:2] == (_LOAD_64, 0) and decoded[2][0] == _EXIT:
        return int.from_bytes(
            decoded[0][3].to_bytes(4, "little", signed=True)
            + decoded[1][3].to_bytes(4, "little", signed=True),
            "little",
            signed=True,
        )
    raise BpfError("read a function", 0, "it does not return a constant")


def replaced(program: bytes, values: Mapping[int, int]) -> bytes:
    """
    A program with other values in its loads of 64-bit immediates.

    Args:
        program: Instructions, little-endian.
        values: What to put there, by what stands there. 32 bits each.

    Returns:
        A copy. Kinds of loads stay: a map's descriptor is still one.
    """
    result = bytearray(program)
    for at in _loads(program):
        low = int.from_bytes(program[at + 4 : at + 8], "little")
        if low in values and not any(program[at + 12 : at + 16]):
            result[at + 4 : at + 8] = values[low].to_bytes(4, "little")
    return bytes(result)


def _loads(program: bytes) -> Iterator[int]:
    """Where loads of 64-bit immediates begin; each takes two instructions."""
    at = 0
    while at < len(program):
        wide = program[at] == _LOAD_64
        if wide:
            yield at
        at += 2 * OCTETS if wide else OCTETS
