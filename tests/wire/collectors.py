"""Real IPFIX collectors as processes: nfdump's ``nfcapd`` and pmacct's ``nfacctd``, over UDP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import missing
from tests.e2e.net import Netns
from tests.patience import wait_until
from tests.servers import Server, free_port

_SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])


def program(name: str, package: str) -> str:
    """Path of a program; the test is skipped without it."""
    found = shutil.which(name, path=_SBIN)
    if found is None:
        missing(f"{name} (Debian package {package})")
        raise AssertionError
    return found


def _queued(pid: int, port: int) -> int:
    """Octets that wait for a UDP socket: the receive queue of /proc/net/udp."""
    for line in Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]:
        _, local, _, _, queues, *_ = line.split()
        if int(local.rpartition(":")[2], 16) == port:
            return int(queues.rpartition(":")[2], 16)
    raise AssertionError(f"nobody listens at {port}")


class Nfcapd(Server):
    """
    nfdump's collector; ``flows`` ends it, so that it writes what it has.

    Args:
        directory: For what it keeps, and its log.
        netns: Where it listens on 127.0.0.1.
    """

    def __init__(self, directory: Path, netns: Netns | None = None, port: int = 0) -> None:
        self.port = port or free_port(socket.SOCK_DGRAM)
        self.target = f"127.0.0.1:{self.port}"
        self._kept = directory / "nfcapd"
        self._kept.mkdir()
        arguments = [
            program("nfcapd", "nfdump"), "-w", str(self._kept), "-p", str(self.port), "-b",
            "127.0.0.1", "-t", "3600", "-B", "8388608",
        ]  # fmt: skip
        command = netns.command(*arguments) if netns else arguments
        super().__init__(command, directory / "nfcapd.log")

    def _is_ready(self) -> bool:
        return self._says("Startup nfcapd")

    def flows(self) -> list[dict[str, Any]]:
        """What it kept, in order; nothing more comes after it was asked."""
        assert self._process is not None
        pid = self._process.pid
        wait_until(lambda: _queued(pid, self.port) == 0, "nfcapd has read what came")
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(20) == 0
        self._process = None
        found: list[dict[str, Any]] = []
        for path in sorted(self._kept.glob("nfcapd.2*")):
            # Its times are the time zone's.
            done = subprocess.run(
                [program("nfdump", "nfdump"), "-r", str(path), "-o", "json"],
                capture_output=True, check=True, env=os.environ | {"TZ": "UTC"},
            )  # fmt: skip
            found += json.loads(done.stdout) if done.stdout.strip() else []
        return found


#: nfacctd's own names for what it knows, and elements that it has to be told of.
_KNOWN = (
    "src_host dst_host src_port dst_port proto tos vlan in_iface out_iface src_mac dst_mac "
    "timestamp_start timestamp_end sampling_rate sampling_direction export_proto_sysid flows"
)
_TOLD = {
    "tcpControlBits": (6, 2), "flowEndReason": (136, 1), "ipDiffServCodePoint": (195, 1),
    "dot1qCustomerVlanId": (245, 2), "layer2OctetDeltaCount": (352, 8), "icmpTypeCodeIPv4": (32, 2),
    "icmpTypeCodeIPv6": (139, 2), "samplingInterval": (34, 4), "flowDirection": (61, 1),
}  # fmt: skip


class Nfacctd(Server):
    """
    pmacct's collector, which writes what it has once a second.

    Args:
        directory: For its configuration, what it keeps, and its log.
    """

    def __init__(self, directory: Path) -> None:
        self.port = free_port(socket.SOCK_DGRAM)
        self.target = f"127.0.0.1:{self.port}"
        self._kept = directory / "kept.json"
        primitives = directory / "primitives"
        primitives.write_text(
            "".join(
                f"name={name} field_type={number} len={octets} semantics=u_int\n"
                for name, (number, octets) in _TOLD.items()
            )
        )
        aggregate = ",".join([*_KNOWN.split(), *_TOLD])
        configuration = directory / "nfacctd.conf"
        configuration.write_text(
            f"daemonize: false\nnfacctd_ip: 127.0.0.1\nnfacctd_port: {self.port}\n"
            f"plugins: print[it]\naggregate[it]: {aggregate}\nprint_output[it]: json\n"
            f"print_output_file[it]: {self._kept}\nprint_refresh_time[it]: 1\n"
            f"aggregate_primitives: {primitives}\ntimestamps_utc: true\n"
            "print_output_file_append: true\nplugin_pipe_size: 8388608\n"
        )
        super().__init__(
            [program("nfacctd", "pmacct"), "-f", str(configuration)], directory / "nfacctd.log"
        )

    def _is_ready(self) -> bool:
        # Its plugin is another process, which loses what comes before it is ready.
        said = ("waiting for NetFlow/IPFIX data", "setting object handlers")
        return all(map(self._says, said))

    def flows(self, expected: int) -> list[dict[str, Any]]:
        """What it has written, once a second, when it is so many or more; in no order."""

        def kept() -> list[str]:
            return self._kept.read_text().splitlines(keepends=True) if self._kept.exists() else []

        wait_until(
            lambda: sum(line.endswith("\n") for line in kept()) >= expected, "all flows are kept"
        )
        return [json.loads(line) for line in kept()]
