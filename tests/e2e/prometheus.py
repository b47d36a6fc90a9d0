"""A real Prometheus, which scrapes within a namespace, and promtool."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from tests import patience
from tests.conftest import missing
from tests.e2e.agent import wait_until
from tests.e2e.net import Netns
from tests.wire.stream_collector import free_port

#: Where tools/setup-prometheus.sh puts it.
_CACHE = Path(
    os.environ.get("TEST_PROMETHEUS_CACHE", Path.home() / ".cache" / "flow-exporter" / "prometheus")
)
#: Within a namespace, where nobody else is.
_PORT = 9490
_CONFIG = """\
global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs:
  - job_name: flows
    static_configs: [{{targets: [{targets}]}}]
"""


def tool(name: str) -> str:
    """``prometheus`` or ``promtool``; skips without it."""
    path = _CACHE / name
    if not path.exists():
        missing(f"{path}: tools/setup-prometheus.sh fetches it")
    return str(path)


def check_metrics(text: str) -> str:
    """What promtool finds wrong with an exposition; fails if it is not one."""
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=text, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stdout + done.stderr
    return done.stdout + done.stderr


class Prometheus:
    """
    The server, as a process that can be killed; what it has scraped stays in a directory.

    Args:
        netns: Where it runs; here if ``None``. What it serves is at 127.0.0.1 there.
        directory: For its data, configuration and log.
        targets: ``host:port`` of what it scrapes.
    """

    def __init__(self, netns: Netns | None, directory: Path, *targets: str) -> None:
        self._netns = netns
        self._port = _PORT if netns else free_port(socket.SOCK_STREAM)
        directory.mkdir()
        config = directory / "prometheus.yml"
        config.write_text(_CONFIG.format(targets=", ".join(f"'{target}'" for target in targets)))
        command = [
            tool("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={directory}/data",
            f"--web.listen-address=127.0.0.1:{self._port}", "--log.level=warn",
        ]  # fmt: skip
        self._command = netns.command(*command) if netns else command
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start, or start again, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env={**os.environ, "GOMAXPROCS": "1"}
            )
        wait_until(self._is_ready, "Prometheus answers")

    def kill(self) -> None:
        """As a machine that loses power."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def query(
        self, expression: str, at: float | None = None
    ) -> dict[frozenset[tuple[str, str]], float]:
        """
        An instant query: labels without the target's and the name -> value; now, or as it was at a
        Unix time.
        """
        time = "" if at is None else f"&time={at:.3f}"
        answer = json.loads(self._get(f"/api/v1/query?query={quote(expression)}{time}"))
        assert answer["status"] == "success", answer
        own = ("__name__", "job", "instance")
        return {
            frozenset((k, v) for k, v in one["metric"].items() if k not in own): float(
                one["value"][1]
            )
            for one in answer["data"]["result"]
        }

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        try:
            return "Ready" in self._get("/-/ready")
        except OSError:
            return False

    def _get(self, path: str) -> str:
        with self._netns.entered() if self._netns else nullcontext():
            connection: Any = http.client.HTTPConnection(
                "127.0.0.1", self._port, timeout=10 * patience.FACTOR
            )
            connection.connect()
        try:
            connection.request("GET", path)
            return str(connection.getresponse().read().decode())
        finally:
            connection.close()
