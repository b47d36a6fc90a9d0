"""``flow-exporter replay`` as people run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import patience
from tests.packets.flow import Counts, Key, Reading, from_records

COMMAND = Path(sys.executable).with_name("flow-exporter")
#: Variables that would change what the command does.
_OURS = ("FLOW_EXPORTER_", "EXPORT", "TARGET_", "FLOWS_TARGET_", "KAFKA_")


@dataclass(frozen=True)
class Replayed:
    """
    What the command did.

    Args:
        code: Its exit code.
        records: The JSON objects on standard output.
        summary: The numbers on standard error, by their words; empty if there are none.
        errors: The other lines on standard error.
    """

    code: int
    records: list[dict[str, Any]]
    summary: dict[str, int]
    errors: list[str]

    def flows(self) -> dict[Key, Counts]:
        """The records of the ``otel`` schema as flows."""
        return from_records(self.records)

    def reading(self) -> Reading:
        """What it says that the capture holds."""
        summary = self.summary
        return Reading(
            summary["frames"], summary["not IP"], summary["malformed"], flows=self.flows()
        )


def replay(path: Path, *arguments: str) -> Replayed:
    """Run it on a file."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_OURS)}
    done = subprocess.run(
        [COMMAND, "replay", *arguments, path],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=60 * patience.FACTOR,
    )
    lines = done.stderr.splitlines()
    summaries = [line for line in lines if line.startswith("frames: ")]
    assert len(summaries) <= 1, done.stderr
    return Replayed(
        code=done.returncode,
        records=[json.loads(line) for line in done.stdout.splitlines()],
        summary={
            name: int(number)
            for line in summaries
            for name, number in re.findall(r"([A-Za-z ]+): (\d+)(?:  |$)", line)
        },
        errors=[line for line in lines if line not in summaries],
    )
