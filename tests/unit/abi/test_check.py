"""An object that was compiled from other headers is refused, and the message says where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from exporter.abi import layout
from exporter.abi.check import check, struct_dtype
from exporter.abi.generate import ENUMS, STRUCTS, render
from exporter.capture.loader import OBJECT_PATH
from exporter.ebpf.btf import Array, Btf, BtfError, Int, Member, Struct
from exporter.ebpf.object import ObjectSpec
from exporter.errors import AbiMismatchError

Change = Callable[[Struct], Struct]
U16, U64 = Int(2, signed=False), Int(8, signed=False)


class Other(Btf):
    """The types of the object, one struct changed."""

    def __init__(self, real: Btf, name: str, change: Change) -> None:
        super().__init__([], b"")
        self._real, self._name, self._change = real, name, change

    def struct(self, name: str) -> Struct:
        found = self._real.struct(name)
        return self._change(found) if name == self._name else found


@pytest.fixture(scope="module")
def btf() -> Btf:
    """The types of the compiled object."""
    return ObjectSpec.open(OBJECT_PATH).btf


def changed(field: str, **changes: object) -> Change:
    """Change a member."""

    def change(found: Struct) -> Struct:
        members = (replace(m, **changes) if m.name == field else m for m in found.members)  # type: ignore[arg-type]
        return replace(found, members=tuple(members))

    return change


def without(field: str) -> Change:
    def change(found: Struct) -> Struct:
        return replace(found, members=tuple(m for m in found.members if m.name != field))

    return change


def with_more(found: Struct) -> Struct:
    return replace(found, size=72, members=(*found.members, Member("rtt_ns", 64, U64)))


def missing(_found: Struct) -> Struct:
    raise KeyError("flow_stats")


def with_pointer(_found: Struct) -> Struct:
    raise BtfError("type kind 2 has no place in a layout")


def test_the_compiled_object_fits(btf: Btf) -> None:
    """The layouts of this package are those of its object."""
    check(btf)
    assert {name: struct_dtype(btf.struct(name)) for name in STRUCTS} == {
        name: getattr(layout, name.upper()) for name in STRUCTS
    }


@pytest.mark.parametrize(
    ("struct", "change", "expected"),
    [
        (
            "flow_key",
            changed("src_port", type=Int(4, signed=False)),
            ["flow_key.src_port: expected uint16 at 36, found uint32 at 36"],
        ),
        (
            "flow_key",
            changed("vlan_id", offset=44),
            ["flow_key.vlan_id: expected uint16 at 42, found uint16 at 44"],
        ),
        (
            "flow_key",
            changed("netns", name="namespace"),
            [
                "flow_key.netns: expected uint16 at 40, found nothing",
                "flow_key.namespace: expected nothing, found uint16 at 40",
            ],
        ),
        (
            "flow_stats",
            changed("src_mac", type=Array(Int(1, signed=False), 8)),
            ["flow_stats.src_mac: expected ('u1', (6,)) at 48, found ('u1', (8,)) at 48"],
        ),
        (
            "flow_stats",
            changed("packets", type=Int(8, signed=True)),
            ["flow_stats.packets: expected uint64 at 16, found int64 at 16"],
        ),
        (
            "flow_stats",
            without("dscp"),
            ["flow_stats.dscp: expected uint8 at 47, found nothing"],
        ),
        (
            "flow_stats",
            with_more,
            [
                "flow_stats.rtt_ns: expected nothing, found uint64 at 64",
                "flow_stats.size: expected 64, found 72",
            ],
        ),
        ("flow_stats", missing, ["struct flow_stats is missing"]),
        ("tally", with_pointer, ["struct tally is missing"]),
    ],
)
def test_a_difference_is_named(btf: Btf, struct: str, change: Change, expected: list[str]) -> None:
    """Which field of which struct, what was expected and what was found; and what to do."""
    with pytest.raises(AbiMismatchError) as caught:
        check(Other(btf, struct, change))
    assert caught.value.differences == expected
    text = str(caught.value)
    assert all(line in text for line in expected)
    assert text.endswith("run 'make setup'")
    assert len(text.splitlines()) == 1


def test_all_differences_at_once(btf: Btf) -> None:
    """Several fields in several structs: all are named."""
    other = Other(Other(btf, "tally", without("octets")), "flow_key", without("direction"))
    with pytest.raises(AbiMismatchError) as caught:
        check(other)
    assert caught.value.differences == [
        "flow_key.direction: expected uint8 at 47, found nothing",
        "tally.octets: expected uint64 at 8, found nothing",
    ]


def test_render_is_python(btf: Btf) -> None:
    """What is generated runs, and defines every struct and enum."""
    namespace: dict[str, object] = {}
    exec(compile(render(btf), "layout.py", "exec"), namespace)  # what was generated just now
    for name in STRUCTS:
        assert namespace[name.upper()] == getattr(layout, name.upper())
    for name in ENUMS:
        title = "".join(part.capitalize() for part in name.split("_"))
        assert dict(namespace[title].__members__) == dict(  # type: ignore[attr-defined]
            getattr(layout, title).__members__
        )
