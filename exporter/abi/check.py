"""At load: the object's layouts must be those this package was built for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from exporter.abi import layout
from exporter.abi.generate import STRUCTS
from exporter.ebpf.btf import Array, Btf, BtfError, Enum, Int, Struct, Type
from exporter.errors import AbiMismatchError


def dtype_of(kind: Type) -> np.dtype[Any]:
    """The NumPy dtype with the same layout, little-endian."""
    if isinstance(kind, Int):
        return np.dtype(f"<{'i' if kind.signed else 'u'}{kind.size}")
    if isinstance(kind, Enum):
        return np.dtype(f"<u{kind.size}")
    if isinstance(kind, Array):
        return np.dtype((dtype_of(kind.element), (kind.count,)))
    return struct_dtype(kind)


def struct_dtype(struct: Struct) -> np.dtype[Any]:
    """The NumPy dtype of a struct, holes included."""
    return np.dtype(
        {
            "names": [member.name for member in struct.members],
            "formats": [dtype_of(member.type) for member in struct.members],
            "offsets": [member.offset for member in struct.members],
            "itemsize": struct.size,
        }
    )


def check(btf: Btf) -> None:
    """
    Compare an object's types with ``layout.py``.

    Raises:
        AbiMismatchError: Naming every field that differs.
    """
    differences: list[str] = []
    for name in STRUCTS:
        expected = getattr(layout, name.upper())
        try:
            found = struct_dtype(btf.struct(name))
        except (KeyError, BtfError):
            differences.append(f"struct {name} is missing")
            continue
        differences += [f"{name}.{text}" for text in _differences(expected, found)]
    if differences:
        raise AbiMismatchError(differences)


def facts() -> list[str]:
    """C expressions whose values :func:`check_facts` compares: sizes and places of every member."""
    return list(_expected())


def check_facts(values: Mapping[str, int]) -> None:
    """
    Compare what a compiler makes of the headers with ``layout.py``, where there is no BTF.

    Args:
        values: Of :func:`facts`, by expression.

    Raises:
        AbiMismatchError: Naming every expression that differs.
    """
    differences = [
        f"{expression}: expected {expected}, found {values.get(expression, 'nothing')}"
        for expression, expected in _expected().items()
        if values.get(expression) != expected
    ]
    if differences:
        raise AbiMismatchError(differences)


def _expected() -> dict[str, int]:
    expected = {}
    for name in STRUCTS:
        dtype: np.dtype[Any] = getattr(layout, name.upper())
        expected[f"sizeof(struct {name})"] = dtype.itemsize
        fields: Mapping[str, Any] = dtype.fields or {}
        for member, field in fields.items():
            expected[f"sizeof(((struct {name} *)0)->{member})"] = field[0].itemsize
            expected[f"__builtin_offsetof(struct {name}, {member})"] = field[1]
    return expected


def _differences(expected: np.dtype[Any], found: np.dtype[Any]) -> Iterator[str]:
    ours, theirs = _places(expected), _places(found)
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        if ours.get(name) != theirs.get(name):
            expects, finds = (table.get(name, "nothing") for table in (ours, theirs))
            yield f"{name}: expected {expects}, found {finds}"
    if expected.itemsize != found.itemsize:
        yield f"size: expected {expected.itemsize}, found {found.itemsize}"


def _places(dtype: np.dtype[Any]) -> dict[str, str]:
    fields: Mapping[str, Any] = dtype.fields or {}
    return {name: f"{field[0]} at {field[1]}" for name, field in fields.items()}
