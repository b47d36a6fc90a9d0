"""
Tables of networks in files: CSV, JSON lines, JSON and YAML, told apart by what is in them.

A table is used whole or not at all.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import yaml

from exporter.batch.attributes import EndAttribute
from exporter.enrich.files import read_octets
from exporter.enrich.networks.names import row_of
from exporter.enrich.networks.notations import rows_of
from exporter.enrich.networks.prefixes import Row
from exporter.errors import ConfigError

Attributes = tuple[EndAttribute, ...]

#: Octets of a file. AWS publishes 2 MB, Azure 5 MB.
_LARGEST = 64 << 20
_DEEPEST = 32
#: What tables of other tools call the first column.
_HEADERS = ("cidr", "network", "prefix", "subnet")


def read_table(path: Path, attributes: Attributes) -> tuple[Row, ...]:
    """
    All rows of a file, with the values of some attributes.

    Raises:
        ConfigError: On the first thing that is wrong in it, in one line with the place.
    """
    octets = read_octets(path, _LARGEST)
    try:
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text in UTF-8") from None
    try:
        return tuple(_rows(text, path.suffix.lower(), attributes))
    except _WrongLineError as err:
        raise ConfigError(f"{path}:{err.line}: {err}") from None
    except ValueError as err:
        raise ConfigError(f"{path}: {' '.join(str(err).split())}") from None


class _WrongLineError(ValueError):
    def __init__(self, line: int, err: Exception) -> None:
        super().__init__(" ".join(str(err).split()))
        self.line = line


def _rows(text: str, suffix: str, attributes: Attributes) -> Iterator[Row]:
    if suffix in (".yaml", ".yml"):
        return rows_of(_yaml(text) or [], attributes)
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(text, attributes)
    if suffix == ".json" or text.lstrip()[:1] in ("[", "{"):
        return _json(text, attributes)
    return _csv(text, attributes)


def _yaml(text: str) -> Any:
    # All scalars as text: 010 is a name as good as any, and what makes numbers and dates of them
    # raises whatever it likes. LibYAML's is the faster one; some builds of PyYAML lack it.
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        _check_depth(yaml.parse(text, Loader=loader))
        return yaml.load(text, Loader=loader)  # noqa: S506 - safer than the safe ones
    except yaml.YAMLError as err:
        raise ValueError(f"not YAML: {err}") from None


def _check_depth(events: Iterator[yaml.Event]) -> None:
    """PyYAML's C code calls itself for each level, and crashes the process at 30,000 of them."""
    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} lists or mappings within each other")


def _json(text: str, attributes: Attributes) -> Iterator[Row]:
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError as err:
        if "\n{" in text.strip():
            return _json_lines(text, attributes)
        raise ValueError(f"not JSON: {err}") from None
    # One line of JSON lines.
    is_entry = isinstance(content, dict) and ("cidr" in content or "cidrs" in content)
    return rows_of([content] if is_entry else content, attributes)


def _json_lines(text: str, attributes: Attributes) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield from rows_of([orjson.loads(line)], attributes)
            except ValueError as err:
                raise _WrongLineError(number, err) from None


def _csv(text: str, attributes: Attributes) -> Iterator[Row]:
    """
    ``cidr,name[,key=value ...]``, or columns named by a header whose first is ``cidr``; ``#``
    begins a comment.
    """
    lines = csv.reader(text.splitlines(), skipinitialspace=True, strict=True)
    header: list[str] | None = None
    begun = False
    try:
        for cells in lines:
            if not cells or cells[0].startswith("#") or not any(cells):
                continue
            if not begun and cells[0].strip().lower() in _HEADERS:
                header = [cell.strip().lower() for cell in cells[1:]]
            else:
                yield row_of(cells[0], _csv_columns(cells, header), attributes)
            begun = True
    except (csv.Error, ValueError) as err:
        raise _WrongLineError(lines.line_num, err) from None


def _csv_columns(cells: list[str], header: list[str] | None) -> dict[str, str]:
    if header is not None:
        if len(cells) - 1 > len(header):
            raise ValueError(f"{len(cells)} cells below a header of {len(header) + 1}")
        return dict(zip(header, cells[1:], strict=False))
    columns = {"name": cells[1] if len(cells) > 1 else ""}
    for cell in cells[2:]:
        key, separator, value = cell.partition("=")
        if cell.strip() and not separator:
            raise ValueError(f"{cell[:80]!r} is not KEY=VALUE")
        if separator:
            columns[key.strip()] = value
    return columns
