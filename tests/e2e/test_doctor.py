"""``flow-exporter doctor``: what a report of a fault needs, and nothing that is secret."""

from __future__ import annotations

import json
import os
import platform
import pty
import socket
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter import __version__
from exporter.status import RUN_DIRECTORY, ask
from tests.e2e import traffic
from tests.e2e.agent import PROGRAM, Agent, wait_until
from tests.e2e.net import Network, connect, disconnect
from tests.e2e.test_exact import ADDRESSES, V4, pair

SECRET = "that-nobody-else-may-know"


def doctor(*arguments: str, within: Sequence[str] = ()) -> tuple[int, dict[str, Any], str]:
    """Exit code, findings by subject, and standard error."""
    done = subprocess.run(
        [*within, PROGRAM, "doctor", *arguments], capture_output=True, text=True, check=False
    )
    findings = json.loads(done.stdout) if done.stdout else []
    subjects = [finding["subject"] for finding in findings]
    assert len(subjects) == len(set(subjects))
    return done.returncode, dict(zip(subjects, findings, strict=True)), done.stderr


def test_a_report_without_an_agent() -> None:
    """Versions, limits, clocks and the configuration; each line that is bad says what to do."""
    code, found, _ = doctor("--sampling", "7", "--sink", "grpc://collector:9999")
    assert code == 0
    assert __version__ in found["flow-exporter"]["detail"]
    assert platform.python_version() in found["flow-exporter"]["detail"]
    libraries = found["libraries"]["more"]
    assert libraries["numpy"] == np.__version__
    assert libraries["libbpf"][0].isdigit()
    assert "pytest" not in libraries
    names = {name for _, name in socket.if_nameindex()}
    assert set(found["interfaces"]["more"]) == names
    clock = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    assert found["clock source"]["detail"] == clock.read_text().strip()
    assert found["configuration"]["more"]["capture"]["sampling"] == 7
    assert "no agent" in found["running agent"]["detail"]
    assert {finding["answer"] for finding in found.values()} <= {"yes", "no", "could not tell", ""}


def test_what_it_counts_on_is_what_is_configured() -> None:
    """The map's size is that of the configuration."""
    _, found, _ = doctor("--flow-memory", "8MiB")
    assert found["flow map memory"]["detail"].startswith("8 MiB hold ")


def test_a_wrong_configuration(tmp_path: Path) -> None:
    """The report is there, with what is wrong in it; the exit code is that of wrong input."""
    file = tmp_path / "config.yaml"
    file.write_text("captrue: {}\n")
    code, found, _ = doctor("--config", str(file))
    assert code == 2
    assert found["configuration"]["answer"] == "no"
    assert "did you mean capture?" in found["configuration"]["detail"]
    assert found["ring buffer"]["answer"] == "yes"


