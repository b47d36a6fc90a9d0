"""The image: what is in it, and that it counts exactly with few rights."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from exporter import __version__
from tests.conftest import missing
from tests.e2e.agent import Agent
from tests.e2e.container import ARCHITECTURE, CAPABILITIES, ROOT, Container, Security, build, unpack
from tests.e2e.net import Network, connect, disconnect
from tests.e2e.test_exact import ADDRESSES, by_direction, datagrams, pair
from tests.kernel.bpffs import bpffs

SITE = "usr/local/lib/python3.11/dist-packages"
#: Readelf's words, and uname's.
_MACHINES = {"amd64": ("AMD x86-64", "x86_64"), "arm64": ("AARCH64", "aarch64")}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of this checkout."""
    return build(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def bundle(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("unpacked") / "bundle"
    unpack(image, made)
    return made


@pytest.fixture
def runnable(bundle: Path) -> Path:
    if platform.machine() != _MACHINES[ARCHITECTURE][1]:
        missing(f"a machine that runs {ARCHITECTURE}")
    return bundle


def libraries(root: Path) -> Iterator[tuple[Path, str]]:
    """Every ELF file, and what eu-readelf says of its header and its dynamic section."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.read_bytes()[:4] == b"\x7fELF":
            command = ("eu-readelf", "--file-header", "--dynamic", str(path))
            yield path, subprocess.run(command, capture_output=True, text=True, check=True).stdout


def config(image: Path) -> dict[str, Any]:
    """The image's own configuration, by its digests."""
    (manifest,) = json.loads((image / "index.json").read_text())["manifests"]
    blobs = image / "blobs/sha256"
    content = json.loads((blobs / manifest["digest"].removeprefix("sha256:")).read_text())
    digest = content["config"]["digest"].removeprefix("sha256:")
    found: dict[str, Any] = json.loads((blobs / digest).read_text())
    return found


def counts_exactly(network: Network, directory: Path, container: Container, *flags: str) -> None:
    """Packets and octets of a container are the interface's own."""
    one, other = pair(network)
    program = container.program(f"fe{os.getpid()}-{container.security.user}")
    flags = ("--interfaces", "va", "--drain-interval", "0.5s", "--sink", "stdout", *flags)
    with Agent(one.netns, directory, *flags, program=program) as agent:
        connect(one, other, ADDRESSES)
        datagrams(one)
        counters = disconnect(one)
        assert agent.stop() == 0, agent.log
    seen = by_direction(agent.records())
    assert counters.tx_packets >= 1000
    assert seen["ingress"] == (counters.rx_packets, counters.rx_octets)
    assert seen["egress"] == (counters.tx_packets, counters.tx_octets)
    assert agent.summary()["lost"] == 0


def test_counts_exactly_as_nobody(network: Network, tmp_path: Path, runnable: Path) -> None:
    """With three capabilities and nothing to write, as a user who is not root."""
    counts_exactly(network, tmp_path, Container(runnable))


def test_counts_exactly_with_pins(network: Network, tmp_path: Path, runnable: Path) -> None:
    """As root without a way to more than three capabilities, who can pin what stays."""
    with bpffs(tmp_path) as pins:
        security = Security(user=0, escalation=False)
        container = Container(runnable, security, {"/sys/fs/bpf": pins})
        counts_exactly(network, tmp_path, container, "--pin")
        assert (pins / "flow-exporter").is_dir()


def test_a_capability_that_is_missing_is_named(runnable: Path) -> None:
    """The image starts without one of them, and says in one line which it is."""
    started = {}
    for capability in CAPABILITIES:
        granted = [name for name in CAPABILITIES if name != capability]
        container = Container(runnable, Security(capabilities=granted))
        program = container.program(f"fe{os.getpid()}-{capability}")
        started[capability] = subprocess.Popen(
            [*program, "run"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    said = {name: process.communicate()[0] for name, process in started.items()}
    for capability, text in said.items():
        assert started[capability].returncode == 1, text
        assert text.startswith(f"flow-exporter: 'run' needs {capability}: ")
        assert text.count("\n") == 1


def test_what_captures_nothing_needs_nothing(runnable: Path) -> None:
    """Without a capability and without a way to any, as ``kube-cache`` is deployed."""
    security = Security(escalation=False, capabilities=())
    program = Container(runnable, security).program(f"fe{os.getpid()}-none")
    command = (*program, "kube-cache", "--help")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: flow-exporter kube-cache")


def test_built_again_it_is_the_same(image: Path, tmp_path: Path) -> None:
    """Elsewhere, by somebody with other habits and with nothing but the same inputs: one digest."""
    cache = Path(os.environ.get("IMAGE_CACHE", Path.home() / ".cache/flow-exporter/image"))
    inputs = (cache / f"inputs-{ARCHITECTURE}").resolve()
    elsewhere = tmp_path / "cache"
    elsewhere.mkdir()
    (elsewhere / inputs.name).symlink_to(inputs)
    environment = {"IMAGE_CACHE": str(elsewhere), "TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8"}
    again = build(tmp_path / "image", umask=0o077, environment=environment)
    names = [{path.name for path in (one / "blobs/sha256").iterdir()} for one in (image, again)]
    assert names[0] == names[1]
    assert (image / "index.json").read_bytes() == (again / "index.json").read_bytes()
    for suffix in ("cdx.json", "lock"):
        one, other = (Path(f"{path}.{suffix}").read_bytes() for path in (image, again))
        assert one == other


def test_what_it_is_started_as(image: Path) -> None:
    """Nobody in particular, by the agent's command."""
    found = config(image)
    assert (found["architecture"], found["os"]) == (ARCHITECTURE, "linux")
    assert found["config"]["User"] == "65532:65532"
    assert found["config"]["Entrypoint"] == ["/usr/bin/flow-exporter"]
    assert found["config"]["Cmd"] == ["run"]
    assert found["config"]["Labels"]["org.opencontainers.image.version"] == __version__


def test_its_size(image: Path, bundle: Path) -> None:
    """
    As the guide and the decision have it, but for what Debian has changed since: a twentieth. Who
    adds something large says so.
    """
    blobs = sum(path.stat().st_size for path in (image / "blobs").rglob("*") if path.is_file())
    files = (path.lstat() for path in (bundle / "rootfs").rglob("*"))
    octets = sum(one.st_size for one in files if stat.S_ISREG(one.st_mode))
    guide = (ROOT / "docs/guide/install.md").read_text()
    said = re.search(r"It is (\d+) MB to pull and (\d+) MB on disk", guide)
    assert said is not None
    pull, disk = said.groups()
    decision = (ROOT / "docs/decisions/0025-wheel-and-image.md").read_text()
    assert f"*Its size* is {pull}." in decision
    assert blobs / 1e6 == pytest.approx(float(pull), rel=0.05)
    assert octets / 1e6 == pytest.approx(float(disk), rel=0.05)


def test_one_name_for_two_machines(image: Path, tmp_path: Path) -> None:
    """Whoever asks for the name gets the image of its own machine."""
    if shutil.which("skopeo") is None:
        missing("skopeo: tools/setup-image.sh installs it")
    # For the other machine there is the same image, which says that it is for it.
    other = tmp_path / "other"
    shutil.copytree(image, other)
    machines = [ARCHITECTURE, next(name for name in _MACHINES if name != ARCHITECTURE)]
    relabel = ("umoci", "config", "--image", f"{other}:{__version__}", "--architecture")
    subprocess.run((*relabel, machines[1]), check=True)
    joined = tmp_path / "joined"
    join = (sys.executable, ROOT / "tools/image/join.py", joined, image, other)
    subprocess.run(join, check=True, capture_output=True)
    for machine in machines:
        asked = ("skopeo", "inspect", "--config", "--override-arch", machine)
        done = subprocess.run(
            (*asked, f"oci:{joined}:{__version__}"), check=True, capture_output=True, text=True
        )
        assert json.loads(done.stdout)["architecture"] == machine


def test_bill_of_materials(image: Path, bundle: Path) -> None:
    """Valid; the packages and versions that are installed, with the digests of what came."""
    root = bundle / "rootfs"
    text = Path(f"{image}.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert (root / "usr/share/sbom/flow-exporter.cdx.json").read_text() == text
    bill = json.loads(text)
    listed = [bill["metadata"]["component"], *bill["components"]]
    names = [PackageURL.from_string(one["purl"]) for one in listed]
    fields = [
        Parser().parsestr(path.read_text()) for path in (root / "var/lib/dpkg/status.d").iterdir()
    ]
    debian = {(one["Package"], one["Version"]) for one in fields}
    assert {(one.name, one.version) for one in names if one.type == "deb"} == debian
    python = {
        (one.name.lower().replace("_", "-"), one.version)
        for one in importlib.metadata.distributions(path=[str(root / SITE)])
    }
    assert ("flow-exporter", __version__) in python
    assert {(one.name, one.version) for one in names if one.type == "pypi"} == python
    digests = {one["hashes"][0]["content"] for one in bill["components"]}
    lock = Path(f"{image}.lock").read_text().splitlines()
    assert digests == {line.split()[0] for line in lock}


def test_every_library_is_there(bundle: Path) -> None:
    """What a shared object needs is in the image, and all of it is for one machine."""
    root = bundle / "rootfs"
    files = {path.name for path in root.rglob("*.so*")}
    found = dict(libraries(root))
    assert len(found) > 100
    lacking = {}
    for path, text in found.items():
        lines = text.splitlines()
        needed = {line.split("[")[1].rstrip("]") for line in lines if "Shared library:" in line}
        lacking[path] = needed - files
        machine = next(line for line in lines if line.lstrip().startswith("Machine:"))
        # The kernel's programs are for any.
        if path.suffix != ".o":
            assert machine.split(":", 1)[1].strip() == _MACHINES[ARCHITECTURE][0], path
    assert {path: names for path, names in lacking.items() if names} == {}


def test_records_are_true(bundle: Path) -> None:
    """Every file of every Python package is the one that its RECORD says."""
    site = bundle / "rootfs" / SITE
    rows = 0
    for record in site.glob("*.dist-info/RECORD"):
        for name, digest, _ in csv.reader(record.read_text().splitlines()):
            rows += 1
            if digest:
                content = hashlib.sha256((site / name).read_bytes()).digest()
                assert digest == f"sha256={base64.urlsafe_b64encode(content).decode().rstrip('=')}"
    assert rows > 1000


def test_nothing_in_it_gives_privileges(bundle: Path) -> None:
    """No set-user-ID, one file with capabilities, none of them effective; no shell."""
    root = bundle / "rootfs"
    granting, modes = {}, {}
    for path in root.rglob("*"):
        if path.is_symlink():
            continue
        if "security.capability" in os.listxattr(path):
            granting[str(path.relative_to(root))] = os.getxattr(path, "security.capability")
        modes[str(path.relative_to(root))] = stat.S_IMODE(path.stat().st_mode)
    assert set(granting) == {"usr/bin/python3.11"}
    # The lowest bit of the first word would put them into effect.
    assert int.from_bytes(granting["usr/bin/python3.11"][:4], "little") == 0x02000000
    assert {name for name, mode in modes.items() if mode & 0o7000} == {"tmp"}
    assert {name for name, mode in modes.items() if mode & 0o022} == {"tmp"}
    assert sorted(path.name for path in (root / "usr/bin").iterdir()) == [
        "flow-exporter",
        "python3.11",
    ]
    assert not (root / "bin").exists()
