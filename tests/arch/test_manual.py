"""The manual page is one that ``man`` and ``mandoc`` have nothing to say about."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from exporter.cli_examples import EXAMPLES
from tests.arch.source import ROOT
from tests.conftest import missing

PAGE = ROOT / "docs" / "reference" / "flow-exporter.1"
CHECKS = {
    "mandoc": ["mandoc", "-T", "lint", "-W", "all", str(PAGE)],
    "groff": ["groff", "-ww", "-man", "-Tutf8", str(PAGE)],
    "man": ["man", "--warnings", "--local-file", str(PAGE)],
}


def checked(check: list[str]) -> subprocess.CompletedProcess[str]:
    """One check of the page."""
    if shutil.which(check[0]) is None:
        missing(f"{check[0]}, to check the manual page")
    return subprocess.run(
        check, capture_output=True, text=True, check=False, env={"MANWIDTH": "80", "PATH": "/bin"}
    )


@pytest.mark.parametrize("check", CHECKS)
def test_nothing_is_wrong(check: str) -> None:
    """Not a warning, not a matter of style."""
    done = checked(CHECKS[check])
    assert (done.returncode, done.stderr) == (0, "")
    if check == "mandoc":
        assert done.stdout == ""


def test_a_mistake_is_found() -> None:
    """The checks see a macro that there is not."""
    wrong = PAGE.read_text().replace(".SH NAME", ".SHH NAME")
    if shutil.which("mandoc") is None:
        missing("mandoc, to check the manual page")
    done = subprocess.run(
        ["mandoc", "-T", "lint"], input=wrong, capture_output=True, text=True, check=False
    )
    assert "unknown macro: .SHH NAME" in done.stdout


def test_every_example_can_be_copied() -> None:
    """Rendered, each stands there letter by letter, with hyphens that a shell takes for such."""
    done = checked([*CHECKS["mandoc"][:1], "-T", "utf8", "-O", "width=100", str(PAGE)])
    shown = done.stdout.replace("_\b", "").splitlines()
    bare = {
        "".join(c for i, c in enumerate(line) if line[i + 1 : i + 2] != "\b" and c != "\b").strip()
        for line in shown
    }
    for examples in EXAMPLES.values():
        for example in examples:
            assert {line.strip() for line in example.line.splitlines()} <= bare, example
