"""
NetObserv's flowlogs-pipeline, which writes what it decoded to standard output.

Built by tools/setup-flp.sh: the real one, with its own ingest stages and decoder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import missing
from tests.e2e.net import Netns
from tests.servers import Server


def binary() -> Path:
    """The program; what would be shown is missing without it."""
    cache = os.environ.get("TEST_FLP_CACHE")
    directory = Path(cache) if cache else Path.home() / ".cache" / "flow-exporter" / "flp"
    if not (directory / "flowlogs-pipeline").exists():
        missing("NetObserv's flowlogs-pipeline: run tools/setup-flp.sh, which needs Go")
    return directory / "flowlogs-pipeline"


class Flp(Server):
    """
    The process.

    Args:
        directory: For its files.
        ingest: Of the first stage, as its configuration has it.
        netns: Where it runs; here if ``None``.
        port: TCP port that it listens on once it is ready; it listens on none if ``None``.
    """

    def __init__(
        self,
        directory: Path,
        ingest: Mapping[str, Any],
        netns: Netns | None = None,
        port: int | None = None,
    ) -> None:
        self._netns = netns
        self._port = port
        config = directory / "flp.yaml"
        config.write_text(yaml.safe_dump(_config(ingest)))
        command = [str(binary()), "--config", str(config)]
        command = netns.command(*command) if netns else command
        super().__init__(command, directory / "flp.log")

    def flows(self) -> list[dict[str, Any]]:
        """What it wrote, a flow each; a line that is still being written is left out."""
        lines = self.log.rpartition("\n")[0].splitlines()
        # Its configuration, which it writes first, has one more line after each brace.
        return [json.loads(line) for line in lines if line.startswith('{"')]

    def _is_ready(self) -> bool:
        if self._port is None:
            return True
        with self._netns.entered() if self._netns else nullcontext():
            tables = [Path(f"/proc/thread-self/net/{name}") for name in ("tcp", "tcp6")]
            listening = f":{self._port:04X} "
            rows = [row for table in tables for row in table.read_text().splitlines()]
        return any(listening in row and " 0A " in row for row in rows)


def _config(ingest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "log-level": "info",
        # Or it listens on a port for its own metrics.
        "metricsSettings": {"disableGlobalServer": True},
        "pipeline": [{"name": "ingest"}, {"name": "write", "follows": "ingest"}],
        "parameters": [
            {"name": "ingest", "ingest": dict(ingest)},
            {"name": "write", "write": {"type": "stdout", "stdout": {"format": "json"}}},
        ],
    }
