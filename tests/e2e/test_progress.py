"""``replay`` says how far it is: to a person, and to nobody else."""

from __future__ import annotations

import os
import pty
import subprocess
import threading
from pathlib import Path

import pytest

from tests.arch.source import ROOT
from tests.e2e.agent import PROGRAM

#: Classic pcap: 24 octets of header, then packets, each with 16 before it.
CAPTURES = ROOT / "tests" / "packets" / "captures"
PACKETS = 5000


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture that is large enough for the bar to move; rich would read its name as markup."""
    whole = (CAPTURES / "udp_sctp.pcap").read_bytes()
    length = int.from_bytes(whole[24 + 8 : 24 + 12], "little")
    packet = whole[24 : 24 + 16 + length]
    file = tmp_path_factory.mktemp("captures") / "[red]many.pcap"
    file.write_bytes(whole[:24] + PACKETS * packet)
    return file


def replayed(*arguments: str) -> tuple[int, bytes, str]:
    """Exit code, standard output into a pipe, and what a terminal shows of standard error."""
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        # The terminal's end is an error once nobody holds the other side.
        try:
            while some := os.read(ours, 65536):
                shown.append(some)
        except OSError:
            return

    reader = threading.Thread(target=read)
    reader.start()
    done = subprocess.run(
        [PROGRAM, "replay", *arguments], stdout=subprocess.PIPE, stderr=theirs, check=False,
        env={"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "80", "LANG": "C.UTF-8"},
    )  # fmt: skip
    os.close(theirs)
    reader.join()
    os.close(ours)
    return done.returncode, done.stdout, b"".join(shown).decode()


def test_on_a_terminal(capture: Path) -> None:
    """A bar with what was read and how fast, which goes away; the records are as ever."""
    code, out, shown = replayed(str(capture))
    assert code == 0, shown
    assert capture.name in shown
    assert "4,096 packets, " in shown
    assert "/s" in shown
    assert "%" in shown
    # The last thing on the terminal is the line with the sums, the bar's line was erased.
    assert "\x1b[2K" in shown
    assert shown.splitlines()[-1].removeprefix("\x1b[1A\x1b[2K").startswith(f"frames: {PACKETS}")
    assert out.count(b"\n") == 1
    assert b"\x1b" not in out


def test_quiet(capture: Path) -> None:
    """Nothing is said, also on a terminal."""
    code, out, shown = replayed("--quiet", str(capture))
    assert (code, shown) == (0, "")
    assert out.count(b"\n") == 1


def test_in_a_pipe(capture: Path) -> None:
    """The line with the sums and no bar."""
    done = subprocess.run(
        [PROGRAM, "replay", str(capture)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"frames: {PACKETS}  flows: 1  packets: {PACKETS} ")


def test_quiet_says_what_went_wrong(capture: Path, tmp_path: Path) -> None:
    """A damaged file is one line and a failure, quiet or not."""
    damaged = tmp_path / "damaged.pcap"
    damaged.write_bytes(capture.read_bytes()[:-3])
    code, _, shown = replayed("--quiet", str(damaged))
    assert code == 1
    assert "the file ends within" in shown
