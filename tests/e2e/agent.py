"""The real agent as a process, and what it printed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

from exporter.status import RUN_DIRECTORY, ask
from tests import patience
from tests.e2e.net import Netns
from tests.patience import wait_until

__all__ = ["PROGRAM", "Agent", "wait_until"]

PROGRAM = str(Path(sys.executable).with_name("flow-exporter"))
#: A quarter of the default, for some ten thousand flows: the kernel takes and clears all of it
#: before anything is captured. Files and flags may say otherwise by ``max_flows``.
_ENVIRONMENT = {"FLOW_EXPORTER_CAPTURE__FLOW_MEMORY": "16MiB"}


class Agent:
    """
    ``flow-exporter run`` in a namespace.

    Its records go to a file, its log to another; ``stop`` ends it as Ctrl-C does.
    """

    def __init__(
        self,
        netns: Netns | None,
        directory: Path,
        *arguments: str,
        program: Sequence[str] = (PROGRAM,),
    ) -> None:
        self._netns = netns
        self._output = directory / "agent.out"
        self._log = directory / "agent.log"
        command = [*program, "run", *arguments]
        with self._output.open("wb") as out, self._log.open("wb") as err:
            self.process = subprocess.Popen(
                netns.command(*command) if netns else command, stdout=out, stderr=err,
                env={**_ENVIRONMENT, **os.environ},
            )  # fmt: skip

    def __enter__(self) -> Self:
        wait_until(lambda: "capturing on" in self.log or self.ended, "the agent captures")
        assert not self.ended, self.log
        return self

    def __exit__(self, *_: object) -> None:
        if not self.ended:
            self.process.kill()
            self.process.wait()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def log(self) -> str:
        return self._log.read_text()

    def says(self, text: str) -> bool:
        """Whether the log has it."""
        return text in self.log

    def records(self) -> list[dict[str, Any]]:
        # Without a last line that is still being written.
        lines = self._output.read_bytes().rpartition(b"\n")[0].splitlines()
        return [json.loads(line) for line in lines]

    def packets(self) -> int:
        return sum(record["flow"]["packets"] for record in self.records())

    def ledger(self) -> dict[str, Any]:
        done = subprocess.run(
            [PROGRAM, "ledger", "--json", "--pid", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        ledger: dict[str, Any] = json.loads(done.stdout)
        return ledger

    def metrics(self) -> dict[str, float]:
        """What it serves at 127.0.0.1:9401: ``name{labels}`` -> value."""
        text = self._fetch("/metrics")
        rows = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in rows}

    def drains(self) -> int:
        """How often it has drained."""
        metrics = self.metrics().items()
        return int(sum(n for name, n in metrics if name.startswith("flow_exporter_drains_total")))

    def _fetch(self, path: str) -> str:
        with self._netns.entered() if self._netns else nullcontext():
            connection = http.client.HTTPConnection("127.0.0.1", 9401, timeout=10 * patience.FACTOR)
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def wait_drained(self) -> dict[str, Any]:
        """Wait until nothing is left in the kernel or in a queue; the ledger then."""

        def idle() -> bool:
            # Without a process for each question.
            ledger = json.loads(ask(RUN_DIRECTORY / f"{self.process.pid}.sock", "/ledger"))
            pending = sum(sink["pending"]["flows"] for sink in ledger["sinks"].values())
            return bool(ledger["held_in_kernel"]["packets"] == 0 and pending == 0)

        wait_until(idle, "everything is drained and delivered")
        return self.ledger()

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(patience.LONGEST)

    def summary(self) -> dict[str, int]:
        """The last line that it printed: flows, packets, octets, lost."""
        line = next(line for line in self.log.splitlines()[::-1] if line.startswith("flows:"))
        words = line.replace(":", "").split()
        return {name: int(value) for name, value in zip(words[:8:2], words[1:8:2], strict=True)}
