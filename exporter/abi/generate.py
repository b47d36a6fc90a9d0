"""
Write ``layout.py`` from the types of the compiled object: ``python -m exporter.abi.generate``.

The C headers in ``bpf/abi`` are the source of truth. This turns their BTF into NumPy dtypes and
enums, which are checked in, so that a reader and the type checker see them; ``check.py`` refuses an
object that no longer agrees.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from exporter.ebpf.btf import Array, Btf, Enum, Int, Struct, Type
from exporter.ebpf.object import ObjectSpec

#: Structs and enums that cross from the kernel to user space, in the order they are written.
STRUCTS = (
    *("flow_key", "flow_stats", "flow_record", "tally", "counters"),
    *("dns_packet", "flow_owner", "socket_event"),
)
ENUMS = ("flow_direction", "tcp_flag_set", "outcome", "replay_context")

_HEADER = '''"""
GENERATED from bpf/abi by `make abi`; never edited.

Layouts of what the kernel program writes: NumPy dtypes of its structs, and its enums.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
'''


def render(btf: Btf) -> str:
    """The text of ``layout.py`` for an object's types. Raises KeyError if one is missing."""
    parts = [_HEADER]
    parts += [_render_enum(btf.enum(name)) for name in ENUMS]
    parts += [_render_struct(btf.struct(name)) for name in STRUCTS]
    return "\n".join(parts)


def _render_enum(enum: Enum) -> str:
    title = "".join(part.capitalize() for part in enum.name.split("_"))
    values = "".join(f"    {name} = {value}\n" for name, value in enum.values)
    return f'\nclass {title}(IntEnum):\n    """enum {enum.name}."""\n\n{values}'


def _render_struct(struct: Struct) -> str:
    names = "".join(f'            "{m.name}",\n' for m in struct.members)
    formats = "".join(f"            {_format(m.type)},\n" for m in struct.members)
    offsets = "".join(f"            {m.offset},\n" for m in struct.members)
    return (
        f"\n#: struct {struct.name}\n"
        f"{struct.name.upper()} = np.dtype(\n    {{\n"
        f'        "names": [\n{names}        ],\n'
        f'        "formats": [\n{formats}        ],\n'
        f'        "offsets": [\n{offsets}        ],\n'
        f'        "itemsize": {struct.size},\n    }}\n)\n'
    )


def _format(kind: Type) -> str:
    if isinstance(kind, Int):
        return f'"<{"i" if kind.signed else "u"}{kind.size}"'
    if isinstance(kind, Enum):
        return f'"<u{kind.size}"'
    if isinstance(kind, Array):
        return f"({_format(kind.element)}, ({kind.count},))"
    return kind.name.upper()


def main() -> int:
    """Write the layout, or with ``--check`` say whether it is current."""
    parser = argparse.ArgumentParser(prog="python -m exporter.abi.generate")
    parser.add_argument("object", type=Path, help="the compiled object, flow.bpf.o")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if it differs")
    arguments = parser.parse_args()
    target = Path(__file__).with_name("layout.py")
    text = render(ObjectSpec.open(arguments.object).btf)
    if not arguments.check:
        target.write_text(text)
        return 0
    if target.read_text() == text:
        return 0
    print(f"{target} is not what bpf/abi says: run 'make abi'", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
