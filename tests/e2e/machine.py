"""A real systemd as process 1 of a container, with this machine's /usr and nothing else of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import patience
from tests.conftest import missing
from tests.e2e.net import Netns
from tests.patience import wait_until

_CGROUPS = Path("/sys/fs/cgroup")
#: What the agent needs beyond what a container of systemd-nspawn has by default.
_GRANTED = ("--capability=CAP_BPF,CAP_PERFMON,CAP_NET_ADMIN", "--system-call-filter=bpf")
_GRANTED_TOO = "--system-call-filter=perf_event_open"


@dataclass(frozen=True)
class Machine:
    """One that has booted; ``leader`` is its process 1, as seen from here."""

    leader: int

    @property
    def root(self) -> Path:
        """Its files."""
        return Path(f"/proc/{self.leader}/root")

    def run(self, *command: str) -> str:
        """Run a command in it; its standard output. What goes wrong is the test's error."""
        done = self.attempt(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        enter = ("nsenter", f"--target={self.leader}", "--mount", "--pid", "--uts", "--ipc")
        return subprocess.run((*enter, *command), capture_output=True, text=True, check=False)

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        text = self.run("systemctl", "show", unit, f"--property={','.join(names)}")
        return dict(line.split("=", 1) for line in text.splitlines())

    def log(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")


@contextmanager
def booted(
    netns: Netns, target: str, files: Mapping[Path, str], writable: Mapping[Path, str] | None = None
) -> Iterator[Machine]:
    """
    Boot a machine in a network namespace.

    Args:
        netns: Where it is.
        target: The unit that is started, with all that it requires.
        files: What it has, read-only: a file or a directory here -> its path there.
        writable: The same, of what it can write to.
    """
    if shutil.which("systemd-nspawn") is None or not Path("/usr/lib/systemd/systemd").exists():
        missing("systemd-nspawn: tools/setup-image.sh installs it")
    binds = [f"--bind-ro={here}:{there}" for here, there in files.items()]
    binds += [f"--bind={here}:{there}" for here, there in (writable or {}).items()]
    command = [
        "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--directory=/",
        "--volatile=yes", "--boot", f"--machine={netns.name}", "--resolv-conf=off",
        "--timezone=off", "--link-journal=no", "--console=pipe",
        f"--network-namespace-path={netns.path}", *_GRANTED, _GRANTED_TOO, *binds,
        "--", f"--unit={target}",
    ]  # fmt: skip
    with _own_cgroups(netns.name) as groups:
        process = _start(command, groups)
        try:
            yield Machine(_leader(process))
        finally:
            process.kill()
            process.communicate()


def _start(command: Sequence[str], groups: Sequence[Path]) -> subprocess.Popen[str]:
    """Within the groups from the start: nspawn makes others below its own."""
    enter = 'for group; do shift; [ "$group" != -- ] || break; echo $$ >"$group/cgroup.procs"; done'
    words = ["sh", "-ec", f'{enter}; exec "$@"', "sh", *map(str, groups), "--", *command]
    return subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _leader(process: subprocess.Popen[str]) -> int:
    """The child that is process 1 of its own namespace and has become systemd."""
    found: list[int] = []

    def is_there() -> bool:
        if process.poll() is not None:
            assert process.stdout is not None
            missing(f"a kernel on which systemd boots: {process.stdout.read().strip()}")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in map(int, children):
            name = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0]
            if name.endswith(b"/systemd"):
                found.append(child)
        return bool(found)

    wait_until(is_there, "systemd is started")
    machine = Machine(found[0])
    wait_until(
        lambda: (
            machine.attempt("systemctl", "is-system-running").stdout.strip()
            in ("running", "degraded")
        ),
        "systemd has started everything",
        2 * patience.LONGEST,
    )
    return found[0]


@contextmanager
def _own_cgroups(name: str) -> Iterator[list[Path]]:
    """A group in each hierarchy that systemd uses, gone afterwards with what is below it."""
    roots = [_CGROUPS, _CGROUPS / "unified", _CGROUPS / "systemd"]
    made = []
    for root in roots:
        if (root / "cgroup.procs").exists():
            group = root / name
            try:
                group.mkdir()
            except OSError as err:
                missing(f"control groups that can be made: {err}")
            made.append(group)
    try:
        yield made
    finally:
        wait_until(lambda: all(_removed(group) for group in made), "the control groups are empty")


def _removed(group: Path) -> bool:
    for directory, _, _ in os.walk(group, topdown=False):
        for line in (Path(directory) / "cgroup.procs").read_text().split():
            os.kill(int(line), signal.SIGKILL)
        try:
            Path(directory).rmdir()
        except OSError:
            return False
    return True
