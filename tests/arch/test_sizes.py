"""Modules and functions stay small enough to be read."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.arch.source import Module, modules

MODULE_LINES = 600
FUNCTION_LINES = 64


def functions(module: Module) -> Iterator[tuple[str, int]]:
    """Every function with the number of its lines, decorators left out."""
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            yield f"{module.path}:{node.lineno}: {node.name}", node.end_lineno - node.lineno + 1


def test_modules() -> None:
    """No module over 600 lines."""
    lines = {str(module.path): len(module.path.read_text().splitlines()) for module in modules()}
    assert len(lines) > 50
    assert {path: count for path, count in lines.items() if count > MODULE_LINES} == {}


def test_functions() -> None:
    """No function over 64 lines."""
    lines = dict(function for module in modules() for function in functions(module))
    assert len(lines) > 500
    assert {where: count for where, count in lines.items() if count > FUNCTION_LINES} == {}
