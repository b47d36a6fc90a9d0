"""
Where a function lies in an executable or a library: what a uprobe wants to know.

As much of ELF as that takes, both word sizes and both byte orders.

Source: elf(5); System V ABI, chapters 4 and 5.
"""

from __future__ import annotations

import errno as errnos
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.ebpf.errors import BpfError

_LOAD = 1  # PT_LOAD
_SYMTAB, _DYNSYM, _VERSYM = 2, 11, 0x6FFFFFFF  # SHT_*
_FUNCTION, _LOCAL = 2, 0  # STT_FUNC, STB_LOCAL
_UNDEFINED, _SPECIAL = 0, 0xFF00  # SHN_UNDEF, SHN_LORESERVE
_HIDDEN = 0x8000  # not the version that programs are linked with today

_Fields = list[tuple[str, str]]


@dataclass(frozen=True)
class _Layout:
    """Offsets in the file header, and the three tables' rows, of one word size."""

    tables: dict[str, tuple[int, str]]
    segment: _Fields
    section: _Fields
    symbol: _Fields


_COUNTS_32 = {"phentsize": (42, "u2"), "phnum": (44, "u2"), "shentsize": (46, "u2")}
_COUNTS_64 = {"phentsize": (54, "u2"), "phnum": (56, "u2"), "shentsize": (58, "u2")}
_LAYOUTS = {
    1: _Layout(
        {"phoff": (28, "u4"), "shoff": (32, "u4"), "shnum": (48, "u2"), **_COUNTS_32},
        [(name, "u4") for name in ("type", "offset", "vaddr", "paddr", "filesz")],
        [(name, "u4") for name in ("name", "type", "flags", "addr", "offset", "size", "link")],
        [("name", "u4"), ("value", "u4"), ("size", "u4"), ("info", "u1"), ("other", "u1"),
         ("shndx", "u2")],
    ),
    2: _Layout(
        {"phoff": (32, "u8"), "shoff": (40, "u8"), "shnum": (60, "u2"), **_COUNTS_64},
        [("type", "u4"), ("flags", "u4"), ("offset", "u8"), ("vaddr", "u8"), ("paddr", "u8"),
         ("filesz", "u8")],
        [("name", "u4"), ("type", "u4"), ("flags", "u8"), ("addr", "u8"), ("offset", "u8"),
         ("size", "u8"), ("link", "u4")],
        [("name", "u4"), ("info", "u1"), ("other", "u1"), ("shndx", "u2"), ("value", "u8"),
         ("size", "u8")],
    ),
}  # fmt: skip


def function_offset(path: Path, name: str) -> int:
    """
    Where a function begins, in octets from the beginning of the file.

    Args:
        path: An executable or shared library.
        name: As in the symbol table, stripped files' dynamic one included: mangled, no version.

    Raises:
        BpfError: ENOENT if the file defines no such function; EINVAL if it has several of that
            name, or is not ELF; the file's own errno if it cannot be read.
    """
    try:
        elf = _Elf(np.fromfile(path, np.uint8))
        addresses = elf.functions(name.encode())
        offsets = {elf.file_offset(address) for address in addresses}
    except OSError as err:
        raise BpfError(f"read {path}", err.errno or 0) from err
    except (ValueError, KeyError, IndexError) as err:
        raise BpfError(f"read {path}", errnos.EINVAL, "it is not a whole ELF file") from err
    if not offsets:
        raise BpfError(f"find {name} in {path}", errnos.ENOENT, "it defines no such function")
    if len(offsets) > 1:
        places = ", ".join(hex(offset) for offset in sorted(offsets))
        raise BpfError(f"find {name} in {path}", errnos.EINVAL, f"it is at {places}: name one")
    return offsets.pop()


class _Elf:
    """An ELF file's tables."""

    def __init__(self, content: NDArray[np.uint8]) -> None:
        self._content = content
        if content[:4].tobytes() != b"\x7fELF":
            raise ValueError("no ELF header")
        layout = _LAYOUTS[int(content[4])]
        self._order = {1: "<", 2: ">"}[int(content[5])]
        at = {name: self._number(*place) for name, place in layout.tables.items()}
        self._segments = self._table(layout.segment, at["phoff"], at["phnum"], at["phentsize"])
        self._sections = self._table(layout.section, at["shoff"], at["shnum"], at["shentsize"])
        self._symbol = self._dtype(layout.symbol)

    def functions(self, name: bytes) -> set[int]:
        """Addresses of the functions of that name; of exported ones only, if there are any."""
        exported: set[int] = set()
        local: set[int] = set()
        for kind in (_SYMTAB, _DYNSYM):
            for section in self._sections[self._sections["type"] == kind]:
                found = self._named(section, name)
                hidden = found["info"] >> 4 == _LOCAL
                exported.update(found["value"][~hidden].tolist())
                local.update(found["value"][hidden].tolist())
        return exported or local

    def file_offset(self, address: int) -> int:
        """Where an address of the running program lies in the file."""
        for segment in self._segments[self._segments["type"] == _LOAD]:
            inside = address - int(segment["vaddr"])
            if 0 <= inside < int(segment["filesz"]):
                return inside + int(segment["offset"])
        raise ValueError(f"no segment holds {address:#x}")

    def _named(self, section: Any, name: bytes) -> NDArray[Any]:
        symbols = self._bytes(section).view(self._symbol)
        texts = self._bytes(self._sections[int(section["link"])]).tobytes()
        # A name may be the tail of another one.
        places, place = [], texts.find(name + b"\0")
        while place >= 0:
            places.append(place)
            place = texts.find(name + b"\0", place + 1)
        chosen = np.isin(symbols["name"], np.array(places, np.uint32))
        chosen &= (symbols["info"] & 15) == _FUNCTION
        chosen &= (symbols["shndx"] != _UNDEFINED) & (symbols["shndx"] < _SPECIAL)
        versions = self._sections[self._sections["type"] == _VERSYM]
        if section["type"] == _DYNSYM and len(versions):
            chosen &= self._bytes(versions[0]).view(self._order + "u2") & _HIDDEN == 0
        return symbols[chosen]

    def _bytes(self, section: Any) -> NDArray[np.uint8]:
        begin = int(section["offset"])
        return self._content[begin : begin + int(section["size"])]

    def _number(self, offset: int, kind: str) -> int:
        return int(np.frombuffer(self._content, self._order + kind, 1, offset)[0])

    def _dtype(self, fields: _Fields) -> np.dtype[Any]:
        return np.dtype([(name, self._order + kind) for name, kind in fields])

    def _table(self, fields: _Fields, offset: int, rows: int, row_octets: int) -> NDArray[Any]:
        """Rows may be longer than the fields that are of interest."""
        dtype = self._dtype(fields)
        if not rows:
            return np.empty(0, dtype)
        raw = np.frombuffer(self._content, np.uint8, rows * row_octets, offset)
        return raw.reshape(rows, row_octets)[:, : dtype.itemsize].copy().view(dtype)[:, 0]
