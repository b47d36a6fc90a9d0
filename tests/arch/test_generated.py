"""What is generated and checked in is what its source gives today."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.abi.generate import ENUMS, STRUCTS, main
from exporter.capture.loader import OBJECT_PATH
from exporter.ebpf.object import ObjectSpec
from tests.arch.source import PACKAGE, ROOT
from tests.conftest import missing

HEADERS = sorted((ROOT / "bpf" / "abi").glob("*.h"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python module's command, in the project's directory."""
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )


def test_layout_is_what_the_object_says() -> None:
    """``make abi`` would change nothing."""
    done = run("exporter.abi.generate", "--check", str(OBJECT_PATH))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_check_finds_a_difference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An older layout fails the check, which says what to do."""
    (tmp_path / "layout.py").write_text("# of another object\n")
    monkeypatch.setattr("exporter.abi.generate.__file__", str(tmp_path / "generate.py"))
    monkeypatch.setattr(sys, "argv", ["generate", "--check", str(OBJECT_PATH)])
    assert main() == 1
    assert "run 'make abi'" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["generate", str(OBJECT_PATH)])
    assert main() == 0
    assert (tmp_path / "layout.py").read_text() == (PACKAGE / "abi" / "layout.py").read_text()


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.name)
def test_every_type_of_the_headers_is_exported(header: Path) -> None:
    """A struct or enum in bpf/abi is in the object's types, and is generated."""
    btf = ObjectSpec.open(OBJECT_PATH).btf
    declared = re.findall(r"^(struct|enum) (\w+) \{", header.read_text(), re.MULTILINE)
    for kind, name in declared:
        assert name in (STRUCTS if kind == "struct" else ENUMS), f"{header}: {kind} {name}"
        assert (btf.struct if kind == "struct" else btf.enum)(name).name == name


def test_types_are_declared_in_the_headers() -> None:
    """Nothing is generated that bpf/abi does not declare."""
    text = "".join(header.read_text() for header in HEADERS)
    assert all(f"struct {name} {{" in text for name in STRUCTS)
    assert all(f"enum {name} {{" in text for name in ENUMS)


@pytest.mark.parametrize(
    "name",
    [
        f"{name}_pb2.{kind}"
        for name in ("flow", "cel_checked", "kube_cache", "observe")
        for kind in ("py", "pyi")
    ],
)
def test_protobuf_is_what_the_schema_gives(name: str, tmp_path: Path) -> None:
    """``make proto`` would change nothing."""
    if importlib.util.find_spec("grpc_tools") is None:
        missing("grpcio-tools, to generate from proto/")
    done = run(
        "grpc_tools.protoc",
        f"-I{ROOT / 'proto'}",
        f"--python_out={tmp_path}",
        f"--pyi_out={tmp_path}",
        f"{name.partition('_pb2')[0]}.proto",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / name).read_text() == (PACKAGE / "_pb" / name).read_text(), "run 'make proto'"


def test_reference_pages_are_current() -> None:
    """``make docs`` would change nothing."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "reference.py"), "--check"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
