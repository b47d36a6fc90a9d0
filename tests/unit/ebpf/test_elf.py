"""Functions found in the symbol tables of files that a compiler wrote."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from exporter.ebpf.elf import function_offset
from exporter.ebpf.errors import BpfError

SOURCE = """
static int twice(void) { return 2; }
int (*keep)(void) = twice;
int exported(void) { return 1; }
int data = 7;
extern int elsewhere(void);
int calls(void) { return elsewhere(); }
"""
SECOND = """
static int twice(void) { return 3; }
int (*keep_too)(void) = twice;
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared library."""
    directory = tmp_path_factory.mktemp("elf")
    (directory / "one.c").write_text(SOURCE)
    (directory / "two.c").write_text(SECOND)
    subprocess.run(
        ["clang", "-shared", "-fPIC", "-O1", "-o", "library.so", "one.c", "two.c"],
        cwd=directory, check=True,
    )  # fmt: skip
    subprocess.run(["strip", "-o", "stripped.so", "library.so"], cwd=directory, check=True)
    return directory / "library.so"


def body(path: Path, name: str) -> bytes:
    """What lies at a function's offset."""
    offset = function_offset(path, name)
    return path.read_bytes()[offset : offset + 64]


def test_exported_function(library: Path) -> None:
    """The offset is where the function's code is, and a stripped file has it too."""
    expected = subprocess.run(
        ["objdump", "-d", "--disassemble=exported", library],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    code = next(line for line in expected.splitlines() if line.rstrip().endswith("<exported>:"))
    # Code of a library lies in the file at its address.
    assert function_offset(library, "exported") == int(code.split()[0], 16)
    assert body(library.with_name("stripped.so"), "exported") == body(library, "exported")


@pytest.mark.parametrize("name", ["nothing", "data", "elsewhere", "exporte", "xported", ""])
def test_what_is_no_function(library: Path, name: str) -> None:
    """Data, what other files define, and parts of names are not functions."""
    with pytest.raises(BpfError, match=r"ENOENT.*defines no such function"):
        function_offset(library, name)


def test_several(library: Path) -> None:
    """Two static functions of one name are both named, none is chosen."""
    with pytest.raises(BpfError, match=r"find twice in .*EINVAL.*: it is at 0x[0-9a-f]+, 0x"):
        function_offset(library, "twice")
    with pytest.raises(BpfError, match="ENOENT"):
        function_offset(library.with_name("stripped.so"), "twice")


@pytest.mark.parametrize("cut", [0, 3, 20, 64, 1000])
def test_files_that_are_not_whole(library: Path, tmp_path: Path, cut: int) -> None:
    """A file that ends early is an error that names it."""
    short = tmp_path / "short.so"
    short.write_bytes(library.read_bytes()[:cut])
    with pytest.raises(BpfError, match=r"read .*short.so: .*EINVAL"):
        function_offset(short, "exported")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    """Nor is a missing file anything else than that."""
    with pytest.raises(BpfError, match=r"read .*gone: .*ENOENT"):
        function_offset(tmp_path / "gone", "exported")
