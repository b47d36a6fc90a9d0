"""The agent as people run it: terminals and pipes, interfaces that come and go, health, signals."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from tests.e2e import traffic
from tests.e2e.agent import PROGRAM, Agent, wait_until
from tests.e2e.collector import Collector
from tests.e2e.net import End, Netns, Network, connect, plug, switch_on
from tests.e2e.test_exact import ADDRESSES, V4, pair
from tests.e2e.test_ledger import assert_nothing_left
from tests.kernel.hooks import quiet_pair, send
from tests.kernel.test_hooks import tunnel_device
from tests.patience import LONGEST

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def frame(port: int = 1) -> bytes:
    return bytes(ETHER / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=port, dport=53))


def interfaces(records: list[dict[str, Any]]) -> set[str]:
    return {point["name"] for record in records for point in record["flow"]["interfaces"]}


def test_every_interface_but_lo(network: Network, tmp_path: Path) -> None:
    """Without any argument all interfaces are observed, loopback is not."""
    one, other = pair(network)
    with Agent(one.netns, tmp_path, "--drain-interval", "0.2s") as agent:
        connect(one, other, ADDRESSES)
        traffic.run(one.netns, "icmp", "--host", V4[0], "--count", 3, "--size", 10)
        traffic.run(one.netns, "icmp", "--host", V4[1], "--count", 3, "--size", 10)
        agent.wait_drained()
        assert agent.stop(signal.SIGTERM) == 0, agent.log
    assert interfaces(agent.records()) == {"va"}


def test_a_terminal_gets_a_table(network: Network, tmp_path: Path) -> None:
    """
    On a terminal of 80 columns there is a table with the flows, no line is longer, and Ctrl-C ends
    it with a summary.
    """
    one, other = pair(network)
    connect(one, other, ADDRESSES)
    terminal, process = start_on_terminal(one.netns, 80, 24)
    try:
        screen = read_until(terminal, b"capturing on")
        sender = traffic.start(one.netns, "udp", "--host", V4[1], "--count", 40_000, "--flows", 3,
                               "--size", 1000, "--first_port", 40_000)  # fmt: skip
        screen += read_until(terminal, b"192.0.2.2:40001")
        traffic.finish(sender)
        os.write(terminal, b"\x03")  # Ctrl-C, as the terminal's driver sends it
        screen += read_until(terminal, b"lost:")
        screen += read_rest(terminal)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    # Without colours, cursor movements and the terminal's own echo of Ctrl-C.
    text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]|\^C", b"", screen).decode()
    assert re.search(r"\d+ flows +\S+ packets/s +\S+bit/s", text)
    for heading in ("SOURCE", "DESTINATION", "PROTO", "PKTS", "BIT/S", "FLAGS", "SEEN AT"):
        assert heading in text
    assert "udp" in text
    assert "va→" in text
    assert re.search(r"flows: \d+ +packets: \d+ +octets: \d+ +lost: 0", text)
    lines = [line for line in re.split(r"[\r\n]+", text) if " INFO " not in line]
    assert max(map(len, lines)) <= 80
    assert_nothing_left(one)


def start_on_terminal(
    netns: Netns, columns: int, lines: int
) -> tuple[int, subprocess.Popen[bytes]]:
    """The agent with a pseudo-terminal as its controlling terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    # A session of its own whose terminal this is, or Ctrl-C would reach nobody.
    session = "import os,sys,fcntl,termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    session += "os.execvp(sys.argv[1], sys.argv[1:])"
    command = netns.command(PROGRAM, "run", "--drain-interval", "0.5s")
    process = subprocess.Popen(
        [sys.executable, "-c", session, *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(theirs)
    return ours, process


def read_until(terminal: int, wanted: bytes) -> bytes:
    seen, end = b"", time.monotonic() + LONGEST
    while wanted not in seen:
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 1 << 16)
    return seen


def read_rest(terminal: int) -> bytes:
    seen = b""
    try:
        while select.select([terminal], [], [], 1.0)[0]:
            seen += os.read(terminal, 1 << 16)
    except OSError:  # the other side is closed
        pass
    return seen


def test_a_reader_that_has_had_enough(network: Network, tmp_path: Path) -> None:
    """
    When the pipe is closed the agent ends by itself, cleanly, and counts what it could not print.
    """
    one, _ = quiet_pair(network)
    command = one.netns.command(PROGRAM, "run", "--drain-interval", "0.2s", "--interfaces", "va")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    wait_until(lambda: "capturing" in (tmp_path / "log").read_text(), "it captures")
    send(one, frame())
    assert json.loads(process.stdout.readline())["flow"]["packets"] == 1
    process.stdout.close()
    send(one, frame())
    assert process.wait(20) == 0
    assert "dropped by sinks: 1 flows" in (tmp_path / "log").read_text()
    assert_nothing_left(one)


def test_a_reader_that_sleeps(network: Network, tmp_path: Path) -> None:
    """
    A pipe that nobody reads stops neither the capture nor the end; what it took is whole lines.
    """
    one, _ = quiet_pair(network)
    (tmp_path / "config.yaml").write_text("shutdown_timeout: 1s\n")
    command = one.netns.command(PROGRAM, "run", "--drain-interval", "0.2s", "--interfaces", "va",
                                "--config", str(tmp_path / "config.yaml"))  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    wait_until(lambda: "capturing" in (tmp_path / "log").read_text(), "it captures")
    for round_number in range(5):
        send(one, *[frame(1000 * round_number + port) for port in range(1, 500)])
        time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    lines = process.stdout.read().splitlines()
    process.stdout.close()
    printed = sum(json.loads(line)["flow"]["packets"] for line in lines[:-1])
    summary = (tmp_path / "log").read_text().splitlines()[-1]
    assert "packets: 2495 " in summary
    assert "lost: 0" in summary
    assert 0 < printed < 2495
    assert "dropped by sinks:" in summary


def test_interfaces_come_go_and_are_renamed(network: Network, tmp_path: Path) -> None:
    """
    New interfaces are observed if their name is chosen, also after renaming; excluded ones never;
    leaving a bridge is not leaving.
    """
    hub, leaf = network.namespace("hub"), network.namespace("leaf")
    hub.quiet()
    leaf.quiet()
    with Agent(hub, tmp_path, "--exclude-interfaces", "x9", "--drain-interval", "0.1s", "--config",
               str(_waits_for(tmp_path, "y0"))) as agent:  # fmt: skip
        for name in ("x0", "x9", "y0", "z0"):
            plug(End(hub, name), End(leaf, f"peer-{name}"))
            connect(End(hub, name), End(leaf, f"peer-{name}"))
        for name in ("x0", "y0"):
            wait_until(partial(agent.says, f"observing {name} "), f"{name} is observed")
        hub.ip("link", "set", "z0", "down")
        hub.ip("link", "set", "z0", "name", "x1")
        switch_on(End(hub, "x1"))
        wait_until(partial(agent.says, "observing x1 "), "x1 is observed")
        hub.ip("link", "add", "bridge", "type", "bridge")
        hub.ip("link", "set", "x0", "master", "bridge")
        hub.ip("link", "set", "x0", "nomaster")
        for port, name in enumerate(("x0", "x1", "x9", "y0"), 1):
            send(End(hub, name), frame(port))
        agent.wait_drained()
        assert agent.stop() == 0, agent.log
    assert interfaces(agent.records()) == {"x0", "x1", "y0"}
    assert agent.packets() == 3


def _waits_for(directory: Path, name: str) -> Path:
    """A configuration that waits for a name instead of calling it a typing error."""
    path = directory / "config.yaml"
    path.write_text(f"capture:\n  interfaces: ['/^x/', '/^{name}$/']\n")
    return path


def _pod_lives_and_dies(network: Network, hub: Netns, agent: Agent, number: int) -> None:
    """A namespace with one interface, of which one frame comes; then it is removed."""
    pod = network.namespace(f"pod{number}")
    pod.quiet()
    near, far = End(hub, f"v{number}"), End(pod, "eth0")
    plug(near, far)
    connect(near, far)
    wait_until(lambda: agent.log.count("observing eth0 ") > number, "eth0 is observed")
    wait_until(partial(agent.says, f"observing {near.device} "), f"{near.device} is observed")
    send(far, frame(number + 1))
    agent.wait_drained()
    network.remove(pod)
    wait_until(lambda: near.device not in hub.ip("-br", "link"), "the namespace and its veth go")


@pytest.mark.parametrize("watch", ["netlink", "poll"])
def test_namespaces_come_and_go(network: Network, tmp_path: Path, watch: str) -> None:
    """
    A namespace that appears is observed, and one that goes is really gone: the agent does not keep
    it, or its interfaces, alive.
    """
    hub = network.namespace("hub")
    hub.quiet()
    (tmp_path / "config.yaml").write_text(
        f"capture:\n  watch: {watch}\n  poll_interval: 200ms\n  netns: '/-pod/'\n"
    )
    with Agent(hub, tmp_path, "--config", str(tmp_path / "config.yaml"), "--drain-interval", "0.1s",
               "--dedupe", "none") as agent:  # fmt: skip
        for number in range(3):
            _pod_lives_and_dies(network, hub, agent, number)
        assert agent.stop() == 0, agent.log
    seen = {
        (r["source"]["port"], p.get("netns", "").rpartition("-")[2], p["name"], p["direction"])
        for r in agent.records()
        for p in r["flow"]["interfaces"]
    }
    assert seen == {
        point
        for n in range(3)
        for point in ((n + 1, f"pod{n}", "eth0", "egress"), (n + 1, "", f"v{n}", "ingress"))
    }


def test_an_interface_without_mac_is_found(network: Network, tmp_path: Path) -> None:
    """A tun device is observed from its IP header on, found by its link layer."""
    end = End(network.namespace("a"), "tun7")
    end.netns.quiet()
    with (
        Agent(end.netns, tmp_path, "--drain-interval", "0.1s") as agent,
        tunnel_device(end, tap=False) as fd,
    ):
        end.netns.ip("addr", "add", "192.0.2.1/24", "dev", "tun7")
        wait_until(partial(agent.says, "observing tun7 "), "tun7 is observed")
        traffic.run(end.netns, "udp", "--host", "192.0.2.9", "--count", 1, "--flows", 1, "--size",
                    72, "--first_port", 9)  # fmt: skip
        assert len(os.read(fd, 2000)) == 100
        agent.wait_drained()
        assert agent.stop() == 0, agent.log
    (record,) = agent.records()
    assert (record["flow"]["bytes"], record["flow"]["ip_bytes"]) == (100, 100)
    assert "mac" not in record["source"]
    assert record["destination"]["port"] == 9


def test_an_early_drain(network: Network, tmp_path: Path) -> None:
    """When the map is filling up, it is drained before its time, and the records say why."""
    one, _ = quiet_pair(network)
    with Agent(one.netns, tmp_path, "--interfaces", "va", "--drain-interval", "10m", "--max-flows",
               "100") as agent:  # fmt: skip
        send(one, *[frame(port) for port in range(1, 91)])
        wait_until(lambda: len(agent.records()) == 90, "the map is drained early")
        assert {r["flow"]["end_reason"] for r in agent.records()} == {"lack of resources"}
        send(one, frame(), bytes(ETHER / IP(src="192.0.2.1", dst="192.0.2.2") / TCP(flags="FA")))
        assert agent.stop() == 0, agent.log
    reasons = [record["flow"]["end_reason"] for record in agent.records()[90:]]
    assert sorted(reasons) == ["end of flow detected", "forced end"]


def test_health(network: Network, tmp_path: Path) -> None:
    """/healthz, /readyz and /metrics answer; a sink that cannot deliver makes it degraded."""
    one, _ = quiet_pair(network)
    sink = "grpc://127.0.0.1:19997?retry.timeout=300ms"
    with Agent(one.netns, tmp_path, "--interfaces", "va", "--drain-interval", "0.1s", "--sink",
               sink, "--metrics-address", "127.0.0.1:9401") as agent:  # fmt: skip
        assert get(one.netns, "/healthz") == (200, "ok\n")
        assert get(one.netns, "/readyz") == (200, "ok\nsink grpc: closed, 0 pending, 0 spooled\n")
        assert get(one.netns, "/favicon.ico")[0] == 404
        send(one, frame())
        wait_until(lambda: "degraded" in get(one.netns, "/readyz")[1], "it is degraded")
        status, body = get(one.netns, "/readyz")
        assert status == 200
        assert re.fullmatch(
            r"degraded\nsink grpc: (open|half-open), 1 pending, 0 spooled, last error: "
            r"unavailable: 127\.0\.0\.1:19997: .*\n",
            body,
        )
        assert get(one.netns, "/healthz") == (200, "ok\n")
        metrics = agent.metrics()
        assert metrics["flow_exporter_seen_packets_total"] == 1
        assert metrics['flow_exporter_sink_healthy{sink="grpc"}'] == 0
        assert metrics["flow_exporter_ledger_closes"] == 1
        with Collector(one.netns, 19_997, tmp_path):
            wait_until(lambda: get(one.netns, "/readyz")[1].startswith("ok"), "it is well again")
            wait_until(partial(agent.says, "sink grpc delivers again"), "it says so")
            assert agent.stop() == 0, agent.log


def get(netns: Netns, path: str) -> tuple[int, str]:
    with netns.entered():
        connection = http.client.HTTPConnection("127.0.0.1", 9401, timeout=10)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_netobservs_environment(network: Network, tmp_path: Path) -> None:
    """The environment of a NetObserv agent starts this one, and its collector gets flows."""
    one, _ = quiet_pair(network)
    environment = {
        "EXPORT": "grpc", "TARGET_HOST": "127.0.0.1", "TARGET_PORT": "19996", "SAMPLING": "1",
        "CACHE_ACTIVE_TIMEOUT": "200ms", "CACHE_MAX_FLOWS": "5000", "INTERFACES": "/^v/",
        "EXCLUDE_INTERFACES": "lo", "DIRECTION": "egress", "LOG_LEVEL": "info",
        "METRICS_ENABLE": "true", "METRICS_SERVER_PORT": "9401", "AGENT_IP": "198.51.100.1",
        "ENABLE_RTT": "true", "GRPC_MESSAGE_MAX_FLOWS": "1000",
    }  # fmt: skip
    for name, value in environment.items():
        os.environ[name] = value
    try:
        with (
            Collector(one.netns, 19_996, tmp_path) as collector,
            Agent(one.netns, tmp_path) as agent,
        ):
            send(one, frame(77))
            wait_until(collector.records, "a record arrives")
            assert agent.metrics()["flow_exporter_interfaces"] == 1
            assert agent.stop() == 0, agent.log
    finally:
        for name in environment:
            del os.environ[name]
    (record,) = collector.records()
    assert (record.transport.src_port, record.direction) == (77, 1)
    assert record.agent_ip.ipv4 == 0xC6336401
    assert "WARNING ENABLE_RTT=true is ignored: it would add the round-trip time" in agent.log


def test_doctor() -> None:
    """As root on this kernel everything that is required is there."""
    done = subprocess.run([PROGRAM, "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    findings = json.loads(done.stdout)
    assert all(finding["answer"] == "yes" for finding in findings if finding["required"])
    assert {"privileges", "kernel program", "ring buffer"} <= {f["subject"] for f in findings}


def test_doctor_without_privileges() -> None:
    """Without the capabilities it says so, cannot tell the rest, and fails."""
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", PROGRAM, "doctor"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    assert findings["privileges"]["answer"] == "no"
    assert findings["privileges"]["advice"]
    assert findings["ring buffer"]["answer"] == "could not tell"


def test_the_configuration_file_the_environment_and_flags(tmp_path: Path) -> None:
    """dump-config shows what all of them come to; flags win over the environment over the file."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "capture: {sampling: 2, drain_interval: 7s, flow_memory: 2MiB}\n"
        "dedupe: {mode: mark}\nsinks: [stdout, {type: grpc, target: 'c:1', name: far}]\n"
    )
    done = subprocess.run(
        [PROGRAM, "dump-config", "--config", str(path), "--sampling", "4", "--schema", "netobserv"],
        capture_output=True, text=True, check=True,
        env={**os.environ, "FLOW_EXPORTER_CAPTURE__SAMPLING": "3",
             "FLOW_EXPORTER_CAPTURE__DRAIN_INTERVAL": "9s"},
    )  # fmt: skip
    effective = yaml.safe_load(done.stdout)
    capture = effective["capture"]
    assert (capture["sampling"], capture["drain_interval"], capture["flow_memory"]) == (
        4, 9.0, 2 << 20,
    )  # fmt: skip
    assert effective["dedupe"]["mode"] == "mark"
    assert [sink["type"] for sink in effective["sinks"]] == ["stdout", "grpc"]
    assert effective["sinks"][0]["schema"] == "netobserv"
    again = tmp_path / "again.yaml"
    again.write_text(done.stdout)
    second = subprocess.run(
        [PROGRAM, "dump-config", "--config", str(again)], capture_output=True, text=True, check=True
    )
    assert second.stdout == done.stdout
