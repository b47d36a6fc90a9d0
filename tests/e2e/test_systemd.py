"""The systemd unit: it holds for its makers' own tools, and the agent lives with its settings."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.e2e.container import ROOT
from tests.e2e.machine import Machine, booted
from tests.e2e.net import Counters, Network, connect, disconnect
from tests.e2e.test_exact import ADDRESSES, by_direction, datagrams, pair
from tests.kernel.bpffs import bpffs
from tests.patience import wait_until

UNIT = "flow-exporter.service"
SOURCE = ROOT / "tools/systemd" / UNIT
#: Bits 12, 38 and 39: CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF.
GRANTED = 1 << 12 | 1 << 38 | 1 << 39
#: Of a service without any settings systemd says 9.6; of this one, when it was written, 2.2.
EXPOSURE = 2.5
GUIDE = ROOT / "docs/guide/install.md"
BPFFS = "/sys/fs/bpf"


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        missing("systemd-analyze: tools/setup-image.sh installs it")
    return str(found)


def test_verified(analyze: str, tmp_path: Path) -> None:
    """Every setting is one that systemd knows."""
    unit = tmp_path / UNIT
    # Of the command, which is elsewhere, only that it is one.
    unit.write_text(SOURCE.read_text().replace("/opt/flow-exporter/bin/flow-exporter", "/bin/true"))
    done = subprocess.run(
        (analyze, "verify", "--man=no", "--recursive-errors=no", unit),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_exposure(analyze: str) -> None:
    """What systemd thinks of its rights stays as good as it is."""
    done = subprocess.run(
        (analyze, "security", "--offline=yes", "--no-pager", "--json=short",
         f"--threshold={EXPOSURE * 10:.0f}", SOURCE),
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    bounding = {name for name in rows if name.startswith("CapabilityBoundingSet")}
    assert len(bounding) > 20
    kept = {name.partition("~")[2] for name in bounding if not rows[name]["set"]}
    assert kept <= {"CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"}


def commands(heading: str) -> list[str]:
    """What the guide says to type below a heading."""
    _, _, text = GUIDE.read_text().partition(f"# {heading}\n")
    lines = re.split(r"^#", text, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def files(directory: Path, installed: Path) -> dict[Path, str]:
    """What pip has put onto a machine by then; where it is here -> where there."""
    command = directory / "flow-exporter"
    # As pip would have written it there.
    script = (installed / "bin/flow-exporter").read_text()
    command.write_text(script.replace(str(installed), "/opt/flow-exporter"))
    command.chmod(0o755)
    return {installed: "/opt/flow-exporter", command: "/opt/flow-exporter/bin/flow-exporter"}


def captures(machine: Machine) -> None:
    """Wait until the running agent does."""
    pid = machine.show(UNIT, "MainPID")["MainPID"]
    wait_until(
        lambda: "capturing on" in machine.run("journalctl", "--output=cat", f"_PID={pid}"),
        "the agent captures",
    )


def stop(machine: Machine) -> None:
    """In order; it has lost nothing."""
    machine.run("systemctl", "stop", UNIT)
    state = machine.show(UNIT, "Result", "ExecMainStatus", "NRestarts")
    log = machine.log(UNIT)
    assert state == {"Result": "success", "ExecMainStatus": "0", "NRestarts": "0"}, log
    # A second "lost" on the line would be that of earlier agents.
    summaries = [line for line in log.splitlines() if line.startswith("flows: ")]
    assert summaries
    assert all(line.endswith("  lost: 0") for line in summaries), log


def written(machine: Machine) -> dict[str, tuple[int, int]]:
    """Packets and octets of each direction, of all files."""
    lines = (machine.root / "var/lib/flow-exporter/flows.jsonl").read_text().splitlines()
    return by_direction([json.loads(line) for line in lines])


def test_as_the_guide_has_it(network: Network, tmp_path: Path, installed: Path) -> None:
    """
    Started by the guide's commands the agent counts what the interface counts: as an invented user
    with three capabilities and a filter of system calls, while it reads its configuration again;
    and by the next commands, with pins, also what passes while it is stopped.
    """
    one, other = pair(network)
    with (
        bpffs(tmp_path) as pins,
        booted(one.netns, "basic.target", files(tmp_path, installed), {pins: BPFFS}) as machine,
    ):
        for command in commands("systemd"):
            machine.run("sh", "-ec", command)
        captures(machine)
        check_rights(machine)
        connect(one, other, ADDRESSES)
        datagrams(one)
        machine.run("systemctl", "reload", UNIT)
        wait_until(lambda: "configuration read again" in machine.log(UNIT), "it has been read")
        before = disconnect(one)
        stop(machine)
        assert written(machine) == both(before)
        for command in commands("A restart that loses nothing"):
            machine.run("sh", "-ec", command)
        captures(machine)
        check_rights(machine, user=0)
        for end in (one, other):
            end.netns.ip("addr", "flush", "dev", end.device)
        connect(one, other, ADDRESSES)
        datagrams(one)
        stop(machine)
        datagrams(one)
        machine.run("systemctl", "start", UNIT)
        captures(machine)
        datagrams(one)
        after = disconnect(one)
        stop(machine)
        assert written(machine) == both(after)
    assert before.tx_packets >= 1000
    assert (after - before).tx_packets >= 3000


def both(counters: Counters) -> dict[str, tuple[int, int]]:
    """As ``by_direction`` has them."""
    return {
        "ingress": (counters.rx_packets, counters.rx_octets),
        "egress": (counters.tx_packets, counters.tx_octets),
    }


def check_rights(machine: Machine, user: int | None = None) -> None:
    """The kernel's word for what the unit asks for."""
    pid = machine.show(UNIT, "MainPID")["MainPID"]
    text = (machine.root / f"proc/{pid}/status").read_text()
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    for which in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status[which], 16) == GRANTED
    found = int(status["Uid"].split()[0])
    assert found == user if user is not None else found >= 61184, "a dynamic user"
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
