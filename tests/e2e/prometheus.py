"""A real Prometheus, which scrapes within a namespace, and promtool."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests import patience
from tests.conftest import missing
from tests.e2e.net import Netns
from tests.servers import Server, free_port

#: Where tools/setup-prometheus.sh puts it.
_CACHE = Path(
    os.environ.get("TEST_PROMETHEUS_CACHE", Path.home() / ".cache" / "flow-exporter" / "prometheus")
)
#: Within a namespace, where nobody else is.
_PORT = 9490
_CONFIG = """\
global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}
scrape_configs:
  - job_name: flows
    static_configs: [{{targets: [{targets}], labels: {labels}}}]
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


class Prometheus(Server):
    """
    The server, as a process that can be killed; what it has scraped stays in a directory.

    Args:
        netns: Where it runs; here if ``None``. What it serves is at 127.0.0.1 there.
        directory: For its data, configuration and log.
        targets: ``host:port`` of what it scrapes.
        labels: That all series of them get.
        interval: Between scrapes, and how long one may take.
    """

    def __init__(
        self,
        netns: Netns | None,
        directory: Path,
        *targets: str,
        labels: Mapping[str, str] | None = None,
        interval: str = "200ms",
    ) -> None:
        self._netns = netns
        self._port = _PORT if netns else free_port()
        directory.mkdir()
        config = directory / "prometheus.yml"
        quoted = ", ".join(f"'{target}'" for target in targets)
        own = json.dumps(labels or {})
        config.write_text(_CONFIG.format(targets=quoted, labels=own, interval=interval))
        command = [
            tool("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={directory}/data",
            f"--web.listen-address=127.0.0.1:{self._port}", "--log.level=warn",
        ]  # fmt: skip
        command = netns.command(*command) if netns else command
        environment = {**os.environ, "GOMAXPROCS": "1"}
        super().__init__(command, directory / "log", environment=environment)

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

    def values(self, series: str, label: str) -> set[str]:
        """Of a label of some series."""
        answer = json.loads(self._get(f"/api/v1/label/{label}/values?match[]={quote(series)}"))
        assert answer["status"] == "success", answer
        return set(answer["data"])

    def _is_ready(self) -> bool:
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
