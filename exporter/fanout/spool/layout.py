"""
What columns a stored batch has: written beside the rows, so that another version never misreads.

A version reads what it can convert without losing anything: columns that it knows, of types that
its own can hold. Columns that the other did not have are zero. Anything else is refused.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter.abi.layout import FLOW_KEY
from exporter.batch.batch import ROW_COLUMNS

#: Of segments, frames and bodies. Another one is refused.
VERSION = 1

_KINDS: dict[str, Any] = {
    "key": FLOW_KEY,
    "flow_start_ns": "<u8",
    "flow_end_ns": "<u8",
    "packet_count": "<u8",
    "octet_count_l2": "<u8",
    "octet_count_l3": "<u8",
    "sampling_interval": "<u4",
    "tcp_control_bits": "<u2",
    "tcp_flag_sets": "u1",
    "dscp": "u1",
    "src_mac": ("u1", (6,)),
    "dst_mac": ("u1", (6,)),
    "flow_end_reason": "u1",
    "duplicate": "?",
    "points": "<u4",
}
#: The dtype of what one row has in each column.
TYPES: dict[str, np.dtype[Any]] = {name: np.dtype(kind) for name, kind in _KINDS.items()}
assert tuple(TYPES) == ROW_COLUMNS

#: Octets of a row in memory.
ROW_OCTETS = sum(kind.itemsize for kind in TYPES.values())


@dataclass(frozen=True)
class Layout:
    """
    Columns by name.

    Args:
        types: As :data:`TYPES`.
    """

    types: dict[str, np.dtype[Any]]

    @functools.cached_property
    def text(self) -> bytes:
        """The columns as JSON: what a segment begins with."""
        columns = {name: _describe(kind) for name, kind in self.types.items()}
        return json.dumps({"version": VERSION, "columns": columns}).encode()

    @functools.cached_property
    def digest(self) -> bytes:
        """Eight octets; equal layouts, equal digests."""
        return hashlib.sha256(self.text).digest()[:8]

    def missing(self, own: Layout) -> str:
        """A column of this layout that ``own`` cannot hold; empty if it can hold all."""
        for name, kind in self.types.items():
            if name not in own.types or not _holds(own.types[name], kind):
                return name
        return ""


def parse(text: bytes) -> Layout:
    """
    A layout from its JSON.

    Raises:
        ValueError: If it is of another version of the format, or not a layout.
    """
    try:
        found = json.loads(text)
        if found["version"] != VERSION:
            raise ValueError(f"format {found['version']!r}")
        return Layout({name: _parse(kind) for name, kind in found["columns"].items()})
    except (KeyError, TypeError) as err:
        raise ValueError("not a layout") from err


def convert(rows: np.ndarray[Any, Any], kind: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """A column as another type that can hold it; fields that it does not have are zero."""
    if kind.names is None:
        return rows.astype(kind.base)
    converted = np.zeros(len(rows), kind)
    for name in rows.dtype.names or ():
        converted[name] = rows[name]
    return converted


OWN = Layout(TYPES)


def _describe(kind: np.dtype[Any]) -> Any:
    if kind.fields is not None:
        fields = {name: [_describe(one), at] for name, (one, at, *_) in kind.fields.items()}
        return {"octets": kind.itemsize, "fields": fields}
    return [kind.base.str, list(kind.shape)]


def _parse(text: Any) -> np.dtype[Any]:
    if isinstance(text, dict):
        fields = text["fields"]
        return np.dtype(
            {
                "names": list(fields),
                "formats": [_parse(one) for one, _ in fields.values()],
                "offsets": [at for _, at in fields.values()],
                "itemsize": text["octets"],
            }
        )
    name, shape = text
    if name[1:2] not in ("u", "i", "f", "b"):
        raise ValueError(f"a column of {name!r}")
    return np.dtype((name, tuple(shape)))


def _holds(own: np.dtype[Any], other: np.dtype[Any]) -> bool:
    """Whether every value of one type is also one of another."""
    if other.fields is None or own.fields is None:
        same_kind = (own.fields is None) == (other.fields is None)
        return same_kind and own.shape == other.shape and np.can_cast(other.base, own.base, "safe")
    return all(
        name in own.fields and _holds(own.fields[name][0], one)
        for name, (one, *_) in other.fields.items()
    )
