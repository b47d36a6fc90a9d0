"""
A guest beside the tests of this machine: a process of its own, whose results are read at the end.

``python -m tests.kernels.boot SERIES RESULTS`` fetches the kernel, boots it and writes
``boot.json`` when it has powered off. It is nice: what others leave of the processors is its.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from tests.kernels.guest import ROOT, Guest
from tests.kernels.images import KERNELS, CannotFetch, fetch

#: Seconds for one guest. With both cores busy otherwise, 900 have not been enough.
PATIENCE = float(os.environ.get("TEST_KERNELS_TIMEOUT", "1800"))
_NICE = 5


@dataclass(frozen=True)
class Ended:
    """
    How it went.

    Args:
        console: What the guest printed; until it was given up, if it was.
        seconds: From start to power-off.
        lacking: What was not to be had, if it was not booted at all.
        problem: Why it was given up; empty if it was not.
    """

    console: str = ""
    seconds: float = 0.0
    lacking: str = ""
    problem: str = ""


class Boot:
    """
    A guest that has been started and is not waited for.

    Args:
        series: Of the kernel.
        results: A directory that is there and empty.
    """

    def __init__(self, series: str, results: Path) -> None:
        self.results = results
        self._log = results / "boot.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.kernels.boot", series, str(results)],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def wait(self) -> Ended:
        """Once it has ended."""
        code = self._process.wait()
        assert code == 0, f"exit code {code}: {self._log.read_text()}"
        return Ended(**json.loads((self.results / "boot.json").read_text()))

    def kill(self) -> None:
        """End it with everything below it. Again is fine."""
        self._process.terminate()
        self._process.wait()


def _terminated(*_: object) -> NoReturn:
    # Guest.run ends its virtual machine on the way out.
    sys.exit(1)


def _boot(series: str, results: Path) -> Ended:
    kernel = next(kernel for kernel in KERNELS if kernel.series == series)
    try:
        image = fetch(kernel)
    except CannotFetch as err:
        return Ended(lacking=str(err))
    began = time.monotonic()
    try:
        console = Guest(image, results).run(
            "python", "-m", "tests.kernels.inside", str(results), timeout=PATIENCE
        )
    except TimeoutError as err:
        return Ended(problem=str(err), seconds=time.monotonic() - began)
    return Ended(console, time.monotonic() - began)


def main() -> None:
    """Boot one kernel."""
    series, results = sys.argv[1], Path(sys.argv[2])
    signal.signal(signal.SIGTERM, _terminated)
    os.nice(_NICE)
    ended = _boot(series, results)
    (results / "boot.json").write_text(json.dumps(asdict(ended)))


if __name__ == "__main__":
    main()
