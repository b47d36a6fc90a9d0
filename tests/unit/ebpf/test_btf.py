"""Types of the compiled object, and of bytes that are none."""

from __future__ import annotations

import contextlib
import signal
import struct
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.capture.loader import OBJECT_PATH
from exporter.ebpf.btf import Array, Btf, BtfError, Enum, Int, Member, Struct
from exporter.ebpf.errors import BpfError
from exporter.ebpf.object import ObjectSpec

U8, U16, U32 = Int(1, signed=False), Int(2, signed=False), Int(4, signed=False)


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    """The compiled object as a file says it; nothing enters the kernel."""
    return ObjectSpec.open(OBJECT_PATH)


def test_flow_key(spec: ObjectSpec) -> None:
    """The flow key as bpf/abi/flow_key.h declares it: 48 octets, no holes."""
    found = spec.btf.struct("flow_key")
    assert found == Struct(
        "flow_key",
        48,
        (
            Member("src_addr", 0, Array(U8, 16)),
            Member("dst_addr", 16, Array(U8, 16)),
            Member("ifindex", 32, U32),
            Member("src_port", 36, U16),
            Member("dst_port", 38, U16),
            Member("netns", 40, U16),
            Member("vlan_id", 42, U16),
            Member("inner_vlan_id", 44, U16),
            Member("ip_protocol", 46, U8),
            Member("direction", 47, U8),
        ),
    )


def test_nested_structs(spec: ObjectSpec) -> None:
    """A struct within a struct, and an array of structs."""
    record, counters = spec.btf.struct("flow_record"), spec.btf.struct("counters")
    assert record.members[0].type == spec.btf.struct("flow_key")
    assert counters.members[1] == Member("outcome", 16, Array(spec.btf.struct("tally"), 8))


def test_enum(spec: ObjectSpec) -> None:
    """Names and values in the order of declaration."""
    found = spec.btf.enum("flow_direction")
    assert found == Enum(
        "flow_direction", 4, (("FLOW_INGRESS", 0), ("FLOW_EGRESS", 1), ("FLOW_DIRECTIONS", 2))
    )


def test_settings(spec: ObjectSpec) -> None:
    """The constants of bpf/abi/settings.h, with their place in the section."""
    sizes = {variable.name: variable.size for variable in spec.variables}
    assert sizes.items() >= {"sampling_interval": 4, "netns": 2, "replay": 1}.items()
    ends = sorted((variable.offset, variable.size) for variable in spec.variables)
    assert all(at + size <= after for (at, size), (after, _) in pairwise(ends))


@pytest.mark.parametrize("name", ["flow_keys", "FLOW_INGRESS", "outcome"])
def test_no_such_struct(spec: ObjectSpec, name: str) -> None:
    """A name that is none, or something else's, is a KeyError."""
    with pytest.raises(KeyError):
        spec.btf.struct(name)


def test_not_an_object(tmp_path: Path) -> None:
    """A file that is missing, or is not an object, is an error that names it."""
    (tmp_path / "text.o").write_text("no object")
    for path in (tmp_path / "none.o", tmp_path / "text.o"):
        with pytest.raises(BpfError) as caught:
            ObjectSpec.open(path)
        assert str(path) in str(caught.value)


class Builder:
    """Writes a BTF section, type by type; types are numbered from 1."""

    def __init__(self) -> None:
        self.types = b""
        self.strings = b"\0"

    def text(self, name: str) -> int:
        at = len(self.strings)
        self.strings += name.encode() + b"\0"
        return at if name else 0

    def add(self, kind: int, name: str, size: int, tail: bytes = b"", info: int = 0) -> None:
        """``info`` is the number of members, and bit 31 for bit fields."""
        self.types += struct.pack("<III", self.text(name), kind << 24 | info, size) + tail

    def member(self, name: str, type_id: int, bits: int) -> bytes:
        return struct.pack("<III", self.text(name), type_id, bits)

    def section(self, magic: int = 0xEB9F) -> bytes:
        types, strings = len(self.types), len(self.strings)
        header = struct.pack("<HBBIIIII", magic, 1, 0, 24, 0, types, types, strings)
        return header + self.types + self.strings


