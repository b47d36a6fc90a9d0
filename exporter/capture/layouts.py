"""
What a version's maps are read by, written beside them, so that another version can read them.

Structs are told by the names of their fields, outcomes by theirs: a version that adds, removes,
moves or widens a field reads what an earlier one counted; a field that the earlier one did not have
is zero. Units never change under one name: they are part of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.abi import layout

#: Octets of a written layout; ours takes a third.
OCTETS = 8192

#: What every version has, or its flows and counters could not be told.
_NEEDED = {
    "key": {"src_addr", "dst_addr", "ifindex", "direction"},
    "stats": {"first_mono_ns", "last_mono_ns", "packets", "octets_l2"},
    "record": {"key", "stats"},
    "counters": {"seen", "outcome"},
}


@dataclass(frozen=True)
class Layout:
    """
    Args:
        key, stats, record, counters: Dtypes of the structs in a set's maps.
        outcomes: Names of the outcomes, in the order of ``counters["outcome"]``.
    """

    key: np.dtype[Any]
    stats: np.dtype[Any]
    record: np.dtype[Any]
    counters: np.dtype[Any]
    outcomes: tuple[str, ...]

    def dumps(self) -> bytes:
        """For a map: JSON, padded with zero octets to ``OCTETS``."""
        structs = {name: _describe(getattr(self, name)) for name in _NEEDED}
        text = json.dumps({**structs, "outcomes": self.outcomes}, separators=(",", ":")).encode()
        assert len(text) <= OCTETS, f"a layout takes {len(text)} octets"
        return text.ljust(OCTETS, b"\0")

    @classmethod
    def loads(cls, octets: bytes) -> Layout:
        """
        What :meth:`dumps` wrote, whichever version's.

        Raises:
            ValueError: If it is no layout, or our structs cannot be made of it; says why.
        """
        try:
            found = json.loads(octets.rstrip(b"\0"))
            structs = {name: _parse(found[name]) for name in _NEEDED}
            read = cls(**structs, outcomes=tuple(map(str, found["outcomes"])))
        except (ValueError, TypeError, KeyError, LookupError) as err:
            raise ValueError(f"no layout: {err}") from err
        read._require_convertible()
        return read

    def _require_convertible(self) -> None:
        for name, needed in _NEEDED.items():
            lacking = needed - set(getattr(self, name).names or ())
            if lacking:
                raise ValueError(f"{name} has no {', '.join(sorted(lacking))}")
            _require(getattr(self, name), getattr(OURS, name), name)
        if self.counters["outcome"].shape < (len(self.outcomes),):
            raise ValueError("more outcomes are named than counted")


def convert(values: NDArray[Any], target: np.dtype[Any]) -> NDArray[Any]:
    """
    Values of another version's struct as ours.

    Args:
        values: Any shape.
        target: Our dtype of the struct.

    Returns:
        The values themselves if nothing differs, else a copy; what they lack is zero.
    """
    if values.dtype == target:
        return values
    converted = np.zeros(values.shape, target)
    for name in _shared(values.dtype, target):
        if target[name].names:
            converted[name] = convert(values[name], target[name])
        else:
            converted[name] = values[name]
    return converted


def _shared(there: np.dtype[Any], ours: np.dtype[Any]) -> list[str]:
    """Fields of both; padding is none, and counted outcomes are told by name elsewhere."""
    return [name for name in ours.names or () if name in (there.names or ()) and name != "_pad"]


def _require(there: np.dtype[Any], ours: np.dtype[Any], where: str) -> None:
    for name in _shared(there, ours):
        one, other, path = there[name], ours[name], f"{where}.{name}"
        if other.names:
            if not one.names:
                raise ValueError(f"{path} is {one}, not a struct")
            _require(one, other, path)
        elif path != "counters.outcome" and not _fits(one, other):
            raise ValueError(f"{path} is {one}, which does not fit into {other}")


def _fits(there: np.dtype[Any], ours: np.dtype[Any]) -> bool:
    return there.shape == ours.shape and np.can_cast(there.base, ours.base, "safe")


def _describe(dtype: np.dtype[Any]) -> Any:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return {"of": _describe(base), "shape": list(shape)}
    if dtype.fields is None:
        return dtype.str
    members = [[name, dtype.fields[name][1], _describe(dtype[name])] for name in dtype.names or ()]
    return {"members": members, "size": dtype.itemsize}


def _parse(text: Any) -> np.dtype[Any]:
    if isinstance(text, str):
        return np.dtype(text)
    if "of" in text:
        return np.dtype((_parse(text["of"]), tuple(text["shape"])))
    names, offsets, formats = zip(*text["members"], strict=True)
    return np.dtype(
        {
            "names": list(names),
            "formats": [_parse(one) for one in formats],
            "offsets": list(offsets),
            "itemsize": text["size"],
        }
    )


#: This version's.
OURS = Layout(
    layout.FLOW_KEY,
    layout.FLOW_STATS,
    layout.FLOW_RECORD,
    layout.COUNTERS,
    tuple(
        outcome.name.removeprefix("OUTCOME_").lower()
        for outcome in sorted(layout.Outcome)
        if outcome is not layout.Outcome.OUTCOMES
    ),
)
