"""Where BCC is looked for, and how its absence is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.ebpf.bcc.compiler import compile_source, find_module
from exporter.ebpf.bcc.headers import Headers
from exporter.ebpf.bcc.source import Source
from exporter.ebpf.errors import CompileError, FeatureMissing

SOURCE = Source.parse('SEC("tc")\nint look(struct __sk_buff *skb)\n{\n\treturn 0;\n}\n', "look.c")


def module(directory: Path, name: str, content: str = "") -> Path:
    """A package called bcc with one module in it."""
    (directory / "bcc").mkdir(parents=True, exist_ok=True)
    (directory / "bcc" / "__init__.py").write_text(content)
    (directory / "bcc" / name).touch()
    return directory


@pytest.mark.parametrize(
    "where",
    [
        "usr/lib/python3/dist-packages",
        "usr/lib/python3.12/site-packages",
        "usr/lib64/python3.9/site-packages",
        "usr/local/lib/python3.11/dist-packages",
    ],
)
def test_a_distributions_module_is_found(tmp_path: Path, where: str) -> None:
    """Although this interpreter does not look there, and before one that it does see."""
    module(tmp_path / "venv", "libbcc.py")
    assert find_module(tmp_path, [str(tmp_path / "venv")]) == tmp_path / "venv"
    module(tmp_path / where, "libbcc.py")
    assert find_module(tmp_path, [str(tmp_path / "venv")]) == tmp_path / where


def test_no_module(tmp_path: Path) -> None:
    """The package is named in one line."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text("ID=debian\n")
    with pytest.raises(FeatureMissing) as missing:
        find_module(tmp_path, ["", str(tmp_path / "nothing")])
    assert str(missing.value).startswith(
        "load BCC: it is not installed: apt install python3-bpfcc linux-headers-"
    )


def test_the_module_of_that_name_from_pypi(tmp_path: Path) -> None:
    """
    It is refused, and BCC's beside it is taken.

    PyPI's package of that name is a stranger's: a stand-in takes its place here, for nothing of a
    stranger is installed to test that it is not used.
    """
    wrong = module(tmp_path / "venv", "blocks.py", "class Chain: ...\n")
    with pytest.raises(FeatureMissing) as refused:
        find_module(tmp_path, [str(wrong)])
    assert str(refused.value).startswith(
        f"load BCC: {wrong}/bcc is not BCC but another package of that name, such as PyPI's: "
    )
    right = module(tmp_path / "usr/lib/python3/dist-packages", "libbcc.py")
    assert find_module(tmp_path, [str(wrong)]) == right


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("", r"the module .*__init__\.py is not BCC: it has no BPF", id="another"),
        pytest.param("import ctypes\nctypes.CDLL('libnone.so.0')", "cannot be imported: libnone",
                     id="no library"),
        pytest.param("import os\nos._exit(3)", "BCC ended with code 3", id="crash"),
        pytest.param("class BPF:\n def __init__(self, **_): raise Exception('no idea')", "no idea",
                     id="an error without a line"),
    ],
)  # fmt: skip
def test_a_module_that_does_not_work(tmp_path: Path, content: str, reason: str) -> None:
    """Whatever it does, this process goes on and says why in one line."""
    where = module(tmp_path, "libbcc.py", content)
    headers = Headers(tmp_path, tmp_path, exact=True)
    with pytest.raises(CompileError, match=f"^compile look.c with BCC: .*{reason}") as failed:
        compile_source(SOURCE, module=where, headers=headers)
    assert "\n" not in str(failed.value)
