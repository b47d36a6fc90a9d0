"""Numbers of types as words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exporter.ebpf import kinds
from tests.conftest import missing

HEADER = Path("/usr/include/linux/bpf.h")


@pytest.mark.parametrize(
    ("enum", "prefix", "table"),
    [
        ("bpf_prog_type", "BPF_PROG_TYPE_", kinds.PROGRAM_TYPES),
        ("bpf_attach_type", "BPF_", kinds.ATTACH_TYPES),
        ("bpf_link_type", "BPF_LINK_TYPE_", kinds.LINK_TYPES),
    ],
)
def test_the_tables_are_the_headers(enum: str, prefix: str, table: dict[int, str]) -> None:
    """Every number that this host's header has stands in our table under that name."""
    if not HEADER.exists():
        missing(str(HEADER))
    body = re.search(rf"^enum {enum} {{(.*?)^}};", HEADER.read_text(), re.DOTALL | re.MULTILINE)
    assert body is not None
    names = re.findall(rf"^\s+{prefix}(\w+)", re.sub(r"/\*.*?\*/", "", body[1]), re.MULTILINE)
    assert len(names) >= 10
    expected = [{"unspec": "unspecified"}.get(n.lower(), n.lower()) for n in names]
    assert [table[number] for number in range(len(expected))] == expected


@pytest.mark.parametrize(
    ("number", "name"), [(0, "unspecified"), (6, "xdp"), (21, "sk_reuseport"), (31, "syscall")]
)
def test_program_types(number: int, name: str) -> None:
    """Both ways."""
    assert kinds.program_type(number) == name
    assert kinds.number_of(kinds.PROGRAM_TYPES, name) == number


def test_unknown_numbers_say_so() -> None:
    """A number of a newer kernel is kept, and is not taken for something else."""
    assert kinds.program_type(77) == "unknown (77)"
    assert kinds.attach_type(1000) == "unknown (1000)"
    assert kinds.link_type(99) == "unknown (99)"
    with pytest.raises(KeyError):
        kinds.number_of(kinds.LINK_TYPES, "nothing")


def test_newer_than_the_header() -> None:
    """TCX, netkit and what came with them: numbers that the kernel will not change."""
    assert (kinds.attach_type(46), kinds.attach_type(47)) == ("tcx_ingress", "tcx_egress")
    assert kinds.attach_type(37) == "xdp"
    assert kinds.attach_type(57) == "trace_uprobe_session"
    assert (kinds.link_type(6), kinds.link_type(11)) == ("xdp", "tcx")
    assert kinds.program_type(32) == "netfilter"
