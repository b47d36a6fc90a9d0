"""
A program's C source, with its own headers in it, and what it declares.

BCC gives instructions and nothing else: no symbols, no types. So what libbpf reads in an object is
read here in the source, as far as it is names, and asked of the compiler, as far as it is numbers.

Pure: text in, frozen values out. Run as a program it writes a source that can be shipped:
``python -m exporter.ebpf.bcc.source FROM TO``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from exporter.ebpf.errors import BpfError

#: Values that stand in the instructions where a map's descriptor or a setting belongs. Larger than
#: any descriptor, and with a low half that no constant of a program has by chance.
_FIRST_PLACE = 0x7E57_B000

#: What the kernel is told of a map; libbpf alone knows others, such as pinning.
_NUMBERS = ("type", "key_size", "value_size", "max_entries", "map_flags")

_OWN = re.compile(r'\s*#\s*include\s+"([^"]+)"')
#: User space's copies of the kernel's headers have other paths in the kernel's own tree.
_SYSTEM = re.compile(r"^(\s*#\s*include\s+)<linux/", re.MULTILINE)
#: What bpf_helpers.h and bpf_endian.h declare comes from BCC's helpers.h and bpf/kernel/bcc.h.
_LIBBPF = re.compile(r"^\s*#\s*include\s+<bpf/[^>]+>", re.MULTILINE)
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_DIRECTIVE = re.compile(r"^\s*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)

_MAP = re.compile(
    r"struct\s+(?:(?P<tag>\w+)|\{(?P<body>[^{}]*)\})\s+(?P<name>\w+)\s+"
    r'SEC\("\.maps"\)\s*(?:=\s*\{\s*\.values\s*=\s*\{(?P<values>[^{}]*)\}\s*,?\s*\})?\s*;'
)
_MEMBER = re.compile(r"__(uint|type|array)\((\w+),\s*((?:[^()]|\([^()]*\))+)\);")
_SETTING = re.compile(r"^\s*SETTING\(\s*([^,()]+?)\s*,\s*(\w+)\s*,\s*([^()]+?)\s*\);", re.MULTILINE)
_PROGRAM = re.compile(r'SEC\("([^"]+)"\)\s*int\s+(\w+)\s*\(')
_LICENCE = re.compile(r'SEC\("license"\)\s*=\s*"([^"]*)"')


@dataclass(frozen=True)
class MapDeclaration:
    """
    A map as its source declares it.

    Args:
        name: Of the variable.
        expression: C for an object of its type.
        members: (kind, name, argument) of each ``__uint``, ``__type`` and ``__array``.
        inner: Of a map of maps, what its elements look like.
        values: Of a map of maps, slot and name of the maps that it begins with.
    """

    name: str
    expression: str
    members: tuple[tuple[str, str, str], ...]
    inner: MapDeclaration | None = None
    values: tuple[tuple[int, str], ...] = ()

    def facts(self) -> dict[str, str]:
        """C expressions for what the kernel must be told, by ``type``, ``key_size`` and so on."""
        expressions: dict[str, str] = {}
        for kind, name, _ in self.members:
            member = f"sizeof(*{self.expression}.{name})"
            if kind == "uint" and name in _NUMBERS:
                expressions[name] = f"{member} / sizeof(int)"
            elif kind == "type":
                expressions[f"{name}_size"] = member
        return expressions


@dataclass(frozen=True)
class Setting:
    """A number that is chosen before load: its C type, and the C expression it has if it is not."""

    name: str
    type: str
    value: str


@dataclass(frozen=True)
class Source:
    """
    One C source and what it declares.

    Args:
        name: What errors call it.
        text: All of it, its own headers included.
        maps, settings: As declared.
        programs: Name and section.
        licence: What the kernel is told.
    """

    name: str
    text: str
    maps: tuple[MapDeclaration, ...]
    settings: tuple[Setting, ...]
    programs: tuple[tuple[str, str], ...]
    licence: str

    @classmethod
    def read(cls, path: Path) -> Source:
        """
        Read a source and the headers that it includes by ``""``.

        Raises:
            BpfError: If a file is missing, or a declaration is not understood.
        """
        return cls.parse(merge(path), path.name)

    @classmethod
    def parse(cls, text: str, name: str = "program") -> Source:
        """
        Read what a source says.

        Args:
            text: C, without includes of its own headers.
            name: What errors call it.

        Raises:
            BpfError: If it has a map that is not understood.
        """
        code = _DIRECTIVE.sub("", _COMMENT.sub(" ", text))
        licence = _LICENCE.search(code)
        return cls(
            name=name,
            text=text,
            maps=tuple(_maps(code, name)),
            settings=tuple(Setting(n, t, v) for t, n, v in _SETTING.findall(code)),
            programs=tuple((n, section) for section, n in _PROGRAM.findall(code)),
            licence=licence[1] if licence else "",
        )

    def places(self) -> dict[str, int]:
        """The number that stands in the instructions for each map and setting."""
        names = [*(m.name for m in self.maps), *(s.name for s in self.settings)]
        return {name: _FIRST_PLACE + index for index, name in enumerate(names)}

    def for_bcc(self, facts: Mapping[str, str]) -> str:
        """
        What BCC is given to compile.

        Args:
            facts: C integer expressions by the name of a function that returns it.

        Source: bcc src/cc/frontends/clang/loader.cc: everything in one text, else its functions
        are not found; the kernel's headers, not user space's, are in the search path.
        """
        places = [f"#define PLACE_{name} {value:#x}" for name, value in self.places().items()]
        functions = [
            f"long {name}(struct __sk_buff *skb)\n{{\n\treturn (long)({expression});\n}}"
            for name, expression in facts.items()
        ]
        adapted = _SYSTEM.sub(r"\1<uapi/linux/", _LIBBPF.sub("", self.text))
        return "\n".join(
            [
                "#define COMPILED_BY_BCC 1",
                "#include <linux/stddef.h>",
                *places,
                adapted,
                '#line 1 "facts"',
                *functions,
                "",
            ]
        )


def merge(path: Path) -> str:
    """
    A source with the headers in it that it includes by ``""``, each where it comes first.

    Raises:
        BpfError: If a file is missing.
    """
    return "\n".join(_lines(path, path.resolve().parent, set())) + "\n"


def _lines(path: Path, root: Path, seen: set[Path]) -> Iterator[str]:
    real = path.resolve()
    if real in seen:
        return
    seen.add(real)
    try:
        content = real.read_text()
    except OSError as err:
        raise BpfError(f"read {path}", err.errno or 0) from err
    shown = real.relative_to(root) if real.is_relative_to(root) else real
    if not content.startswith("#line"):
        yield f'#line 1 "{shown}"'
    for number, line in enumerate(content.splitlines(), 1):
        included = _OWN.match(line)
        if included:
            yield from _lines(real.parent / included[1], root, seen)
            yield f'#line {number + 1} "{shown}"'
        elif line.strip() == "#pragma once":
            yield ""
        else:
            yield line


def _maps(code: str, source: str) -> Iterator[MapDeclaration]:
    found = 0
    for match in _MAP.finditer(code):
        found += 1
        body = match["body"] if match["body"] is not None else _body(code, match["tag"], source)
        members = _members(body, source)
        arrays = [argument for kind, _, argument in members if kind == "array"]
        yield MapDeclaration(
            name=match["name"],
            expression=match["name"],
            members=members,
            inner=_inner(code, arrays[0], source) if arrays else None,
            values=_values(match["values"] or "", source),
        )
    declared = code.count('SEC(".maps")')
    if declared != found:
        raise BpfError(
            f"read {source}",
            0,
            f"{declared - found} of {declared} maps are declared in another way",
        )


def _inner(code: str, type_name: str, source: str) -> MapDeclaration:
    tag = type_name.removeprefix("struct").strip()
    return MapDeclaration("", f"(*(struct {tag} *)0)", _members(_body(code, tag, source), source))


def _members(body: str, source: str) -> tuple[tuple[str, str, str], ...]:
    rest = _MEMBER.sub("", body).strip()
    if rest:
        raise BpfError(f"read {source}", 0, f"a map has a member that is not understood: {rest}")
    return tuple((kind, name, argument.strip()) for kind, name, argument in _MEMBER.findall(body))


def _body(code: str, tag: str, source: str) -> str:
    found = re.search(rf"struct\s+{re.escape(tag)}\s*\{{([^{{}}]*)\}}\s*;", code)
    if found is None:
        raise BpfError(f"read {source}", 0, f"it has no struct {tag}")
    return found[1]


def _values(text: str, source: str) -> tuple[tuple[int, str], ...]:
    slots, following = [], 0
    for item in filter(None, (part.strip() for part in text.split(","))):
        found = re.fullmatch(r"(?:\[(\d+)\]\s*=\s*)?&(\w+)", item)
        if found is None:
            raise BpfError(f"read {source}", 0, f"{item} is no map to begin with")
        slot = int(found[1]) if found[1] else following
        slots.append((slot, found[2]))
        following = slot + 1
    return tuple(slots)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(merge(Path(sys.argv[1])))
