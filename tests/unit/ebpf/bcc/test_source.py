"""A source: its headers merged, its declarations read."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.ebpf.bcc.source import MapDeclaration, Setting, Source, merge
from exporter.ebpf.errors import BpfError

SOURCE = """
#include <linux/ip.h>
#include <bpf/bpf_helpers.h>
/* struct { __uint(type, 1); } commented SEC(".maps"); */
#define DECLARE(x) struct {} x SEC(".maps");
SETTING(__u16, port, 53); // of DNS
struct shape {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct key);
	__uint(value_size, sizeof(struct key));
	__uint(max_entries, 1 << 4);
	__uint(pinning, 1);
};
struct shape one SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 3);
	__type(key, __u32);
	__array(values, struct shape);
} many SEC(".maps") = {.values = {&one, [2] = &one}};
SEC("tc")
int look(struct __sk_buff *skb)
{
	return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""


def test_what_a_source_declares() -> None:
    """Maps with their members and first elements, settings, programs, licence; no comments."""
    source = Source.parse(SOURCE)
    one, many = source.maps
    assert (one.name, one.inner, one.values) == ("one", None, ())
    assert one.facts() == {
        "type": "sizeof(*one.type) / sizeof(int)",
        "key_size": "sizeof(*one.key)",
        "value_size": "sizeof(*one.value_size) / sizeof(int)",
        "max_entries": "sizeof(*one.max_entries) / sizeof(int)",
    }
    assert many.values == ((0, "one"), (2, "one"))
    assert many.inner == MapDeclaration("", "(*(struct shape *)0)", one.members)
    assert source.settings == (Setting("port", "__u16", "53"),)
    assert source.programs == (("look", "tc"),)
    assert source.licence == "GPL"


def test_what_bcc_is_given() -> None:
    """The kernel's headers instead of user space's, none of libbpf's, and a place for each name."""
    text = Source.parse(SOURCE).for_bcc({"fact_0": "sizeof(int)"})
    assert "#include <uapi/linux/ip.h>" in text
    assert "<bpf/" not in text
    assert "#define PLACE_one 0x7e57b000\n#define PLACE_many 0x7e57b001\n" in text
    assert "#define PLACE_port 0x7e57b002\n" in text
    assert text.endswith(
        "long fact_0(struct __sk_buff *skb)\n{\n\treturn (long)(sizeof(int));\n}\n"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param('struct gone one SEC(".maps");', "it has no struct gone", id="no struct"),
        pytest.param(
            'struct { __uint(type, 1); int odd; } one SEC(".maps");',
            "a map has a member that is not understood: int odd;",
            id="member",
        ),
        pytest.param(
            'static struct { __uint(type, 1); } maps[2] SEC(".maps");',
            "1 of 1 maps are declared in another way",
            id="array",
        ),
        pytest.param(
            'struct { __uint(type, 1); } one SEC(".maps") = {.values = {here()}};',
            r"here\(\) is no map to begin with",
            id="value",
        ),
    ],
)
def test_what_is_not_understood(text: str, reason: str) -> None:
    """It is an error that shows it, never a map that is quietly left out."""
    with pytest.raises(BpfError, match=f"^read odd.c: {reason}$"):
        Source.parse(text, "odd.c")


def test_headers_come_once_and_keep_their_lines(tmp_path: Path) -> None:
    """Each header stands where it is included first, under its own name and line numbers."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "a.c").write_text('#include "parts/b.h"\n#include "parts/c.h"\nint a;\n')
    (tmp_path / "parts/b.h").write_text('#pragma once\n#include "c.h"\nint b;\n')
    (tmp_path / "parts/c.h").write_text("#pragma once\n\nint c;\n")
    merged = merge(tmp_path / "a.c")
    assert merged.splitlines() == [
        '#line 1 "a.c"', '#line 1 "parts/b.h"', "",
        '#line 1 "parts/c.h"', "", "", "int c;",
        '#line 3 "parts/b.h"', "int b;", '#line 2 "a.c"', '#line 3 "a.c"', "int a;",
    ]  # fmt: skip
    again = tmp_path / "merged.c"
    again.write_text(merged)
    assert merge(again) == merged


def test_a_header_that_is_missing(tmp_path: Path) -> None:
    """It is named."""
    (tmp_path / "a.c").write_text('#include "gone.h"\n')
    with pytest.raises(BpfError, match=r"read .*gone\.h: No such file"):
        merge(tmp_path / "a.c")
