"""The package's sources as syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "exporter"
#: Written by tools; nobody reads them.
GENERATED = (PACKAGE / "abi" / "layout.py", PACKAGE / "_pb")


@dataclass(frozen=True)
class Module:
    """One source file. ``name`` has dots and begins with ``exporter``."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        """The directory in ``exporter/``, or the module itself if it is not in one."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else "__init__"

    def imports(self) -> Iterator[tuple[str, int]]:
        """Every module that is imported anywhere in it, and the line."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}:{node.lineno}: a relative import"
                for alias in node.names:
                    yield f"{node.module}.{alias.name}", node.lineno


@cache
def modules() -> tuple[Module, ...]:
    """Every module of the package, but what is generated."""
    return tuple(_read(path) for path in sorted(PACKAGE.rglob("*.py")) if not _is_generated(path))


def _read(path: Path) -> Module:
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(part for part in parts if part != "__init__")
    return Module(name, path, ast.parse(path.read_text()))


def _is_generated(path: Path) -> bool:
    return any(path == generated or generated in path.parents for generated in GENERATED)
