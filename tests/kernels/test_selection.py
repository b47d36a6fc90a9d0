"""The selection and the tables of the documents fit what there is."""

from __future__ import annotations

import ast
import fnmatch

import pytest

from exporter.ebpf import features
from tests.kernels.expected import has_features
from tests.kernels.images import KERNELS
from tests.kernels.selection import CAPABILITIES, ROOT

PATTERNS = sorted(pattern for patterns in CAPABILITIES.values() for pattern in patterns)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_selects_something(pattern: str) -> None:
    """A test that was renamed is noticed; a file that is not there yet has none."""
    path, _, wanted = pattern.partition("::")
    for file in ROOT.glob(path):
        tree = ast.parse(file.read_text())
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert any(fnmatch.fnmatchcase(name, wanted) for name in names if name.startswith("test_"))


def test_the_reference_has_the_expected_answers() -> None:
    """Its table has every probe, and for each kernel what the tests expect of it."""
    page = (ROOT / "docs" / "reference" / "kernels.md").read_text()
    lines = page.partition("## Features")[2].partition("## Tests")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    found = {row[0]: row[1:] for row in rows if row[0] in features.PROBES}
    has = [has_features(kernel.series) for kernel in KERNELS]
    assert found == {
        name: ["yes" if name in kernel else "no" for kernel in has] for name in features.PROBES
    }
