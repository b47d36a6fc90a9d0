"""What goes wrong is one clear line and the right exit code, and nothing is left attached."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from tests.arch.source import ROOT
from tests.e2e.agent import PROGRAM
from tests.e2e.net import End, Network
from tests.e2e.test_ledger import assert_nothing_left
from tests.kernel.hooks import quiet_pair


def run(*arguments: str, end: End | None = None, **environment: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error of a command that must end by itself."""
    command = [PROGRAM, *arguments]
    done = subprocess.run(
        end.netns.command(*command) if end else command,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
    )
    return done.returncode, done.stdout, done.stderr


def one_line(text: str) -> str:
    """The error, which is a single line that names the program."""
    lines = [line for line in text.splitlines() if line.startswith("flow-exporter")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", "tests/packets/captures/udp_sctp.pcap"],
        ["replay", "--table", "tests/packets/captures/udp_sctp.pcap"],
        ["doctor"],
        ["dump-config"],
    ],
)
def test_a_full_disk(arguments: list[str]) -> None:
    """Output that could not be written is said to be lost, even what was still in a buffer."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            cwd=ROOT, timeout=30,
        )  # fmt: skip
    assert "cannot be written: No space left on device" in one_line(done.stderr)
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--bogus"], "unrecognized arguments: --bogus"),
        (["run", "--sampling"], "expected one argument"),
        (["walk"], "invalid choice: 'walk'"),
        ([], "COMMAND"),
        (
            ["run", "--sink", "carrier-pigeon"],
            "there is no sink 'carrier-pigeon': use one of stdout",
        ),
        (["run", "--sink", "grpc://nowhere"], "write grpc://HOST:PORT"),
        (["run", "--sink", "grpc://:99999"], "write grpc://HOST:PORT"),
        (["run", "--sink", "grpc://h:1?max_flow=3"], "did you mean max_flows?"),
        (["run", "--metrics-address", "9090"], "metrics.address: '9090' is not HOST:PORT"),
        (["run", "--drain-interval", "5 parsecs"], "capture.drain_interval: '5 parsecs'"),
        (["run", "--drain-interval", "0s"], "capture.drain_interval"),
        (["run", "--flow-memory", "lots"], "capture.flow_memory: 'lots' is not a size"),
        (["run", "--max-flows", "many"], "capture.max_flows"),
        (["run", "--max-flows", "9", "--flow-memory", "1MiB"], "not allowed with"),
        (["run", "--sampling", "0"], "capture.sampling"),
        (["run", "--dedupe", "often"], "dedupe.mode"),
        (["run", "--interfaces", "/(/"], "is not a regular expression"),
        (["run", "--ring-size", "10000"], "power of two, such as 8192"),
        (["run", "--agent-address", "here"], "agent.address"),
        (["run", "--config", "/nothing.yaml"], "cannot read /nothing.yaml: No such file"),
        (["run", "--sink", "grpc://h:1?tls.ca=/no.pem"], "cannot read /no.pem"),
        (["replay"], "FILE"),
    ],
)
def test_a_wrong_command(arguments: list[str], says: str) -> None:
    """Usage errors say what is wrong and exit with 2."""
    code, out, err = run(*arguments)
    assert says in one_line(err)
    assert (code, out) == (2, "")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("captur:\n  sampling: 3\n", "unknown key captur: did you mean capture?"),
        ("capture:\n  samplin: 3\n", "unknown key capture.samplin: did you mean sampling?"),
        (
            "sinks:\n- {type: stdout, shema: otel}\n",
            "unknown key sinks[0].shema: did you mean schema?",
        ),
        ("sinks:\n- {type: telex}\n", "sinks[0]"),
        ("sinks:\n- {type: grpc}\n", "sinks[0].target: field required"),
        ("- a\n- b\n", "must be a mapping"),
        ("capture: [\n", "is not YAML"),
        ("capture:\n  drain_interval: [1]\n", "capture.drain_interval"),
    ],
)
def test_a_wrong_file(tmp_path: Path, content: str, says: str) -> None:
    """So do mistakes in the configuration file; an unknown key names the nearest known one."""
    path = tmp_path / "config.yaml"
    path.write_text(content)
    for command in ("run", "check"):
        code, out, err = run(command, "--config", str(path))
        assert says in one_line(err)
        assert (code, out) == (2, "")


def test_a_wrong_environment() -> None:
    """And in the environment."""
    code, _, err = run("check", FLOW_EXPORTER_CAPTURE__SAMPLNG="3")
    assert "unknown key capture.samplng: did you mean sampling?" in one_line(err)
    assert code == 2
    code, _, err = run("check", EXPORT="grpc", TARGET_HOST="collector")
    assert "needs TARGET_HOST and TARGET_PORT" in one_line(err)
    assert code == 2


@pytest.mark.parametrize("command", [["run"], ["replay", "x.pcap"]])
def test_not_root(command: list[str]) -> None:
    """Without the capabilities it says which are missing, and what to do."""
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", PROGRAM, *command],
        capture_output=True,
        text=True,
        check=False,
    )
    line = one_line(done.stderr)
    assert "needs CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN: root lacks them here, so add BPF" in line
    assert done.returncode == 1


def test_an_unknown_interface(network: Network) -> None:
    """It names the nearest one; nothing is attached to the others."""
    one, _ = quiet_pair(network)
    code, out, err = run("run", "--interfaces", "va,vaa", end=one)
    assert "there is no interface vaa: did you mean va?" in one_line(err)
    assert (code, out) == (1, "")
    assert_nothing_left(one)


def test_an_unknown_namespace(network: Network) -> None:
    """Likewise."""
    one, _ = quiet_pair(network)
    code, _, err = run("run", "--netns", "nowhere", end=one)
    assert "there is no network namespace nowhere" in one_line(err)
    assert code == 1
    assert_nothing_left(one)


def test_a_port_in_use(network: Network) -> None:
    """It says which, before anything is attached."""
    one, _ = quiet_pair(network)
    with one.netns.entered(), socket.create_server(("127.0.0.1", 9402)):
        code, _, err = run("run", "--metrics-address", "127.0.0.1:9402", end=one)
    assert "cannot serve metrics on 127.0.0.1:9402: Address already in use" in one_line(err)
    assert code == 1
    assert_nothing_left(one)


def test_an_address_that_is_not_ours(network: Network) -> None:
    """Neither is an address of another host, or a name that does not resolve."""
    one, _ = quiet_pair(network)
    for address in ("198.51.100.7:9402", "no.such.name.invalid:9402"):
        code, _, err = run("run", "--metrics-address", address, end=one)
        assert f"cannot serve metrics on {address}" in one_line(err)
        assert code == 1


def test_too_little_kernel_memory(network: Network) -> None:
    """More flows than the memory that there is are refused before the kernel is asked for it."""
    one, _ = quiet_pair(network)
    code, _, err = run("run", "--flow-memory", "4000GiB", end=one)
    line = one_line(err)
    assert "MiB are available: choose fewer with --max-flows or --flow-memory" in line
    assert code == 1
    assert_nothing_left(one)


def test_a_place_that_is_taken(network: Network) -> None:
    """With filters, a qdisc of another kind in clsact's place: said, counted, and left alone."""
    one, _ = quiet_pair(network)
    one.netns.run("tc", "qdisc", "add", "dev", "va", "ingress")
    code, _, err = run("run", "--attach", "tc", "--interfaces", "va", end=one)
    assert "no interface could be attached to" in one_line(err)
    assert "a qdisc of kind ingress holds the place of clsact and is left alone" in err
    assert code == 1
    assert "ingress" in one.netns.run("tc", "qdisc", "show", "dev", "va")


def test_help_teaches_by_example() -> None:
    """--help and --version print to standard output and exit with 0."""
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert "flow-exporter run --interfaces eth0,/^veth/ --sink grpc://collector:9999" in out
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("flow-exporter 0.")
    for command in ("run", "replay", "ledger", "doctor", "check", "dump-config"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert out.startswith(f"usage: flow-exporter {command}")