def test_a_running_agent(network: Network, tmp_path: Path) -> None:
    """Its ledger, its configuration with what is secret hidden, its programs; all in a bundle."""
    one, other = pair(network)
    config = tmp_path / "config.yaml"
    headers = {"authorization": SECRET}
    sinks = [{"type": "otlp", "endpoint": "127.0.0.1:9", "protocol": "grpc", "headers": headers},
             {"type": "null"}]  # fmt: skip
    config.write_text(json.dumps({"sinks": sinks, "shutdown_timeout": 0}))
    bundle = tmp_path / "bundle.tar.gz"
    with Agent(one.netns, tmp_path, "--config", str(config), "--interfaces", one.device,
               "--sampling", "1", "--drain-interval", "0.3s") as agent:  # fmt: skip
        connect(one, other, ADDRESSES)
        traffic.run(one.netns, "icmp", "--host", V4[1], "--count", 20, "--size", 8)
        control = RUN_DIRECTORY / f"{agent.process.pid}.sock"
        wait_until(lambda: ask(control, "/readyz").startswith(b"degraded"), "a sink has a problem")
        within = one.netns.command()
        pid = str(agent.process.pid)
        _, found, said = doctor("--config", str(config), "--pid", pid, "--bundle", str(bundle),
                                within=within)  # fmt: skip
        hooks = found["interfaces"]["more"][one.device]["hooks"]
        assert all(len(programs) == 1 for programs in hooks.values()), hooks
        assert f"{one.device} ingress: " in found["programs at hooks"]["detail"]
        assert f"process {pid}: degraded; " in found["running agent"]["detail"]
        assert "sink null: closed" in found["running agent"]["detail"]
        assert found["its ledger"]["answer"] == "yes"
        assert found["nothing lost"]["answer"] == "yes"
        # A second one does not write over the first.
        assert doctor("--pid", pid, "--bundle", str(bundle), within=within)[0] == 1
        counters = disconnect(one)
    assert "look through it before you send it" in said
    assert bundle.stat().st_mode & 0o777 == 0o600
    files = unpacked(bundle)
    assert set(files) == {"doctor.txt", "doctor.json", "agent/ledger.json", "agent/readyz.txt",
                          "agent/config.json", "agent/metrics.txt", "agent/log.txt"}  # fmt: skip
    seen = json.loads(files["agent/ledger.json"])["kernel"]["seen"]["packets"]
    assert 40 <= seen <= counters.rx_packets + counters.tx_packets
    assert "capturing on 1 interface(s)" in files["agent/log.txt"]
    assert "flow_exporter_seen_packets_total" in files["agent/metrics.txt"]
    (shown, _) = json.loads(files["agent/config.json"])["sinks"]
    assert shown["headers"] == {"authorization": "(hidden)"}
    assert SECRET not in json.dumps(found) + said + "".join(files.values())


def unpacked(bundle: Path) -> dict[str, str]:
    """Text of each file."""
    with tarfile.open(bundle) as archive:
        members = [(entry.name, archive.extractfile(entry)) for entry in archive]
        return {
            name.removeprefix("flow-exporter-doctor/"): file.read().decode()
            for name, file in members
            if file is not None
        }


def test_destinations(tmp_path: Path) -> None:
    """Only if asked: who takes a connection, who does not, and what cannot be known."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port, nobody = server.getsockname()[1], closed.getsockname()[1]
        sinks = [f"grpc://127.0.0.1:{port}", f"kafka://127.0.0.1:{nobody}/flows",
                 f"ipfix+udp://127.0.0.1:{nobody}", f"file://{tmp_path}/flows.jsonl"]  # fmt: skip
        arguments = [word for sink in sinks for word in ("--sink", sink)]
        code, found, _ = doctor(*arguments)
        assert code == 0
        assert not [subject for subject in found if subject.startswith("sink")]
        code, found, _ = doctor("--check-sinks", *arguments)
    assert code == 1
    answers = {s: f["answer"] for s, f in found.items() if s.startswith("sink")}
    assert answers == {"sink grpc 0": "yes", "sink kafka 1": "no", "sink ipfix 2": "",
                       "sink file 3": "yes"}  # fmt: skip
    assert "Connection refused" in found["sink kafka 1"]["detail"]
    assert found["sink kafka 1"]["advice"]


def test_for_people() -> None:
    """80 columns, colours for what is not well on a terminal alone, and each finding of JSON."""
    ours, theirs = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    with subprocess.Popen([PROGRAM, "doctor"], stdout=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        try:
            while some := os.read(ours, 65536):
                shown += some
        except OSError:
            # The other side was closed.
            pass
        assert process.wait() == 0
    os.close(ours)
    text = shown.decode().replace("\r", "")
    assert "  yes             privileges: " in text
    plain = text.replace("\x1b[1;31m", "").replace("\x1b[35m", "").replace("\x1b[0m", "")
    assert "\x1b" not in plain
    assert max(map(len, plain.splitlines())) <= 80
    words = " ".join(plain.split())
    assert all(f"{subject}: " in words for subject in doctor()[1])


@pytest.mark.parametrize("place", ["/proc/no", "/"])
def test_a_bundle_that_cannot_be_written(place: str) -> None:
    """One line."""
    code, _, said = doctor("--bundle", place)
    assert code == 1
    assert "cannot be written" in said
    assert len(said.splitlines()) == 1
