"""What another version wrote is read by the names of its fields, or refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from exporter.abi.layout import COUNTERS, FLOW_KEY, FLOW_RECORD, FLOW_STATS
from exporter.capture.layouts import OCTETS, OURS, Layout, convert


def test_ours_is_read_as_it_was_written() -> None:
    """With room for what later versions add."""
    written = OURS.dumps()
    assert len(written) == OCTETS
    assert written.rstrip(b"\0").__len__() < OCTETS // 2
    assert Layout.loads(written) == OURS


def test_equal_layouts_are_not_copied() -> None:
    """The running version's own maps cost nothing more."""
    values = np.zeros(3, FLOW_STATS)
    assert convert(values, FLOW_STATS) is values


def test_fields_are_found_by_name() -> None:
    """Moved, narrower, more and fewer fields, nested and in arrays of two axes."""
    there = np.dtype(
        [
            ("gone", "<u8"),
            ("stats", [("packets", "<u4"), ("src_mac", "u1", 6), ("_pad", "u1", 2)]),
            ("key", [("direction", "u1"), ("_pad", "u1", 3), ("ifindex", "<u4")]),
        ]
    )
    values = np.zeros((2, 3), there)
    values["gone"] = 1
    values["stats"]["packets"] = np.arange(6).reshape(2, 3)
    values["stats"]["src_mac"] = [1, 2, 3, 4, 5, 6]
    values["stats"]["_pad"] = 9
    values["key"]["ifindex"], values["key"]["direction"] = 7, 1
    found = convert(values, FLOW_RECORD)
    expected = np.zeros((2, 3), FLOW_RECORD)
    expected["stats"]["packets"] = np.arange(6).reshape(2, 3)
    expected["stats"]["src_mac"] = [1, 2, 3, 4, 5, 6]
    expected["key"]["ifindex"], expected["key"]["direction"] = 7, 1
    assert found.tobytes() == expected.tobytes()


def test_outcomes_keep_their_names() -> None:
    """Also in another order, and one that we do not have."""
    other = replace(OURS, outcomes=("not_ip", "unheard_of", "aggregated"))
    assert Layout.loads(other.dumps()).outcomes == ("not_ip", "unheard_of", "aggregated")


def changed(struct: str, change: Callable[[list[Any]], None]) -> bytes:
    """Our layout, with the members of a struct changed."""
    text = json.loads(OURS.dumps().rstrip(b"\0"))
    change(text[struct]["members"])
    return json.dumps(text).encode()


def drop(name: str) -> Callable[[list[Any]], None]:
    return lambda members: members.remove(next(one for one in members if one[0] == name))


def retype(name: str, kind: Any) -> Callable[[list[Any]], None]:
    def change(members: list[Any]) -> None:
        next(one for one in members if one[0] == name)[2] = kind

    return change


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (b"", "no layout"),
        (b"\xff", "no layout"),
        (b"[]", "no layout"),
        (b'{"key": "<u4"}', "no layout"),
        (b'{"key": "object"}', "no layout"),
        (changed("stats", drop("packets")), "stats has no packets"),
        (changed("key", drop("direction")), "key has no direction"),
        (changed("stats", retype("packets", "<f8")), "stats.packets is float64, which does not"),
        (
            changed("stats", retype("src_mac", {"of": "<u2", "shape": [6]})),
            "stats.src_mac is .*, which does not fit",
        ),
        (changed("key", retype("ifindex", "<i8")), "key.ifindex is int64"),
        (changed("counters", retype("seen", "<u8")), "counters.seen is uint64, not a struct"),
        (replace(OURS, outcomes=("x",) * 9).dumps(), "more outcomes are named than counted"),
    ],
)
def test_what_cannot_be_read(written: bytes, message: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match=message):
        Layout.loads(written)


def test_a_narrower_count_fits() -> None:
    """A field that has grown since."""
    octets = changed("counters", retype("flows_created", "<u4"))
    assert Layout.loads(octets).counters["flows_created"] == np.uint32
    assert COUNTERS["flows_created"] == np.uint64
    assert FLOW_KEY.itemsize == 48