def small() -> Builder:
    """1: unsigned int; 2: const; 3: typedef of that; 4: struct of such; 5: pointer; 6: struct."""
    made = Builder()
    made.add(1, "unsigned int", 4, struct.pack("<I", 32))
    made.add(10, "", 1)
    made.add(8, "word", 2)
    made.add(4, "pair", 8, made.member("a", 3, 0) + made.member("b", 1, 32), info=2)
    made.add(2, "", 4)
    made.add(4, "has_pointer", 8, made.member("p", 5, 0), info=1)
    return made


def test_modifiers_are_looked_through() -> None:
    """A typedef of a const of an int is an int."""
    found = Btf.parse(small().section()).struct("pair")
    assert found == Struct("pair", 8, (Member("a", 0, U32), Member("b", 4, U32)))


def test_signed_and_unions() -> None:
    """A signed int says so; the members of a union lie upon one another."""
    made = Builder()
    made.add(1, "int", 4, struct.pack("<I", 1 << 24 | 32))
    made.add(5, "either", 4, made.member("a", 1, 0) + made.member("b", 1, 0), info=2)
    found = Btf.parse(made.section()).struct("either")
    assert [(member.offset, member.type) for member in found.members] == [
        (0, Int(4, signed=True)),
        (0, Int(4, signed=True)),
    ]


def test_pointers_have_no_place_in_a_layout() -> None:
    """What cannot cross to user space is refused."""
    with pytest.raises(BtfError, match="kind 2 has no place"):
        Btf.parse(small().section()).struct("has_pointer")


def test_bit_fields_are_refused() -> None:
    """Members that are not whole octets are refused by name."""
    made = small()
    made.add(4, "bits", 4, made.member("three", 1, 3 << 24), info=1 | 1 << 31)
    with pytest.raises(BtfError, match="struct bits has a bit field: three"):
        Btf.parse(made.section()).struct("bits")


@pytest.mark.parametrize("magic", [0x9FEB, 0, 0xFFFF])
def test_other_magic(magic: int) -> None:
    """Big-endian BTF, or no BTF."""
    with pytest.raises(BtfError, match="not little-endian BTF"):
        Btf.parse(small().section(magic))


def read_everything(data: bytes) -> None:
    """All that a caller can ask of some bytes; unknown names are no error here. It must end."""

    def too_long(_number: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(10)
    try:
        types = Btf.parse(data)
        list(types.variables())
        for name in ("flow_key", "flow_record", "counters", "pair", "has_pointer"):
            with contextlib.suppress(KeyError):
                types.struct(name)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("length", [0, 1, 23, 24, 30])
def test_cut_short(length: int) -> None:
    """A section that ends before its types do."""
    with pytest.raises(BtfError):
        read_everything(small().section()[:length])


@given(st.data())
def test_cut_anywhere(spec: ObjectSpec, data: st.DataObject) -> None:
    """However much is missing of the object's types: BtfError, or what is there is read."""
    cut = data.draw(st.integers(0, len(spec.btf_bytes)))
    try:
        read_everything(spec.btf_bytes[:cut])
    except BtfError:
        assert cut < len(spec.btf_bytes)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=300)
def test_octets_that_are_wrong(changes: list[tuple[int, int]]) -> None:
    """Whatever octets are changed: BtfError, or something is read; it always ends."""
    damaged = bytearray(small().section())
    for at, octet in changes:
        damaged[at % len(damaged)] = octet
    with contextlib.suppress(BtfError):
        read_everything(bytes(damaged))


@given(st.binary(max_size=200))
def test_noise(data: bytes) -> None:
    """Random bytes are not BTF."""
    with pytest.raises(BtfError):
        Btf.parse(data)
