"""The wheel: the same wherever it is built, and all that an agent on a bare host needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from exporter import __version__
from tests.e2e.agent import Agent
from tests.e2e.container import ROOT
from tests.e2e.net import Network, connect, disconnect
from tests.e2e.test_exact import ADDRESSES, by_direction, datagrams, pair
from tests.e2e.wheel import build

#: What the kernel runs, and what BCC compiles where it does not.
_BUILT = ("capture/flow.bpf.o", "capture/flow.bpf.c", "capture/socket.bpf.o")
_PLATFORMS = ("manylinux_2_17_x86_64", "manylinux_2_17_aarch64")


@pytest.fixture
def program(installed: Path) -> Path:
    return installed / "bin/flow-exporter"


def test_built_again_it_is_the_same(wheel: Path, tmp_path: Path) -> None:
    """From a copy elsewhere, later, by somebody with other permissions and another time zone."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("exporter", "tools"):
        shutil.copytree(ROOT / name, copy / name, copy_function=shutil.copyfile)
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "tools/wheel.sh"):
        shutil.copy(ROOT / name, copy / name)
    for path in (copy / "exporter").rglob("*.py"):
        path.chmod(0o600)
    again = build(copy, tmp_path / "dist", umask=0o077, TZ="Asia/Kathmandu", LC_ALL="C.UTF-8")
    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes()


def test_what_is_in_it(wheel: Path) -> None:
    """The kernel's programs as they were built, every module, and where it can be installed."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for name in _BUILT:
            assert archive.read(f"exporter/{name}") == (ROOT / "exporter" / name).read_bytes()
        head = archive.read(f"flow_exporter-{__version__}.dist-info/WHEEL").decode()
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "exporter").rglob("*.py")}
    assert len(modules) > 200
    assert modules - names == set()
    tags = [line.removeprefix("Tag: ") for line in head.splitlines() if line.startswith("Tag: ")]
    assert tags == [f"py3-none-{platform}" for platform in _PLATFORMS]
    # Nothing but the package, the unit and what it is configured with: no tests, no tools.
    own = f"flow_exporter-{__version__}"
    assert {name.split("/")[0] for name in names} == {"exporter", f"{own}.dist-info", f"{own}.data"}
    data = f"{own}.data/data"
    assert {name for name in names if name.startswith(data)} == {
        f"{data}/lib/systemd/system/flow-exporter.service",
        f"{data}/share/flow-exporter/config.yaml",
        f"{data}/share/flow-exporter/pin.conf",
    }


def test_not_without_the_kernel_program(tmp_path: Path) -> None:
    """A wheel that would capture nothing is not built."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "exporter", copy / "exporter", ignore=shutil.ignore_patterns("*.bpf.o"))
    shutil.copytree(ROOT / "tools", copy / "tools")
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = (copy / "tools/wheel.sh", sys.executable, tmp_path / "dist")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not compiled: flow.bpf.o, socket.bpf.o: run 'make setup' first" in done.stderr
    assert list((tmp_path / "dist").iterdir()) == []


def test_its_version(program: Path) -> None:
    """The installed command is the wheel's."""
    done = subprocess.run((program, "--version"), capture_output=True, text=True, check=True)
    assert done.stdout == f"flow-exporter {__version__}\n"


def test_counts_exactly(network: Network, tmp_path: Path, program: Path) -> None:
    """Installed, outside the checkout and without BCC, it counts what the interface counts."""
    one, other = pair(network)
    flags = ("--interfaces", "va", "--drain-interval", "0.5s", "--loader", "libbpf")
    # -P: not what is in the current directory, which is the checkout.
    python = str(program.with_name("python"))
    with Agent(one.netns, tmp_path, *flags, program=(python, "-P", str(program))) as agent:
        connect(one, other, ADDRESSES)
        datagrams(one)
        counters = disconnect(one)
        maps = Path(f"/proc/{agent.process.pid}/maps").read_text()
        assert agent.stop() == 0, agent.log
    assert f"{program.parents[1]}/" in maps
    assert str(ROOT) not in maps
    assert "libbcc" not in maps
    seen = by_direction(agent.records())
    assert counters.tx_packets >= 1000
    assert seen["ingress"] == (counters.rx_packets, counters.rx_octets)
    assert seen["egress"] == (counters.tx_packets, counters.tx_octets)
