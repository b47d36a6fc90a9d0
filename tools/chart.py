"""
Write what the Helm chart says of its values: ``python tools/chart.py [--check]``.

helm/flow-exporter/values.yaml is the source: the comment above a key describes it, and a line
``@schema {...}`` in it is JSON schema beside what the key's default says. Made of it are
values.schema.json and the table in the chart's README.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "helm" / "flow-exporter"
_BEGIN, _END = "<!-- Made by `make docs` of values.yaml. -->\n", "<!-- Until here. -->\n"
_MARK = "@schema "
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}


@dataclass(frozen=True)
class Key:
    """
    One key of values.yaml.

    Args:
        path: From the top.
        meaning: Its comment, in one line.
        default: What it is if it is not given.
        more: JSON schema that its comment has.
        keys: Those below it; none of a value that is written in one line.
    """

    path: tuple[str, ...]
    meaning: str
    default: Any
    more: dict[str, Any]
    keys: tuple[Key, ...]


def keys(text: str) -> tuple[Key, ...]:
    """
    Keys of a values.yaml, in order.

    Raises:
        ValueError: If one has no comment.
    """
    node = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode), "values are a mapping"
    return tuple(_below(node, (), yaml.safe_load(text), text.splitlines()))


def schema(found: tuple[Key, ...]) -> dict[str, Any]:
    """JSON schema of the values. ``global`` is Helm's own, for charts that this one is part of."""
    properties = {key.path[-1]: _schema_of(key) for key in found}
    return {
        "$schema": "https://json-schema.org/draft-07/schema#",
        "title": "Values of the chart flow-exporter",
        "type": "object",
        "additionalProperties": False,
        "properties": properties | {"global": {"type": "object"}},
    }


def table(found: tuple[Key, ...]) -> str:
    """Markdown: a row for each key."""
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    for key in _rows(found):
        if key.keys:
            lines.append(f"| **{'.'.join(key.path)}** | | {key.meaning} |")
            continue
        default = json.dumps(key.default, ensure_ascii=False).replace("|", "\\|")
        choices = key.more.get("enum") or key.more.get("items", {}).get("enum")
        known = f" One of {', '.join(f'`{one}`' for one in choices)}." if choices else ""
        lines.append(f"| `{'.'.join(key.path)}` | `{default}` | {key.meaning}{known} |")
    return "\n".join(lines) + "\n"


def pages() -> dict[Path, str]:
    """File -> what should be in it."""
    found = keys((CHART / "values.yaml").read_text())
    readme = CHART / "README.md"
    before, _, rest = readme.read_text().partition(_BEGIN)
    _, ended, after = rest.partition(_END)
    if not ended:
        raise ValueError(f"{readme} has no place for the table: {_BEGIN}{_END}")
    return {
        CHART / "values.schema.json": json.dumps(schema(found), indent=2) + "\n",
        readme: f"{before}{_BEGIN}{table(found)}{_END}{after}",
    }


def _below(
    node: yaml.MappingNode, path: tuple[str, ...], values: Any, lines: list[str]
) -> Iterator[Key]:
    for name, value in node.value:
        place = (*path, name.value)
        meaning, more = _comment(lines, name.start_mark.line, name.start_mark.column)
        if not meaning:
            raise ValueError(f"values.yaml: {'.'.join(place)} has no comment above it")
        inner = values[name.value]
        # One whose schema says that it is an object is Kubernetes', and documented there.
        ours = isinstance(value, yaml.MappingNode) and not value.flow_style and "type" not in more
        below = tuple(_below(value, place, inner, lines)) if ours else ()
        yield Key(place, meaning, inner, more, below)


def _comment(lines: list[str], line: int, column: int) -> tuple[str, dict[str, Any]]:
    """What stands above a key, and what of it is schema."""
    start = " " * column + "# "
    first = line
    while first and lines[first - 1].startswith(start):
        first -= 1
    words, more = [], {}
    for one in lines[first:line]:
        text = one.removeprefix(start)
        if text.startswith(_MARK):
            more = json.loads(text.removeprefix(_MARK))
        else:
            words.append(text)
    return " ".join(words), more


def _schema_of(key: Key) -> dict[str, Any]:
    described: dict[str, Any] = {"description": key.meaning}
    if key.keys:
        inner = {one.path[-1]: _schema_of(one) for one in key.keys}
        return described | {"type": "object", "additionalProperties": False, "properties": inner}
    if isinstance(key.default, dict):
        return described | {"type": "object"} | key.more
    return described | {"type": _TYPES[type(key.default)]} | key.more


def _rows(found: tuple[Key, ...]) -> Iterator[Key]:
    for key in found:
        yield key
        yield from _rows(key.keys)


def main() -> int:
    """Write them, or say which would change. Returns the exit code."""
    changed = [path for path, text in pages().items() if not _is(path, text)]
    if "--check" not in sys.argv:
        for path, text in pages().items():
            path.write_text(text)
        return 0
    for path in changed:
        print(f"{path.relative_to(CHART.parents[1])} is not current: run 'make docs'",
              file=sys.stderr)  # fmt: skip
    return 1 if changed else 0


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
